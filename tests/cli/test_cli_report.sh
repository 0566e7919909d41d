#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The page about a run: its numbers against the run's tables computed the slow way, hostile record
# names, the same bytes again, merged runs, and what it refuses.
. "$(dirname "$0")/lib.sh"
examples=$source_dir/examples
slow="python3 $source_dir/tests/cli/check_report.py"
{
  head -120 $examples/phage_lambda.fna
  head -150 $examples/sars_cov_2.fna
  echo ">listeria" && sed -n 400,600p $examples/listeria.fna
  head -60 $examples/human.fna
  printf '>empty\n>two\nAC\n>stops\n%s\n' "$(printf 'TAGCTAACTGATTAGCTAACTGA%.0s' $(seq 4))"
} >all.fna
expect "a run" 0 "" predict all.fna -o run -q
expect "its windows" 0 "" translate all.fna -o parts -q
expect "report" 0 "wrote run/report.html" report run
check "as computed the slow way" $slow run/report.html run parts/chunked.fa all.fna
cp run/report.html first.html
expect "again" 0 "" report run
check "same bytes" cmp first.html run/report.html
expect "to another place, shorter" 0 "wrote short.html" report run -o short.html --records 1
check "says how many there are" grep -q "The first 1 of 2; all of them are in contigs.tsv and virus.fna" short.html
check "nothing else is written" test "$(ls run | wc -l)" = 9

for i in 0 1; do expect "shard $i" 0 "" predict all.fna -o part$i --shard $i/2 -q; done
expect "merged" 0 "" merge part0 part1 -o merged -q
expect "report of a merged run" 0 "" report merged
check "merged: as computed the slow way" $slow merged/report.html merged parts/chunked.fa all.fna

# names that would be markup, quote marks, bytes that are no text
printf '>a<script>alert(1)</script>&"'"'"'\n%s\n>b\xff\xc3(\xed\xa0\x80\n%s\n' \
  "$(sed 1d "$examples/sars_cov_2.fna" | head -40)" \
  "$(sed 1d "$examples/sars_cov_2.fna" | tail -40)" >names.fna
expect "hostile names" 0 "" predict names.fna -o names -q
expect "report of hostile names" 0 "" report names
check "no markup from a name" bash -c "! grep -q '<script' names/report.html"
check "it stands there as text" grep -q 'a&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;' names/report.html
check "the page is UTF-8" python3 -c "open('names/report.html', encoding='utf-8').read()"

expect "no folder" 2 "name one folder" report
expect "two folders" 2 "name one folder" report run merged
expect "too few records" 2 "" report run --records 0
expect "no run" 66 "no run is here" report parts
expect "nothing there" 66 "no run is here" report nowhere
mkdir emb
model=$scratch/dna.safetensors
expect "a DNA encoder" 0 "" model convert --dnabert "$tiny" -o "$model"
expect "an embedding" 0 "" embed all.fna -o emb/e.npy --model "$model" -q
cp emb/e.npy.run.db emb/run.db
expect "not of predict" 73 "not a run of predict" report emb
VNP_TEST_WORKER_FAULT=slow:1 "$program" predict all.fna -o half --workers 2 --tokens 300 -q 2>/dev/null &
pid=$!
for i in $(seq 100); do [ -s half/run.db ] && break; sleep 0.05; done
sleep 0.5
expect "while it runs" 73 "another process" report half
kill -TERM $pid
wait $pid
expect "an unfinished run" 73 "the run is not finished" report half
check "nothing written" test ! -e half/report.html
expect "output folder missing" 74 "nowhere/r.html" report run -o nowhere/r.html
echo rubbish >half/run.db
expect "a damaged database" 74 "half/run.db" report half
expect "another run by force" 0 "" predict names.fna -o names -q --force
check "the old report went" test ! -e names/report.html
rm run/summary.json
expect "without summary.json it says less" 0 "" report run
check "less, and right" $slow run/report.html run parts/chunked.fa all.fna
finish
