#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The whole program on a disk that fails at the n-th call: see faults.py.
. "$(dirname "$0")/lib.sh"
shim=$(dirname "$program")/tests/libfault_shim.so
# A sanitizer's runtime wants to be the first library; test_durability makes these faults there.
[ -e "$shim" ] || { skip "faults of the disk" "no shim in a sanitized build"; finish; }
"$program" model info "$tiny" >/dev/null 2>&1 || { skip "faults of the disk" "no tiny model"; finish; }
need_goldens
exec python3 "$source_dir/tests/cli/faults.py" "$program" "$shim" "$scratch" "$source_dir" "$goldens"
