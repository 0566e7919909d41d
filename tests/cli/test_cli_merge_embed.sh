#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# embed --shard I/N and merge: the bytes of one run in every format, from shards in any format; sets
# that do not belong together or are not whole are refused by name.
. "$(dirname "$0")/lib.sh"
"$program" model info "$tiny" >/dev/null 2>&1 || { skip "merge of embed" "no tiny model"; finish; }
need_goldens
model=$goldens/esm2/t3_d128_h2/model.pt
dna=$(ls -d "$goldens"/dnabert_s/* | head -1)

# 700 proteins, some empty, some twice; more than one block and one batch.
python3 - <<'PY'
import random
random.seed(7)
with open("in.faa", "w") as f:
    for i in range(700):
        n = 0 if i % 97 == 5 else random.randint(1, 60)
        s = "".join(random.choice("ACDEFGHIKLMNPQRSTVWY") for _ in range(n))
        f.write(f">p{i} text\n{s if i % 50 else 'MKVLA'}\n")
PY
run() { "$program" embed "$@" -q 2>err </dev/null; }
shards() { # SUFFIX OPTIONS...
  local suffix=$1; shift
  for i in 0 1 2; do run in.faa -o "s$i.$suffix" --model "$model" --shard $i/3 "$@" || return 1; done
}
same() { cmp "$1" "$2" && cmp "$1.ids.tsv" "$2.ids.tsv"; }

for suffix in npy safetensors h5 tsv; do
  check "$suffix: one run" run in.faa -o "one.$suffix" --model "$model"
  check "$suffix: shards" shards $suffix
  expect "$suffix: merge" 0 "700 records" merge s2.$suffix s0.$suffix s1.$suffix -o "all.$suffix"
  check "$suffix: the bytes of one run" same one.$suffix all.$suffix
  expect "$suffix: merged already" 0 "complete already" merge s0.$suffix s1.$suffix s2.$suffix -o "all.$suffix"
done
expect "shards of three formats" 0 "" merge s0.h5 s1.tsv s2.npy -o mixed.safetensors
check "shards of three formats: the same bytes" same one.safetensors mixed.safetensors
expect "from .npy to .h5" 0 "" merge s0.npy s1.npy s2.npy -o other.h5
check "from .npy to .h5: the same bytes" same one.h5 other.h5
expect "status of the merged file" 0 "" status all.npy
check "status of the merged file: complete" grep -q "complete" out

check "every token: one run" run in.faa -o one_none.npy --model "$model" --pool none
rm -f s?.*; check "every token: shards" shards npy --pool none
expect "every token: merge" 0 "" merge s0.npy s1.npy s2.npy -o none.npy
check "every token: the same bytes" same one_none.npy none.npy

rm -f s?.*; check "shards again" shards npy
rm -f all.*
expect "one is missing" 73 "of 3 shards these are missing: 1" merge s0.npy s2.npy -o all.npy
check "one is missing: nothing made" test ! -e all.npy -a ! -e all.npy.run.db
expect "one is not there" 66 "nowhere.npy: cannot open the shard" merge s0.npy nowhere.npy -o all.npy
expect "one is the output" 73 "this shard is the output, too" merge s0.npy s2.npy -o s2.npy --force
check "one is the output: left alone" test -s s2.npy
expect "one is given twice" 73 "s0.npy: shard 0 is given twice" merge s0.npy s0.npy s1.npy -o all.npy
check "a shard of another pooling" run in.faa -o cls.npy --model "$model" --shard 1/3 --pool cls
expect "a shard of another pooling is named" 73 "cls.npy: this shard has another pooling" merge s0.npy cls.npy s2.npy -o all.npy
head -200 in.faa >short.faa
check "a shard of another input" run short.faa -o short.npy --model "$model" --shard 1/3
expect "a shard of another input is named" 73 "short.npy: this shard has another input" merge s0.npy short.npy s2.npy -o all.npy
check "a shard of another model" run in.faa -o dna.npy --model "$dna" --shard 1/3
expect "a shard of another model is named" 73 "dna.npy: this shard has another" merge s0.npy dna.npy s2.npy -o all.npy
expect "no run with the file" 73 "in.faa: no run is with this file" merge s0.npy in.faa s2.npy -o all.npy
mv s1.npy kept.npy
expect "a shard's vectors are gone" 74 "s1.npy" merge s0.npy s1.npy s2.npy -o all.npy
head -c 5000 kept.npy >s1.npy
expect "a shard's vectors are torn" 73 "s1.npy: the vectors end too early" merge s0.npy s1.npy s2.npy -o all.npy
cat kept.npy >s1.npy
printf 'x' >theirs.npy
expect "the output is somebody else's" 73 "theirs.npy: the output exists" merge s0.npy s1.npy s2.npy -o theirs.npy
expect "an output without a suffix" 2 "suffix" merge s0.npy s1.npy s2.npy -o all
expect "after all that" 0 "" merge s0.npy s1.npy s2.npy -o all.npy
check "after all that: the bytes of one run" same one.npy all.npy
rm all.npy
expect "the result was removed" 0 "" merge s0.npy s1.npy s2.npy -o all.npy
check "the result is there again" same one.npy all.npy
VNP_TEST_WORKER_FAULT=slow:1 timeout -s INT 1 "$program" embed in.faa -o s1.npy --model "$model" --shard 1/3 \
  --force --tokens 64 --workers 1 --grace 0 >/dev/null 2>&1
stopped() { "$program" status s1.npy 2>/dev/null | grep -q 'state.*stopped'; }
check "a shard is stopped" stopped
expect "an unfinished shard" 73 "s1.npy: this shard is not finished" merge s0.npy s1.npy s2.npy -o all2.npy
finish
