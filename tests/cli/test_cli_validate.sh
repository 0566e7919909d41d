#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# model validate: each precision against fp32 on given sequences, the verdict kept and used by
# --precision auto, for this model only.
. "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME=$scratch/cache
mini=$source_dir/models/virnucpro-mini.safetensors
python3 - >in.fa <<'PY'
import random
r = random.Random(4)
for i in range(2500):
    print(f">r{i}\n" + "".join(r.choices("ACGT", k=150)))
PY
printf '>p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ\n>q\nMSILVTRPSPAGEELVSRLR\n' >p.faa
expect "no sequences" 2 "no sequences" model validate --models "$mini"
expect "model and models" 2 "one encoder alone" model validate in.fa --model a --models b
expect "no such precision" 2 "no precision" model validate in.fa --precision fp61
expect "input that is not there" 66 "nothing.fa" model validate nothing.fa --models "$mini" --precision bf16
expect "before: auto is the default" 0 "" predict in.fa -o before --models "$tiny" --device cpu
check "and says so" grep -q 'precision fp32 (auto: fp32 on CPUs' before/run.log
check "and makes no cache folder" test ! -e "$XDG_CACHE_HOME"
expect "fp32 with itself" 2 "nothing to compare" model validate in.fa --models "$mini" --precision fp32
expect "none of those named is there" 69 "fp32" model validate in.fa --models "$tiny" --device cpu --frames 9 --precision fp8,fp16
printf '>one\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ\n' >one.faa
"$(dirname "$program")/tools/make-random-model" esm2-hf esm --esm 1,32,2 >/dev/null
expect "one sequence" 65 "but one" model validate one.faa --model esm --device cpu
expect "one frame asked for" 2 "2 frames are the least" model validate in.fa --models "$tiny" --device cpu --frames 1
expect "a precision that is not there" 69 "not in int8" model validate in.fa --models "$tiny" --device cpu --precision int8
check "is told before fp32 is computed" test "$(grep -c "sequences in" err)" = 0
expect "a bundle where one encoder is wanted" 78 "models is a bundle" model validate in.fa --model "$tiny" --device cpu
for s in TERM XCPU; do # nothing to finish: one signal ends it
  "$program" model validate in.fa --models "$mini" --device cpu --threads 1 >out 2>err </dev/null &
  pid=$!
  for i in $(seq 100); do grep -q "models " err && break; sleep 0.05; done
  kill -$s $pid
  wait $pid
  check "SIG$s ends it" test $? = $((128 + $(kill -l $s)))
  check "SIG$s: nothing is kept" test ! -e "$XDG_CACHE_HOME"
done
expect "protein where DNA is wanted" 65 "looks like protein" model validate p.faa --models "$tiny" --device cpu
expect "validate" 0 "" model validate in.fa --models "$tiny" --device cpu --json
cp out validate.json
check "what is not there is said" grep -q "not on this device:.*fp8" out
check "models and times are told" grep -q "fp32 on cpu.* sequences in" err
if python3 - validate.json <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
names = {r["name"] for r in rows if "passes" in r}
sys.exit("bf16" not in names)
PY
then
    check "errors, labels, speed, conclusion" python3 - validate.json <<'PY'
import json, sys
rows = json.load(open(sys.argv[1]))
errors = [r for r in rows if "centred_median" in r and r["name"] == "bf16"]
verdict = [r for r in rows if "passes" in r and r["name"] == "bf16"][0]
assert len(errors) == 2, rows
for r in errors:
    assert 0 < r["centred_median"] < 0.2 and r["centred_max"] < 1, r
    assert r["least_cosine"] > 0.99 and r["overflows"] == 0, r
assert verdict["passes"] == (verdict["label_flips_percent"] <= 0.1) and verdict["score_max_difference"] < 0.1
assert rows[-1]["kept"] == 1
PY
    printf 'fp16 0 2000 9 1.5000 1e-1 1e-1\n' >>"$(echo "$XDG_CACHE_HOME"/virnucpro/validated/*)"
    expect "one precision again, twice named" 0 "" model validate in.fa --models "$tiny" --device cpu --precision bf16,bf16
    check "is computed once" test "$(grep -c "^virnucpro: bf16 on" err)" = 1
    check "and leaves the verdict on others" grep -q "^fp16 0 2000 9" "$XDG_CACHE_HOME"/virnucpro/validated/*
    check "one row each, one file" test "$(cat "$XDG_CACHE_HOME"/virnucpro/validated/* | wc -l)" = 3
    sed -i 's/^bf16 .*/bf16 1 2000 1 1.5000 1e-3 1e-3/' "$XDG_CACHE_HOME"/virnucpro/validated/*
    expect "auto takes what has passed" 0 "" predict in.fa -o after --models "$tiny" --device cpu
    check "and says so" grep -q 'precision bf16 (auto: validated, 1 of 2000 labels' after/run.log
    expect "a run begun before the verdict" 0 "was complete|already|complete" predict in.fa -o before --models "$tiny" --device cpu
    check "stays with its precision" grep -q "precision fp32, with which this run began" before/run.log
    expect "anew, it takes the verdict's" 0 "" predict in.fa -o before --models "$tiny" --device cpu --force
    check "and says so" grep -q '"precision": "bf16"' before/summary.json
    expect "a named precision is no auto" 73 "another precision" predict in.fa -o before --models "$tiny" --device cpu --precision fp32
    printf '>a\nGCTGCAGCTGAAGCT\n' >a.fa
    expect "not for another model" 0 "" predict a.fa -o mini --models "$mini" --device cpu
    check "which stays with the default" grep -q 'precision fp32 (auto: fp32 on CPUs' mini/run.log
    expect "few sequences" 0 "" model validate a.fa --models "$mini" --device cpu
    check "are not kept" grep -q "say little" out
    check "yes and no, whole numbers" grep -qE "^  bf16 +(yes|no) +[0-9.]+ +[0-9.]+ +[0-9]+ " out
    expect "an encoder alone" 0 "looks like DNA" model validate in.fa --model esm --device cpu --frames 50
    check "has no labels" test "$(grep -c "label flips" out)" = 0
    sed -i 's/ 1.5000 / 1.1000 /' "$XDG_CACHE_HOME"/virnucpro/validated/*
    expect "a small gain" 0 "" predict a.fa -o gain --models "$tiny" --device cpu
    check "does not replace the default" grep -q 'precision fp32' gain/run.log
    sed -i 's/ 1.1000 / 1.5000 /' "$XDG_CACHE_HOME"/virnucpro/validated/*
    sed -i 's/^bf16 1/bf16 0/' "$XDG_CACHE_HOME"/virnucpro/validated/*
    expect "auto refuses what has failed" 0 "" predict in.fa -o failed --models "$tiny" --device cpu
    check "and stays with the default" grep -q 'precision fp32' failed/run.log
else
    skip "bf16" "this CPU has none"
fi
expect "one encoder of several must be said" 78 "holds" model validate p.faa --model "$mini" --device cpu
finish
