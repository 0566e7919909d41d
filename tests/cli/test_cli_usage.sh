#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Options, help and version: what is wrong is named and ends with 2, before anything is touched.
. "$(dirname "$0")/lib.sh"
printf '>a\nACGT\n' >a.fa

expect "version" 0 "" --version
check "version is one line" grep -cxE 'virnucpro [0-9]+\.[0-9]+\.[0-9]+' out
expect "-V" 0 "" -V
expect "help" 0 "" --help
check "help on stdout, with examples and exit codes" grep -q 'exit codes' out
for c in predict embed translate train model status merge report evaluate doctor bench; do
  expect "$c --help" 0 "" $c --help
  check "$c --help has an example" grep -q "^  virnucpro $c" out
  check "$c --help fits 100 columns" awk 'length > 100 {exit 1}' out
  expect "help $c" 0 "" help $c
done
check "nothing on stderr" test ! -s err
expect "no command" 2 'usage: virnucpro'
expect "unknown command" 2 "no command 'predct'; did you mean predict" predct
expect "unknown option before the command" 2 "unknown option '--frce'" --frce predict
expect "help on nothing" 2 "no help on 'x'" help x
for c in serve; do
  if ! "$program" $c --help >/dev/null 2>&1; then
    expect "$c says that it is not there yet" 2 "'$c' is not in version" $c x
  fi
done
expect "unknown option" 2 "unknown option '--windw'; did you mean --window" predict a.fa -o d --windw 3
expect "unknown letter" 2 "unknown option '-x'" predict a.fa -o d -x
expect "no input" 2 'no input' predict -o d
expect "no output" 2 'no output' predict a.fa
expect "no results to standard output" 2 'standard output' predict a.fa -o -
expect "no report, either" 2 'standard output' report d --output=-
expect "value missing" 2 '-o needs a value' predict a.fa -o
expect "value empty" 2 '--models is empty' predict a.fa -o d --models=
expect "flag with value" 2 '--force takes no value' predict a.fa -o d --force=yes
expect "twice" 2 '--threads is given twice' predict a.fa -o d --threads 1 --threads 2
for n in x 1x 1.5 '' ' 1' 99999999999999999999; do
  expect "bad number '$n'" 2 '--threads takes a whole number' predict a.fa -o d --threads "$n"
done
expect "number too small" 2 '--threads 0 is out of range' predict a.fa -o d --threads 0
expect "number negative" 2 '--threads -2 is out of range' predict a.fa -o d --threads -2
expect "window too small" 2 '--window 0 is out of range' predict a.fa -o d --window 0
expect "window too large" 2 'out of range' predict a.fa -o d --window 99999999
for s in 1 1/1 -1/2 a/b 1/0 /2 1/ 1/2/3; do
  expect "bad shard '$s'" 2 '--shard takes I/N' predict a.fa -o d --shard "$s"
done
expect "bad device" 2 "no device is called 'gpu'.*use auto" predict a.fa -o d --device gpu --models "$tiny"
for d in cuda:x cuda: cuda:0, cuda:,0 cuda:0,,1 cuda:-1 cuda0 CUDA; do
  expect "bad device list '$d'" 2 "no device is called" predict a.fa -o d --device "$d" --models "$tiny"
done
expect "bad precision" 2 "no precision is called 'half'" predict a.fa -o d --precision half --models "$tiny"
expect "quiet and verbose" 2 'contradict' predict a.fa -o d -q -v
expect "stdin twice" 2 'named twice' predict - - -o d
expect "embed without model" 2 'no model' embed a.fa -o x.npy
expect "embed suffix" 2 'must end in .npy' embed a.fa -o x.txt --model m
expect "embed pool" 2 '--pool is mean, cls or none' embed a.fa -o x.npy --model m --pool max
expect "translate has no device" 2 "unknown option '--device'" translate a.fa -o d --device cpu
expect "model without verb" 2 'say what' model
expect "model, unknown verb" 2 "no 'model inof'; did you mean info" model inof

expect "model info without path" 2 'no model' model info
expect "model convert without output" 2 'no output' model convert x
expect "model validate without input" 2 "no sequences" model validate
expect "model verify without model" 2 'no model' model verify
expect "status without folder" 2 'name a folder' status
expect "merge without folders" 2 'name the folders' merge -o d
expect "status of no run" 66 "" status a.fa
expect "status of nothing" 66 "" status nowhere
expect "evaluate without truth" 2 'no answers' evaluate d
expect "doctor takes nothing" 2 "takes no 'x'" doctor x
check "nothing was made" test ! -e d
expect "doctor" 0 "" doctor
check "doctor names CPU, memory and GPU driver" bash -c "grep -q '  cpu ' out && grep -q memory out && grep -q 'GPU driver' out"
"$program" --help >/dev/full 2>err
check "full disk behind stdout is noticed" test $? = 74
"$program" doctor >/dev/full 2>err
check "doctor notices it, too" test $? = 74
finish
