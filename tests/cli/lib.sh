# SPDX-License-Identifier: MIT
# What the script tests share: TAP lines, expectations on exit code and message, scratch folder.
# usage of a test: bash test_x.sh PROGRAM SOURCE_DIR SCRATCH_DIR
set -u
program=$1 source_dir=$2 scratch=$3
goldens=${VNP_GOLDENS:-$source_dir/../shared/goldens}
compare="python3 $source_dir/tests/cli/compare.py"
tiny=$source_dir/models/virnucpro-random-tiny.safetensors
n_tests=0 n_failed=0
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch" || exit 1
export LC_ALL=C TERM=dumb

# check NAME COMMAND...: ok when the command succeeds.
check() {
  local name=$1
  shift
  n_tests=$((n_tests + 1))
  if "$@" >"$scratch/check.out" 2>&1; then
    echo "ok $n_tests - $name"
  else
    n_failed=$((n_failed + 1))
    echo "not ok $n_tests - $name"
    sed 's/^/# /' "$scratch/check.out" | tail -20
  fi
}
skip() { # NAME REASON
  n_tests=$((n_tests + 1))
  echo "ok $n_tests - $1 # SKIP $2"
}
# vnp ARGS...: runs the program; exit code in $rc, streams in the files out and err.
vnp() {
  "$program" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
  rc=$?
}
# expect NAME EXIT PATTERN ARGS...: exit code, and stderr matches the extended pattern ("" any).
expect() {
  local name=$1 want=$2 pattern=$3
  shift 3
  vnp "$@"
  n_tests=$((n_tests + 1))
  if [ "$rc" = "$want" ] && { [ -z "$pattern" ] || grep -qE -- "$pattern" err; }; then
    echo "ok $n_tests - $name"
  else
    n_failed=$((n_failed + 1))
    echo "not ok $n_tests - $name"
    echo "# exit $rc, wanted $want; pattern: $pattern; command: $*"
    sed 's/^/# /' err | tail -8
  fi
}
# No goldens: one skipped test, or a failure where CI=true; then the script ends.
need_goldens() {
  [ ! -d "$goldens" ] || return 0
  if [ "${CI:-}" = true ]; then
    echo "not ok $((n_tests + 1)) - goldens are missing: $goldens"
  else
    skip "goldens" "no goldens beside the source tree"
  fi
  finish
}
finish() { # TAP's plan; the exit code says whether all went well
  echo "1..$n_tests"
  exit $((n_failed > 0))
}
