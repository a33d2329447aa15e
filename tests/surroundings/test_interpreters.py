"""Other interpreters in the same process: an ImportError that says why, and the main one works on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WAIT = 120.0
SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys
def in_another(program):
    made = interpreters.create()
    try:
        result = interpreters.run_string(made, program)
        assert result is None, result
    finally:
        interpreters.destroy(made)
REFUSED = '''
try:
    import {module}
except ImportError as error:
    assert "main interpreter" in str(error), error
else:
    raise AssertionError("it was imported")
'''
"""


def survives(program):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", SUBINTERPRETER + program + "\nprint('survived')"],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.stdout.strip() == "survived", done.stderr


@pytest.mark.parametrize("module", ["cachebox", "cachebox.cache", "cachebox.policies"])
def test_a_subinterpreter_that_imports_first(module):
    survives(f"""
in_another(REFUSED.format(module="{module}"))
import cachebox
cache = cachebox.Cache(2)
cache.update(a=1, b=2, c=3)
cache._check()
""")


def test_a_subinterpreter_that_imports_later():
    survives("""
import cachebox
cache = cachebox.Cache(2, default_ttl=50)
cache["a"] = 1
for _ in range(3):
    in_another(REFUSED.format(module="cachebox"))
assert cache["a"] == 1
cachebox.cached(lambda x: x)(1)
""")


def test_modules_that_are_imported_again():
    survives("""
import cachebox
old = cachebox.Cache(2)
old["a"] = 1
for name in [name for name in sys.modules if name.startswith("cachebox")]:
    del sys.modules[name]
import cachebox
new = cachebox.Cache(2)
new["a"] = old["a"]
assert dict(new) == dict(old.copy()) == {"a": 1}
""")


def test_an_interpreter_that_is_initialised_again(tmp_path):
    """In a program that embeds Python, the second life of the interpreter gets an error."""
    import shutil
    import sysconfig

    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    library = sysconfig.get_config_var("LIBDIR")
    if shutil.which(compiler) is None or sysconfig.get_config_var("Py_ENABLE_SHARED") != 1:
        pytest.skip("needs a C compiler, and Python as a shared library")
    source = tmp_path / "embedding.c"
    paths = "\\n".join(f"sys.path.append({path!r})" for path in sys.path if path)
    source.write_text(
        f"""
#include <Python.h>
int main(void) {{
    int status = 0, life;
    for (life = 0; life < 2; life++) {{
        Py_Initialize();
        status = PyRun_SimpleString(
            "import sys\\n{paths}\\n"
            "try:\\n    import cachebox\\n    cachebox.Cache(2)['a'] = 1\\n    text = ''\\n"
            "except ImportError as error:\\n    text = str(error)\\n"
            "print('second' if 'initialised anew' in text else text or 'first', flush=True)\\n");
        Py_FinalizeEx();
    }}
    return status;
}}
"""
    )
    program = tmp_path / "embedding"
    config = sysconfig.get_config_vars()
    subprocess.run(
        [
            *(compiler, str(source), "-o", str(program), f"-I{config['INCLUDEPY']}", f"-L{library}"),
            *(f"-lpython{config['LDVERSION']}", f"-Wl,-rpath,{library}"),
        ],
        check=True,
        capture_output=True,
        timeout=WAIT,
    )
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=WAIT, env=environment, check=False)
    assert done.stdout.split() == ["first", "second"], done.stderr
