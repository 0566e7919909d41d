#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# predict against the reference pipeline's files, and its promises: one row a record, counts that
# add up, the same bytes whatever the model's format, the threads, the budget; every exit code.
. "$(dirname "$0")/lib.sh"
need_goldens
g=$goldens/pipeline
esm=$goldens/esm2/t3_d128_h2
dna=$goldens/dnabert_s/l3_d192_h3
results="prediction_results.txt prediction_results_highestscore.csv contigs.tsv virus.fna"
same() { local f; for f in $results; do cmp "$1/$f" "$2/$f" || return 1; done; }

for size in 500 300; do
  p=$g/chunk$size
  parts="--esm $esm/model.pt --dnabert $dna --classifier $p/classifier.pth --window $size"
  expect "chunk$size: translate" 0 "" translate "$p/input.fa" -o "t$size" --window $size
  for f in chunked.fa nucleotide.fa protein.faa; do
    check "chunk$size: $f identical" cmp "t$size/$f" "$p/$f"
  done
  expect "chunk$size: predict" 0 "" predict "$p/input.fa" -o "p$size" $parts
  check "chunk$size: frames and labels identical, scores within 1e-4" $compare scores "p$size/prediction_results.txt" "$p/prediction_results.txt" 1e-4
  check "chunk$size: windows identical" cmp "p$size/prediction_results_highestscore.csv" "$p/prediction_results_highestscore.csv"
  check "chunk$size: one row a record, counts add up" $compare counts "p$size"
  check "chunk$size: ids in input order" bash -c "diff <(cut -f1 p$size/contigs.tsv | tail -n +2) <(sed -n 's/^>\([^[:space:]]*\).*/\1/p' $p/input.fa)"
done
check "run.log is written" grep -q 'real time' p500/run.log
check "stdout stays empty" test ! -s out

p=$g/chunk500 in=$g/chunk500/input.fa
base="--esm $esm/model.pt --dnabert $dna --classifier $p/classifier.pth --window 500"
n=0
for e in "$esm"/model.pt "$esm"/hf; do
  for c in classifier.pth classifier_state_dict.pth classifier.safetensors; do
    n=$((n + 1))
    expect "formats $n: ${e##*/} $c" 0 "" predict "$in" -o f$n --esm "$e" --dnabert "$dna" --classifier "$p/$c" --window 500 -q
    check "formats $n: same bytes" same p500 f$n
  done
done
expect "convert to a bundle" 0 "" model convert --esm "$esm/model.pt" --dnabert "$dna" --classifier "$p/classifier.pth" --window 500 -o bundle.safetensors
expect "bundle" 0 "" predict "$in" -o fb --models bundle.safetensors -q
check "bundle: same bytes, window known from it" same p500 fb
expect "bundle exists" 73 "exists" model convert --esm "$esm/model.pt" -o bundle.safetensors
mkdir -p models && ln -sf "$esm/model.pt" models/esm.pt && ln -sfn "$dna" models/dnabert && ln -sf "$p/classifier.pth" models/500_model.pth && ln -sf "$g/chunk300/classifier.pth" models/300_model.pth
expect "folder of models" 0 "" predict "$in" -o ff --models models -q
check "folder of models: same bytes" same p500 ff
expect "folder of models, window 300" 0 "" predict "$g/chunk300/input.fa" -o ff3 --models models --window 300 -q
check "folder of models, window 300: same bytes" same p300 ff3
for t in 1 2 5; do
  expect "threads $t" 0 "" predict "$in" -o th$t $base --threads $t -q
  check "threads $t: same bytes" same p500 th$t
done
for t in 64 200 1000 20000; do
  expect "tokens $t" 0 "" predict "$in" -o tk$t $base --tokens $t -q
  check "tokens $t: same bytes" same p500 tk$t
done
cat "$in" | "$program" predict - -o st $base -q 2>err
check "standard input: same bytes" same p500 st
expect "without upstream's files" 0 "" predict "$in" -o nu $base --no-upstream-files -q
check "without upstream's files: not there" test ! -e nu/prediction_results.txt -a -e nu/contigs.tsv
expect "save embeddings" 0 "" predict "$in" -o se $base --save-embeddings -q
check "save embeddings: same bytes" same p500 se

