#!/usr/bin/env bash
# Fuzzes the code that reads foreign bytes, with the compiled part instrumented by clang (coverage, AddressSanitizer) in
# build/fuzz, which git ignores. Fails at the first finding, which it leaves in a file fuzz-TARGET-...
#
#   bash tests/hostile/fuzz.sh              every target for a minute
#   bash tests/hostile/fuzz.sh 600 replies  one, for ten
#   CLANG=clang-14 bash tests/hostile/fuzz.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$PWD/build/fuzz
seconds=${1:-60}
targets=("${@:2}")
if [[ ${#targets[@]} == 0 ]]; then
  for file in tests/hostile/fuzz/*.py; do
    name=$(basename "$file" .py)
    [[ $name == __main__ ]] || targets+=("$name")
  done
fi
export CC=${CLANG:-clang} LDSHARED="${CLANG:-clang} -shared" CACHEBOX_SANITIZE=address,fuzzer-no-link
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PREFER_BINARY=1

[[ -x $place/bin/python ]] || "${PYTHON:-python3}" -m venv "$place"
"$place/bin/pip" install -q "setuptools>=77" "cython>=3.3,<4" atheris msgpack "redis>=8"
"$place/bin/python" setup.py -q build --build-base "$place/objects" --build-lib "$place/lib"

site=$("$place/bin/python" -c "import sysconfig; print(sysconfig.get_path('platlib'))")
export LD_PRELOAD=$site/asan_with_fuzzer.so PYTHONPATH=$place/lib PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0
for target in "${targets[@]}"; do
  echo "--- $target: $seconds s"
  "$place/bin/python" tests/hostile/fuzz "$target" "$seconds"
done
