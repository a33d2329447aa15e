"""Builds the compiled part. All metadata is in pyproject.toml.

CACHEBOX_SANITIZE=address builds with AddressSanitizer. CACHEBOX_TRACE=1 builds with line tracing, for the coverage of
`.pyx` files. CACHEBOX_DEBUG=1 builds without optimisation, with debug information, bounds checks and Cython's check of
references.
"""

import os
import re
import runpy
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from Cython import __version__ as cython_version
from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = Path("src")
sanitize = os.environ.get("CACHEBOX_SANITIZE")
trace = bool(os.environ.get("CACHEBOX_TRACE"))
debug = bool(os.environ.get("CACHEBOX_DEBUG"))


def check_name():
    """Stop if the other library is installed whose distribution is called `cachebox`: it uses the same folder."""
    installation = runpy.run_path(str(SOURCES / "cachebox" / "_installation.py"))
    for folder in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        package = os.path.join(folder, "cachebox")
        if foreign := installation["foreign_files"](package):
            sys.exit(
                f"{package!r} has files of the distribution 'cachebox' ({', '.join(foreign)}). That is another "
                "library, and cachebox-cython would install the same folder over it. Uninstall it first: "
                "pip uninstall cachebox"
            )


def check_tools():
    """Stop at once, and say what to install, if there is no compiler or no header to compile with."""
    if sys.platform == "win32":
        return                          # setuptools looks for MSVC, and says where to get it
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        sys.exit(
            f"cachebox-cython is compiled here, and the C compiler {compiler!r} is not to be found. Install one (Debian"
            " and Ubuntu: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install), or set CC to yours."
        )
    if not header.exists():
        sys.exit(
            f"cachebox-cython is compiled here, and Python's header {header} is missing. Install Python's headers "
            "(Debian and Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)."
        )


if {"build_ext", "bdist_wheel", "editable_wheel", "build", "install", "develop"} & set(sys.argv):
    check_name()
    check_tools()

# Modules compiled for speed: every get, set, eviction and decorated hit goes through them, as `bench/instructions.py`
# counts. All others are compiled for size, which makes a wheel a quarter smaller. A module is here only if those counts
# say so.
FAST = {
    "_calls/cached_call", "_calls/call_key", "_calls/entry_points", "_engine/auto", "_engine/fifo", "_engine/lfu",
    "_engine/lru", "_engine/shadow", "_engine/table", "_loading/fast_path", "_loading/fetch", "_loading/many",
    "_store/entries", "_store/notices", "_store/operation",
    "_store/state", "_store/store", "_store/tags", "_store/weights",
    "_store/writes", "cache", "distributed/_near/hits",
}
assert all((SOURCES / "cachebox" / f"{name}.pyx").exists() for name in FAST), "FAST names a module that is not there"
# Functions of FAST modules that are compiled for size, because nobody calls them in a loop.
RARE = re.compile(
    r"^((?:PyObject \*|int )__pyx_(?:pw|pf|f)_\w+_\d*(?:__init__|configure|__repr__|_repr_html_|__reduce__|__setstate__"
    r"|_export|_snapshot|_check|invalidate_\w+|warm|resize|dump|explain|forget_receiver|refresh_call|__set_name__|cache_info"
    r"|cache_clear|cache_parameters)\()"
)

link_flags = [f"-fsanitize={sanitize}"] if sanitize else []
if sys.platform == "linux" and not (sanitize or debug):
    # omits names of static functions (a twelfth of the size) and empty pages
    link_flags += ["-Wl,--strip-all", "-Wl,-z,noseparate-code"]
# VECTORCALL_TPNEW: Cython 3.3's faster construction of objects drops references that it never took, if there is no
# memory for the names of its arguments. COMPRESS_STRINGS: a wheel compresses strings better than Cython does.
macros = [("CYTHON_VECTORCALL_TPNEW", "0"), ("CYTHON_COMPRESS_STRINGS", "0")]
macros += [("CYTHON_TRACE", "1")] * trace + [("CYTHON_REFNANNY", "1")] * debug


