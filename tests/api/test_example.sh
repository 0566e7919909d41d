#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The example program of the C interface, built against the shared library alone.
. "$(dirname "$0")/../cli/lib.sh"
example=$(dirname "$program")/examples/example_embed
"$example" >out 2>err
check "usage: 2" test $? = 2
"$example" nowhere.pt MKV >out 2>err
check "missing model: 1 and a message" bash -c "test $? = 1 && grep -q nowhere.pt err"
need_goldens
"$example" "$goldens/esm2/t3_d128_h2/model.pt" MKTAYIAKQR mktayiakqr GSHMRYLL >out 2>err
check "runs" test $? = 0
check "equal proteins are equal, others are not" python3 - <<'PY'
m = [[float(x) for x in l.split()] for l in open("out")]
assert m[0][1] == 1 and m[0][0] == 1 and m[0][2] < 0.99999, m
PY
finish
