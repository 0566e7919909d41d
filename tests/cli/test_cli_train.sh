#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# train: from labelled FASTA to a classifier that predict takes; the same bytes after repetition,
# with any number of threads and after kills; what it refuses.
. "$(dirname "$0")/lib.sh"
ex=$source_dir/examples
pieces() { # FILE BASES NAME: records of so many bases
  grep -v '>' "$1" | tr -d '\n' | fold -w "$2" | awk -v n="$3" 'length($0) > 400 {print ">" n NR "\n" $0}'
}
pieces "$ex/phage_lambda.fna" 1500 l >v1.fa
pieces "$ex/sars_cov_2.fna" 1500 s | gzip >v2.fa.gz
{ pieces "$ex/listeria.fna" 1500 b; pieces "$ex/human.fna" 1500 h; } >o.fa
short="--models $tiny --threads 2 --epochs 6 --hidden 32 --lr 0.01"
data="--virus v1.fa v2.fa.gz --other o.fa"

expect "a training" 0 "AUROC" train $data -o h.safetensors $short --bundle all.safetensors
check "the log has a row an epoch and the head's" bash -c 'grep -c "^[0-9]" h.safetensors.log.tsv | grep -qx 7'
check "the log's columns" grep -q '^epoch	lr	train_loss	valid_loss	accuracy	precision	recall	f1	auroc	brier' h.safetensors.log.tsv
check "no window of a record on both sides" bash -c 'grep -q "^# train: .* records" h.safetensors.log.tsv && grep -q "^# validation: .* records" h.safetensors.log.tsv'
expect "model info of the head" 0 "" model info h.safetensors
check "it knows its window" grep -q 'window     500' out
expect "predict with the head" 0 "classifier trained with" predict o.fa -o p1 --models "$tiny" --classifier h.safetensors
expect "predict with the bundle" 0 "classifier trained with" predict o.fa -o p2 --models all.safetensors
check "both give the same calls" cmp p1/contigs.tsv p2/contigs.tsv
{ printf 'id\tclass\tgroup\n'; grep -h '>' v1.fa | sed 's/>//;s/$/\tvirus\tphage/'; grep -h '>' o.fa | sed 's/>//;s/$/\tother\tcells/'; } >truth.tsv
expect "the run of a head" 0 "" predict v1.fa o.fa -o p5 --models all.safetensors --no-upstream-files
expect "evaluate judges it" 0 "" evaluate p5 --truth truth.tsv
check "records, groups, and that windows are missing" bash -c 'grep -q "^record	all" out && grep -q "^record	phage" out && grep -q "no figures of windows" out'
expect "a head alone goes on the shipped encoders, or says that it does not fit" 78 "takes .* columns" predict o.fa -o p3 --classifier h.safetensors

expect "repeated: nothing to do" 0 "complete already" train $data -o h.safetensors $short --bundle all.safetensors
expect "other options: another training" 73 "another training" train $data -o h.safetensors $short --seed 7
expect "other windows: refused" 73 "window" train $data -o h.safetensors $short --window 300
expect "another input: refused" 73 "another input" train --virus v1.fa --other o.fa -o h.safetensors $short
cp h.safetensors first && cp all.safetensors first_all && cp h.safetensors.log.tsv first_log
expect "forced: trained anew on the kept vectors" 0 "epoch 6:" train $data -o h.safetensors $short --bundle all.safetensors --force
check "the same head" cmp h.safetensors first
check "the same bundle" cmp all.safetensors first_all
expect "one thread, another name" 0 "" train $data -o n1.safetensors --models "$tiny" --threads 1 --epochs 6 --hidden 32 --lr 0.01
check "the same log" cmp n1.safetensors.log.tsv first_log
check "the same scores" bash -c "'$program' predict o.fa -o p4 -q --models '$tiny' --classifier n1.safetensors && cmp p1/prediction_results.txt p4/prediction_results.txt"
expect "adamw, class weights, another seed" 0 "" train $data -o a.safetensors $short --optimizer adamw --class-weights balanced --seed 3 --uncalibrated
check "another head" bash -c '! cmp -s a.safetensors first'