# Sad ends.
cp -r p500 before
expect "again: complete" 0 "complete" predict "$in" -o p500 $base
check "again: nothing changed" same p500 before
expect "another input in the same folder" 73 "" predict "$g/chunk300/input.fa" -o p500 $base
expect "another window in the same folder" 73 "" predict "$in" -o p500 --esm "$esm/model.pt" --dnabert "$dna" --classifier "$p/classifier.pth" --window 300
check "refused: nothing changed" same p500 before
expect "force" 0 "" predict "$in" -o p500 $base --force -q
check "force: same bytes" same p500 before
printf '>one\nATGGCTGCTAAAGGTGCTGCAGGTCGTAAACGTGCT\n' >odd1.fa
printf '>two\nATGGCAGCTAAAGGTGCTGCAGGTCGTAAACGTGCT\n' >odd2.fa
expect "save embeddings, then start over with less" 0 "" predict odd1.fa -o less $base --save-embeddings -q
expect "start over with less" 0 "" predict odd2.fa -o less $base --no-upstream-files --force -q
check "start over with less: nothing of the first run is left" test ! -e less/embeddings.npy -a ! -e less/embeddings.npy.ids.tsv -a ! -e less/prediction_results.txt -a ! -e less/prediction_results_highestscore.csv
check "start over with less: the input stays where it is" test -s odd2.fa
expect "input missing" 66 "nowhere.fa: .*cannot open" predict nowhere.fa -o x $base
expect "second input missing, nothing made" 66 "" predict "$in" nowhere.fa -o x $base
check "input missing: nothing made" test ! -e x
expect "output below a file" 74 "" predict "$in" -o "$in/x" $base
expect "folders above the output are made" 0 "" predict "$in" -o no/such/folder $base -q
expect "GPU that is not there" 69 "" predict "$in" -o x $base --device cuda:4095
expect "model missing" 78 "no such model" predict "$in" -o x --models nowhere
expect "model incomplete" 78 "no .*classifier.*--classifier" predict "$in" -o x --models "$esm/model.pt" --dnabert "$dna"
expect "model is no model" 78 "" predict "$in" -o x --esm "$in" --dnabert "$dna" --classifier "$p/classifier.pth"
expect "model of the wrong kind" 78 "" predict "$in" -o x --esm "$p/classifier.pth" --dnabert "$dna" --classifier "$p/classifier.pth"
expect "model that does not fit" 78 "takes .* columns" predict "$in" -o x --esm "$goldens/esm2/t1_d256_h2_hd128/hf" --dnabert "$dna" --classifier "$p/classifier.pth"
check "bad models: nothing made" test ! -e x
head -c 200000 "$esm/model.pt" >torn.pt
expect "model torn" 78 "torn.pt" predict "$in" -o x --esm torn.pt --dnabert "$dna" --classifier "$p/classifier.pth"
printf '>e\n\n>tiny\nAC\n>stops\nTAATAATAATAA\n' >odd.fa
expect "records without frames" 0 "" predict odd.fa -o odd $base
check "records without frames: rows" bash -c "cut -f1,8,9 odd/contigs.tsv | tail -n +2 | diff - <(printf 'e\tunscored\tempty\ntiny\tunscored\ttoo_short\nstops\tother\tok\n') || cut -f1,3-9 odd/contigs.tsv | grep -c unscored"
: >empty.fa
expect "empty input" 0 "" predict empty.fa -o empty $base
check "empty input: header only" test "$(wc -l <empty/contigs.tsv)" = 1
(ulimit -f 8 && trap '' XFSZ && exec "$program" predict "$in" -o full $base) >out 2>err </dev/null
check "file size limit: 74" test $? = 74
expect "file size limit: the next run completes" 0 "" predict "$in" -o full $base -q
check "file size limit: same bytes afterwards" same p500 full

# Shards, status, merge.
for i in 0 1 2; do
  expect "shard $i/3" 0 "" predict "$in" -o sh$i $base --shard $i/3 -q
done
expect "status" 0 "" status sh1
check "status names the shard" grep -q '1/3' out
expect "status --json" 0 "" status --json sh1
check "status --json is JSON" python3 -c 'import json; assert json.load(open("out"))["state"] == "complete"'
expect "merge, one shard missing" 73 "" merge sh0 sh2 -o mg
check "merge, one shard missing: nothing made" test ! -e mg/contigs.tsv
expect "merge" 0 "" merge sh2 sh0 sh1 -o mg
check "merge: same bytes as one run" same mg before
check "merge: counts add up" $compare counts mg
expect "merge of a run that is no shard, twice" 73 "" merge before before -o mg2

# Interrupted: 75, and the same command goes on to the same bytes.
for i in 1 2 3 4 5 6; do cat "$source_dir"/examples/*.fna | sed "s/^>/>r${i}_/"; done >long.fa
expect "long run" 0 "" predict long.fa -o long $base -q
"$program" predict long.fa -o cut $base --threads 1 2>err &
pid=$!
for _ in $(seq 100); do [ -e cut/run.db ] && break; sleep 0.05; done
sleep 0.3
kill -TERM $pid
wait $pid
rc=$?
check "interrupt: exit 75 (or complete before it)" test $rc = 75 -o $rc = 0
check "interrupt: says what to do" bash -c "test $rc = 0 || grep -q 'repeat the command' err"
expect "interrupt: repeat" 0 "" predict long.fa -o cut $base -q
check "interrupt: same bytes" same long cut
finish
