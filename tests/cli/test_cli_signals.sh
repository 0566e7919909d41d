#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Signals: the first ends the run cleanly with 75 whatever it does at that moment (computing, a
# worker that hangs, a pipe that gives nothing), the second at once; the same command then goes on
# to the same bytes. Workers are slowed down or stopped to order, see src/run/worker.c.
. "$(dirname "$0")/lib.sh"
in="$source_dir/examples/phage_lambda.fna $source_dir/examples/listeria.fna"
options="--models $tiny --tokens 300 --workers 2 -q"
results="prediction_results.txt prediction_results_highestscore.csv contigs.tsv virus.fna"
same() { local f; for f in $results; do cmp "$1/$f" "$2/$f" || return 1; done; }
now_ms() { date +%s%3N; }
children() { cat /proc/$1/task/*/children 2>/dev/null; }
# start FAULT DIR ARGS...: a run in a process group of its own, until it has begun to compute.
start() {
  local fault=$1 dir=$2 i
  shift 2
  VNP_TEST_WORKER_FAULT=$fault setsid "$program" predict $in -o "$dir" $options "$@" 2>err </dev/null &
  pid=$!
  for i in $(seq 200); do
    [ "$(children $pid | wc -w)" -ge 2 ] && break
    sleep 0.05
  done
  sleep 0.7
}
# stop PIDS...: waits for the run; exit code in $rc, milliseconds since $t0 in $ms.
stop() {
  wait $pid
  rc=$?
  ms=$(($(now_ms) - t0))
}

expect "undisturbed" 0 "" predict $in -o plain $options
for s in INT TERM USR1 USR2 XCPU; do
  start slow:1 "d$s"
  t0=$(now_ms)
  kill -$s $pid
  stop
  check "SIG$s: 75" test $rc = 75
  check "SIG$s: within the grace time ($ms ms)" test $ms -lt 9000
  check "SIG$s: no result yet" test ! -e "d$s/contigs.tsv"
  expect "SIG$s: repeated" 0 "" predict $in -o "d$s" $options
  check "SIG$s: same bytes" same plain "d$s"
done

# a terminal or a scheduler signals the whole group: workers leave the decision to their host
start slow:1 group
t0=$(now_ms)
kill -TERM -- -$pid
stop
check "the group: 75" test $rc = 75
check "the group: no worker was lost" bash -c "'$program' status group --json | grep -q '\"incidents\": 0'"
expect "the group: repeated" 0 "" predict $in -o group $options
check "the group: same bytes" same plain group

start hang:4 grace --grace 1
t0=$(now_ms)
kill -TERM $pid
stop
check "workers that hang are given up: 75" test $rc = 75
check "after the grace time ($ms ms)" test $ms -ge 900 -a $ms -lt 8000
expect "grace: repeated" 0 "" predict $in -o grace $options
check "grace: same bytes" same plain grace

start hang:4 twice --grace 60
workers=$(children $pid)
t0=$(now_ms)
kill -TERM $pid
sleep 0.3
kill -TERM $pid
stop
check "a second signal ends at once: 143 ($ms ms)" test $rc = 143 -a $ms -lt 5000
sleep 0.5
check "and its workers with it" bash -c "for p in $(echo $workers); do ! grep -qs virnucpro /proc/\$p/cmdline || exit 1; done"
expect "twice: repeated" 0 "" predict $in -o twice $options
check "twice: same bytes" same plain twice

# blocked on a pipe that gives nothing; the writer lives on
mkfifo pipe
sleep 60 >pipe &
writer=$!
"$program" predict - -o piped $options 2>err <pipe &
pid=$!
sleep 1
t0=$(now_ms)
kill -TERM $pid
stop
check "a silent pipe: 75 ($ms ms)" test $rc = 75 -a $ms -lt 5000
kill $writer

start kill,segv,exit,nan,garbage:6 faults
stop
check "faults of workers: 0" test $rc = 0
check "faults of workers: same bytes" same plain faults
check "faults of workers: restarts in the summary" grep -Eq '"restarts": [1-9]' faults/summary.json
check "faults of workers: incidents in the summary" grep -q '"kind": "device failed"' faults/summary.json
expect "workers are counted on sane numbers" 2 "out of range" predict $in -o x --models "$tiny" --workers 1000
expect "a worker is started by its host only" 2 "own use" __worker
finish
