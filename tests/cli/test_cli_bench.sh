#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# bench host, pack and device: tables for people, one JSON list for programs, nothing left behind.
. "$(dirname "$0")/lib.sh"
export TMPDIR=$scratch/tmp
mkdir -p "$TMPDIR"
expect "bench alone says what there is" 0 "" bench
check "it names both" grep -qE '^host .*' out
expect "unknown bench" 2 "no 'bench hots'; did you mean host" bench hots
expect "pack takes no file" 2 "takes no 'a.fa'" bench pack a.fa
expect "size is checked" 2 'out of range' bench host --size 0
expect "pack" 0 "" bench pack --sequences 100000
check "pack has three rows" test "$(grep -cE '^  (reads|windows|proteome)' out)" = 3
expect "pack as JSON" 0 "" bench pack --sequences 200000 --json
check "fill of at least 99.5 %" python3 - out <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
assert len(rows) == 3, rows
for r in rows:
    assert r["fill_percent"] >= 99.5, r
    assert r["million_sequences_per_s"] > 0.5, r  # the bar is 5; this may be a sanitized build
PY
expect "host" 0 "" bench host --size 2 --threads 2 --models "$tiny"
check "host has both inputs and the whole path" test "$(grep -c 'whole path' out)" = 2
expect "host as JSON" 0 "" bench host --size 1 --json --models "$tiny"
check "JSON is sound, the path feeds tokens" python3 - out <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
path = [r for r in rows if "whole path" in r["table"]]
assert len(path) == 2 and path[1]["million_tokens_per_s"] > 0.1, path
PY
printf '>a\nACGTACGTAC\n>b\nGGGTTTACGATCGATCG\n' >a.fa
expect "host over a file" 0 "" bench host a.fa --models "$tiny"
expect "host over a file that is not there" 66 'nothing.fa' bench host nothing.fa --models "$tiny"
expect "host with a model that is not there" 78 'no such model' bench host --models nothing
expect "device" 0 "" bench device --model 8M --device cpu --precision fp32 --seconds 1 --tokens 256 \
    --json
check "rates, products alone, time by op" python3 - out <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
rates = [r for r in rows if "tokens_per_s" in r]
ops = [r for r in rows if "attention" in r]
assert len(rates) == 4 and len(ops) == 3, rows
assert rates[3]["name"] == "products alone" and rates[3]["share_of_products_percent"] == 100
assert all(r["tokens_per_s"] > 0 and r["watts"] is None for r in rates) and all(r["total"] > r["qkv"] > 0 for r in ops)
PY
if [ -z "$(ls /dev/nvidia0 2>/dev/null)" ]; then
    expect "without a GPU: says why" 0 "no GPU used: .*doctor" bench device --model 8M --precision fp32 --seconds 1 \
        --tokens 256
    check "unknown numbers are dashes" grep -qE "^  reads.* -  " out
    expect "a GPU that is not there" 69 "no GPU can be used: .*doctor" bench device --device cuda
fi
expect "device with no such precision" 2 "no precision" bench device --precision fp61
expect "device with a model that is not there" 78 "name 3B, 650M" bench device --model nothing --device cpu
check "temporary files are gone" test -z "$(ls -A "$TMPDIR")"
TMPDIR=$scratch/nowhere expect "temporary folder is not there" 74 'TMPDIR' bench host --models "$tiny"
finish