def flags_for(name):
    """The compiler flags of a module: `name` is its path below the package, without a suffix."""
    if sys.platform == "win32":
        return []                       # setuptools has MSVC optimise (/O2 /GL) already
    speed = "-O3" if name.startswith("_engine/") else "-O2"     # only AUTO is slower with -O2, by a tenth
    flags = [
        speed if name in FAST else "-Os",       # independent of the interpreter's own flags
        "-g0",                          # debug information would be three quarters of a wheel
        "-fvisibility=hidden",
        "-fno-plt",                     # saves a stub for each function of CPython that a module calls
        "-ffp-contract=off",            # numbers are the same on every processor
        "-Wno-unused-function",         # Cython copies the C code in a .pxd into every module that cimports it
        "-Wno-unreachable-code",        # Cython's clean-up labels; CPython on macOS asks for this warning
    ]
    if debug:
        return [*flags, "-O0", "-g"]
    if sanitize:
        return [*flags, "-O1", "-g", f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"]
    # No C++ exceptions pass through, and glibc ends a thread in the middle of a call without these tables.
    return [*flags, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]


def extension(path):
    name = path.relative_to(SOURCES / "cachebox").with_suffix("").as_posix()
    return Extension(
        f"cachebox.{name.replace('/', '.')}",
        [path.as_posix()],
        include_dirs=[(SOURCES / "cachebox").as_posix(), (SOURCES / "cachebox" / "_engine").as_posix()],
        extra_compile_args=flags_for(name),
        extra_link_args=link_flags,
        define_macros=macros,
    )


extensions = [extension(path) for path in sorted(SOURCES.rglob("*.pyx"))]


def mend(path):
    """Mend generated C code: Cython 3.3 assumes that there is always memory left.

    An exception may have no traceback. But `except` drops the reference to it, and `with` puts it into a tuple, as if
    it had one. An item that a list comprehension could not append is dropped twice. This also marks the functions in
    `RARE` for the compiler.
    """
    written = path.read_text()
    is_fast = path.relative_to(Path("build/cython", SOURCES, "cachebox")).with_suffix("").as_posix() in FAST
    functions = written.split("\nstatic ")
    for n, function in enumerate(functions):
        if is_fast and RARE.match(function) and "{" in function.partition(";")[0]:   # not only declared
            function = f"CYTHON_SMALL_CODE {function}"
        for kind, value, traceback in set(re.findall(r"__Pyx_GetException\(&(\w+), &(\w+), &(\w+)\)", function)):
            function = function.replace(f"__Pyx_DECREF({traceback});", f"__Pyx_XDECREF({traceback});")
            function = function.replace(
                f"PyTuple_Pack(3, {kind}, {value}, {traceback})",
                f"PyTuple_Pack(3, {kind}, {value}, {traceback} ? {traceback} : Py_None)",
            )
        if "ListComp_AppendAndDecref(PyObject* list, PyObject* x) {" in function:
            function = function.replace(
                "    Py_DECREF(x);\n    return result;", "    if (result == 0) Py_DECREF(x);\n    return result;"
            )
        functions[n] = function
    mended = "\nstatic ".join(functions)
    if mended != written:
        path.write_text(mended)


modules = cythonize(
    extensions,
    build_dir="build/cython",
    include_path=[SOURCES.as_posix()],
    compiler_directives={
        "language_level": 3,
        "freethreading_compatible": True,
        "auto_pickle": False,           # classes that can be pickled have a `__reduce__`
        "binding": False,
        "boundscheck": debug,
        "wraparound": False,
        "initializedcheck": False,
        "cdivision": True,
        "embedsignature": True,
        "embedsignature.format": "clinic",
        "linetrace": trace,
    },
)
for module in modules:
    for source in module.sources:
        mend(Path(source))

setup(
    ext_modules=[
        *modules,
        Extension(
            "cachebox._platform._interpreter",
            ["src/cachebox/_platform/_interpreter.c"],
            extra_compile_args=flags_for("_platform/_interpreter"),
            extra_link_args=link_flags,
            define_macros=[("CACHEBOX_CYTHON", cython_version), *macros],
        ),
    ],
    options={"build_ext": {"parallel": True}},      # as many compilers as there are processors
)
