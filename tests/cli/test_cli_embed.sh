#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# embed against the reference vectors, in every output format and model format; model info.
. "$(dirname "$0")/lib.sh"
need_goldens
for m in "$goldens"/esm2/*; do
  name=${m##*/} limit=2e-5
  case $name in
    *outlier*) limit=2e-4 ;;
    # Its reference halved the model before widening it, and with it the rotary frequencies; ours
    # are FP32 as the mathematics has them, which alone moves long sequences by 8.5e-4.
    *_fp16) limit=1e-3 ;;
  esac
  model=$m/hf
  [ -e "$m/model.pt" ] && model=$m/model.pt
  expect "$name" 0 "" embed "$m/proteins.faa" -o "$name.npy" --model "$model" -q
  check "$name: within the limit" $compare npy "$name.npy" "$m/mean.npy" $limit
  check "$name: ids" $compare ids "$name.npy.ids.tsv" "$m/proteins.faa"
  if [ -d "$m/hf" ] && [ -e "$m/model.pt" ]; then
    expect "$name: Hugging Face folder" 0 "" embed "$m/proteins.faa" -o "$name.hf.npy" --model "$m/hf" -q
    check "$name: Hugging Face folder: same bytes" cmp "$name.npy" "$name.hf.npy"
    vnp model info "$m/model.pt" && sed -n 's/^  digest *//p' out >d1
    vnp model info "$m/hf" && sed -n 's/^  digest *//p' out >d2
    check "$name: one digest" bash -c 'test -s d1 && cmp d1 d2'
  fi
done
m=$goldens/esm2/t3_d128_h2
expect "cls" 0 "" embed "$m/proteins.faa" -o cls.npy --model "$m/model.pt" --pool cls -q
check "cls: within the limit" $compare npy cls.npy "$m/cls.npy" 2e-5
for suffix in tsv safetensors; do
  expect "$suffix" 0 "" embed "$m/proteins.faa" -o "v.$suffix" --model "$m/model.pt" -q
  check "$suffix: within the limit" $compare $suffix "v.$suffix" "$m/mean.npy" 2e-5
done
expect "h5" 0 "" embed "$m/proteins.faa" -o v.h5 --model "$m/model.pt" -q
check "h5: signature" bash -c 'head -c 8 v.h5 | cmp - <(printf "\211HDF\r\n\032\n")'
expect "one thread" 0 "" embed "$m/proteins.faa" -o t1.npy --model "$m/model.pt" --threads 1 --tokens 300 -q
check "one thread, small batches: same bytes" cmp t1.npy t3_d128_h2.npy
for m in "$goldens"/dnabert_s/*; do
  name=${m##*/}
  fasta=$(ls "$m"/*.f*a | head -1)
  expect "$name" 0 "" embed "$fasta" -o "$name.npy" --model "$m" -q
  check "$name: within the limit" $compare npy "$name.npy" "$m/mean.npy" 2e-5
  check "$name: ids" $compare ids "$name.npy.ids.tsv" "$fasta"
done
m=$goldens/esm2/t3_d128_h2
printf '>a\nMKV\n>none\n>b\nMKV\n>j\nMJ*1\n' >odd.faa
expect "odd records" 0 "outside the models. alphabets" embed odd.faa -o odd.tsv --model "$m/model.pt"
check "odd records: NaN for the empty one, twins alike" python3 - <<'PY'
rows = [l.rstrip("\n").split("\t") for l in open("odd.tsv")]
rows = rows[-4:]
assert rows[1][1] == "nan" and rows[0][1:] == rows[2][1:], rows
ids = [l.rstrip("\n").split("\t") for l in open("odd.tsv.ids.tsv")][1:]
assert [r[3] for r in ids] == ["ok", "empty", "ok", "ok"], ids
PY
expect "layer out of range" 2 "layer 9: this model has layers 1 to 3" embed odd.faa -o l.npy --model "$m/model.pt" --layer 9
expect "layer" 0 "" embed odd.faa -o l.npy --model "$m/model.pt" --layer 2 -q
expect "every token" 0 "" embed odd.faa -o n.npy --model "$m/model.pt" --pool none -q
expect "a folder that is not there" 74 "must exist" embed "$m/proteins.faa" -o nowhere/l.npy --model "$m/model.pt"
expect "output exists" 73 "" embed "$m/proteins.faa" -o l.npy --model "$m/model.pt"
expect "no encoder" 78 "no encoder" embed odd.faa -o c.npy --model "$goldens/pipeline/chunk500/classifier.pth"
expect "two encoders" 78 "two encoders" embed odd.faa -o c.npy --model "$tiny"
expect "model missing" 78 "" embed odd.faa -o c.npy --model nowhere.pt
expect "input missing" 66 "" embed nowhere.faa -o c.npy --model "$m/model.pt"
# A tokenizer.json that is damaged, or another model's, is named by its path before anything runs.
d=$goldens/dnabert_s/l2_d96_h6_prefixed
mkdir -p cut other
for t in cut other; do cp "$d/config.json" "$d/pytorch_model.bin" $t; done
head -c 5000 "$d/tokenizer.json" >cut/tokenizer.json
python3 - "$d/tokenizer.json" <<'PY'
import json, sys
t = json.load(open(sys.argv[1]))
t["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [4096]
json.dump(t, open("other/tokenizer.json", "w"))
PY
printf '>a\nACGTACGTTTGA\n' >dna.fa
expect "tokenizer cut" 78 "cut/tokenizer.json: line .* not JSON" embed dna.fa -o c.npy --model cut
expect "tokenizer of another model" 78 "other/tokenizer.json: .* up to 4096, .* only 4096 rows" embed dna.fa -o c.npy --model other
expect "convert looks at the tokenizer" 78 "other/tokenizer.json" model convert --dnabert other -o c.safetensors
check "convert wrote nothing then" test ! -e c.safetensors
mkfifo model.fifo
expect "model is a pipe nobody writes to" 78 "model.fifo: is no regular file" model info model.fifo
python3 - <<'PY'
import struct
text = b'{"a": [' + b"[]," * 2100000 + b"1]}"
open("nested.safetensors", "wb").write(struct.pack("<Q", len(text)) + text)
PY
expect "header of millions of values" 78 "nested.safetensors: .* JSON of too many values" model info nested.safetensors
expect "model info of no model" 78 "" model info odd.faa
expect "model info --json" 0 "" model info --json "$m/model.pt" "$tiny"
check "model info --json is JSON" python3 -c 'import json; a = json.load(open("out")); assert len(a) == 4 and a[0]["layers"] == 3, a'
expect "verify refuses other models" 78 "not an installation" model verify --esm "$m/model.pt"
finish
