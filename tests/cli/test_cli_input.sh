#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every bad input of tests/data/bad_input through the program: exit code, and a message that names
# file, line, byte and record; nothing half-written. And the inputs that are sound: standard input,
# pipes, several files, every compression.
. "$(dirname "$0")/lib.sh"
bad=$source_dir/tests/data/bad_input

# The message must name the file, and line, byte and record where the table has them.
names_place() { # FILE LINE BYTE RECORD MESSAGE
  grep -qF -- "$1" err || { echo "does not name the file $1"; cat err; return 1; }
  [ "$2" = "*" ] || grep -qE -- "line $2[,:]" err || { echo "does not name line $2"; cat err; return 1; }
  [ "$3" = "*" ] || grep -qE -- "byte $3[,:]" err || { echo "does not name byte $3"; cat err; return 1; }
  [ "$4" = "*" ] || grep -qF -- "record '$4'" err || { echo "does not name record $4"; cat err; return 1; }
  [ -z "$5" ] || grep -qF -- "$5" err || { echo "does not say: $5"; cat err; return 1; }
}

while IFS=$'\t' read -r file want line byte record message; do
  case $file in '#'* | '') continue ;; esac
  rm -rf t
  expect "$file" "$want" "" translate "$bad/$file" -o t
  [ "$want" = 0 ] && continue
  check "$file: names the place" names_place "$bad/$file" "$line" "$byte" "$record" "$message"
  check "$file: nothing half-written" test -z "$(find t -name '*.f*a*' 2>/dev/null)"
done <"$bad/table.tsv"

# Every bad model the same way, through model info.
models=$source_dir/tests/data/bad_model
while IFS=$'\t' read -r file want message; do
  case $file in '#'* | '') continue ;; esac
  expect "model $file" "$want" "" model info "$models/$file"
  if [ "$want" = 0 ]; then
    check "model $file: names its format" grep -qF -- "$message" out
  else
    check "model $file: says what is wrong, and where" grep -qE -- "$(basename "${file%%/*}").*$(printf %s "$message" | sed 's/[][().*^$+?{}|\/]/\\&/g')" err
  fi
done <"$models/table.tsv"

ex=$source_dir/examples
rm -rf ref && vnp translate "$ex/phage_lambda.fna" "$ex/sars_cov_2.fna" -o ref
check "two files" test "$rc" = 0
same() { cmp ref/chunked.fa "$1/chunked.fa" && cmp ref/nucleotide.fa "$1/nucleotide.fa" && cmp ref/protein.faa "$1/protein.faa"; }
cat "$ex/phage_lambda.fna" "$ex/sars_cov_2.fna" >both.fa
gzip -c both.fa >both.gz
"$program" translate - -o stdin <both.fa 2>err
check "standard input" same stdin
cat both.gz | "$program" translate - -o stdin_gz 2>err
check "gzip on standard input, from a pipe" same stdin_gz
expect "gzip under a name that does not say so" 0 "" translate both.gz -o gz
check "gzip: same bytes" same gz
gzip -c "$ex/phage_lambda.fna" >1.gz
gzip -c "$ex/sars_cov_2.fna" | cat 1.gz - >members.gz
expect "gzip members" 0 "" translate members.gz -o members
check "gzip members: same bytes" same members
if command -v zstd >/dev/null; then
  zstd -q both.fa -o both.zst
  expect "zstd" 0 "" translate both.zst -o zst
  check "zstd: same bytes" same zst
else
  skip "zstd" "no zstd program here"
fi
mkfifo pipe
cat both.fa >pipe &
printf '>a\nACGTTGCA\n' >eight.fa
expect "the smallest window" 0 "8 windows, 0 open frames" translate eight.fa -o one --window 1
expect "windows of a codon" 0 "3 windows" translate eight.fa -o codon --window 3
check "windows of a codon: the first two overlap" test "$(tr '\n' ' ' <codon/chunked.fa)" = ">a_chunk_1 ACG >a_chunk_2 GTT >a_chunk_3 GCA "
expect "named pipe" 0 "" translate pipe -o fifo
wait
check "named pipe: same bytes" same fifo
sed 's/$/\r/' both.fa >crlf.fa
expect "CRLF" 0 "" translate crlf.fa -o crlf
check "CRLF: same bytes" same crlf
expect "quiet says nothing" 0 "" translate both.fa -o quiet -q
check "quiet: stderr is empty" test ! -s err
expect "JSON log" 0 "" translate both.fa -o json --log-json
check "every line is JSON" python3 -c 'import json,sys; [json.loads(l)["text"] for l in open("err")]'
expect "output is there already" 73 "exists|another" translate both.fa -o quiet
expect "force" 0 "" translate both.fa -o quiet --force
check "force: same bytes" same quiet
finish