# Killed at any place and repeated: the same bytes. The first kills meet the embedding, the others
# the epochs.
mkdir k && cp v1.fa v2.fa.gz o.fa k && cd k
long="--models $tiny --threads 2 --hidden 32 --epochs 60 --patience 60 --lr 0.01"
"$program" train $data -o w.safetensors $long -q
n_killed=0
for pause in 0.05 0.1 0.2 0.2 0.2 0.3 0.3 0.3; do
  "$program" train $data -o h.safetensors $long -q 2>/dev/null &
  pid=$!
  sleep "$pause"
  kill -9 $pid 2>/dev/null && n_killed=$((n_killed + 1))
  wait $pid 2>/dev/null
done
"$program" train $data -o h.safetensors $long -q
check "killed ($n_killed times) and repeated: the same log" cmp w.safetensors.log.tsv h.safetensors.log.tsv
check "and the same weights" bash -c "tail -c 4000 w.safetensors | cmp - <(tail -c 4000 h.safetensors)"
rm -f s.safetensors*
"$program" train $data -o s.safetensors --models "$tiny" --epochs 50000 --patience 50000 -q 2>/dev/null &
pid=$!
for _ in $(seq 200); do [ -e s.safetensors.train/state ] && break; sleep 0.05; done
kill -TERM $pid
wait $pid
check "an interrupt is 75" test $? = 75
cd ..

expect "validation records by name" 0 "" train $data -o i.safetensors $short --valid-ids <(printf "l1\nl2\ns3\nb2\nb3 any text\n")
check "those and no others" grep -q '^# validation: 3 virus and 2 other records' i.safetensors.log.tsv
expect "a list that names one class only" 65 "no record of class other" train $data -o j.safetensors $short --valid-ids <(printf 'l1\n')

expect "same file on both sides" 65 "both sides" train --virus v1.fa o.fa --other o.fa -o x.safetensors $short
cp v1.fa copy.fa
expect "same records under two names" 65 "are the same" train --virus v1.fa --other copy.fa -o x2.safetensors $short
head -2 v1.fa >one.fa
expect "one record" 65 "only one record" train --virus one.fa --other o.fa -o x3.safetensors $short
printf '>a\nNNNNNNNNNNNN\n>b\nACGTRACGTACGT\n' >none.fa
expect "no open frame" 65 "no record of class virus" train --virus none.fa --other o.fa -o x4.safetensors $short
: >empty.fa
expect "an empty class" 65 "no record of class other" train --virus v1.fa --other empty.fa -o x5.safetensors $short
expect "a folder among the files" 66 "directory" train --virus v1.fa --other o.fa . -o x10.safetensors $short
printf 'no header\n' >text.fa
expect "a later file that is no FASTA" 65 "first header" train --virus v1.fa --other o.fa text.fa -o x11.safetensors $short
check "all of them before anything is embedded" bash -c '! ls -d x3.*.train x5.*.train x10.*.train x11.*.train 2>/dev/null'
head -8 o.fa >few.fa
expect "few records to judge on are said" 0 "1 other record in the validation part" train --virus v1.fa --other few.fa -o x12.safetensors $short
expect "a missing file" 66 "no such file" train --virus v1.fa --other gone.fa -o x6.safetensors $short
printf 'x' >foreign.safetensors
expect "a foreign file in the way" 73 "exists already" train $data -o foreign.safetensors $short
expect "standard input" 2 "" train --virus - --other o.fa -o x7.safetensors $short
expect "a folder that is not there" 74 "" train $data -o o.fa/x.safetensors $short
for bad in "--lr nan" "--lr 1e9" "--epochs 0" "--batch 1" "--dropout 2" "--optimizer lion" "--class-weights 1" "--class-weights 0:1" "--valid-share 0" "--lr 0"; do
  expect "refused: $bad" 2 "" train $data -o x8.safetensors --models "$tiny" $bad
done
expect "no class" 2 "of which class" train o.fa -o x9.safetensors
expect "no virus" 2 "no viral" train --other o.fa -o x9.safetensors
expect "no other" 2 "no cellular" train --virus v1.fa -o x9.safetensors
expect "no output" 2 "no output" train --virus v1.fa --other o.fa
vnp help train
check "help has examples" grep -q 'virnucpro train --virus' out
finish
