#!/usr/bin/env bash
# Looks for data races with ThreadSanitizer: the tests of threads, with the compiled part and a free-threaded CPython built
# for it. Fails at the first finding. The first time it builds that CPython from Debian's source package, which takes a
# quarter of an hour on two cores. All is kept in build/races, which git ignores. Needs clang.
#
#   bash tests/hostile/races.sh                         all tests of threads
#   bash tests/hostile/races.sh tests/cache/test_threads.py   only that
#   CLANG=clang-19 bash tests/hostile/races.sh          with that compiler
#   PYTHON=.../python3 bash tests/hostile/races.sh      with a CPython configured --disable-gil --with-thread-sanitizer
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$PWD/build/races
export CC=${CLANG:-clang} LDSHARED="${CLANG:-clang} -shared -pthread" CACHEBOX_SANITIZE=thread
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PREFER_BINARY=1

build_python() {                    # from the mirror that this machine uses, of a suite that has 3.13
  local work sources=/etc/apt/sources.list.d/debian.sources
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  awk '/^URIs:/ && !seen++ { print "Types: deb-src"; print; print "Suites: trixie\nComponents: main" }
       /^Signed-By:/ && !signed++ { print }' "$sources" >"$work/src.sources"
  mkdir -p "$work/lists/partial" "$work/src"
  local apt=(apt-get -qq -o "Dir::Etc::sourcelist=$work/src.sources" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::Lists=$work/lists")
  "${apt[@]}" update
  (cd "$work" && "${apt[@]}" source --download-only python3.13)
  tar -xf "$work"/python3.13_*.orig.tar.xz -C "$work/src" --strip-components=1
  cd "$work/src"
  ./configure --quiet --disable-gil --with-thread-sanitizer --prefix="$place/python" OPT="-O1 -g"
  TSAN_OPTIONS=report_bugs=0 make -s -j"$(nproc)"
  TSAN_OPTIONS=report_bugs=0 make -s install
  cp Tools/tsan/supp*free*threading.txt "$place/python/suppressions.txt"
}

mkdir -p "$place"
if [[ -z ${PYTHON:-} && ! -x $place/python/bin/python3 ]]; then
  (build_python) >"$place/python.log" 2>&1 || { tail -n 30 "$place/python.log" >&2; exit 1; }
fi

python=${PYTHON:-$place/python/bin/python3}
tests=("$@")
if [[ $# == 0 ]]; then
  tests=(tests/cache/test_{threads,sweeper,linearizable,cache_atomic,memory_safety}.py)
  tests+=(tests/loading/test_{single_flight,refresh,left_loops,own_flight}.py)
  tests+=(tests/hostile/test_{random_programs,threads_go_on}.py)
  tests+=(tests/engine/test_policies.py tests/calls/test_{cached,cached_many,lru_cache,control}.py)
fi

[[ -x $place/env/bin/python ]] || "$python" -m venv "$place/env"
TSAN_OPTIONS=report_bugs=0
export TSAN_OPTIONS
"$place/env/bin/pip" install -q "setuptools>=77" "cython>=3.3,<4" "pytest>=8.3" "hypothesis>=6.120"
"$place/env/bin/python" setup.py -q build --build-base "$place/objects" --build-lib "$place/lib" egg_info --egg-base "$place/lib"
# Processes that tests start find it too, whatever environment they get.
echo "$place/lib" >"$("$place/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/cachebox.pth"

# What CPython itself races with is known there; tests/hostile/races.txt has what is ours, and why it is none.
cat "$(dirname "$("$python" -c 'import sys; print(sys.executable)')")/../suppressions.txt" tests/hostile/races.txt \
  >"$place/suppressions.txt" 2>/dev/null || cp tests/hostile/races.txt "$place/suppressions.txt"
TSAN_OPTIONS="suppressions=$place/suppressions.txt exitcode=99 history_size=4 halt_on_error=0"
ulimit -s 65536                     # instrumented code takes more of the stack, and some tests recurse deeply
"$place/env/bin/python" -c "import cachebox, sys; assert cachebox.__file__.startswith('$place') and not sys._is_gil_enabled()"
"$place/env/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}"
