#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The Slurm array against a real slurmctld and slurmd on this machine: shards run as array tasks, one
# is requeued and one is killed in the middle, and the merged result equals a single run's bytes.
#   usage (root): slurm.sh PROGRAM SCRATCH [IN... OPTIONS]
# Without IN: made genes and the tiny random model. VNP_SLURM_DISTURB_S: seconds before the disturbance.
# needs: slurmctld slurmd slurm-client munge (Debian packages)
set -euo pipefail
program=$(realpath "$1") scratch=$2
shift 2
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
rm -rf "$scratch"; mkdir -p "$scratch"/{state,spool}; scratch=$(realpath "$scratch")
host=$(hostname -s)
if [ $# = 0 ]; then
  python3 - >"$scratch/in.fa" <<'PY'
import random
r = random.Random(1)
codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
for i in range(1800): # a shard takes longer than the wait before the kill, on a quiet machine too
    print(f">r{i} made\n{''.join(r.choices(codons, k=1700))}")
PY
  set -- "$scratch/in.fa" --models "$source_dir/models/virnucpro-random-tiny.safetensors" --tokens 512
fi
[ -f /etc/munge/munge.key ] || { dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
mkdir -p /run/munge; chown munge:munge /run/munge
munged=
if ! munge -n >/dev/null 2>&1; then
  runuser -u munge -- /usr/sbin/munged --pid-file "/run/munge/munged.pid"
  munged=/run/munge/munged.pid
fi
cat >"$scratch/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
SlurmctldLogFile=$scratch/slurmctld.log
SlurmdLogFile=$scratch/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MinJobAge=300
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=60 State=UP
CONF
export SLURM_CONF=$scratch/slurm.conf
stop() {
  for f in "$scratch/slurmd.pid" "$scratch/slurmctld.pid" $munged; do
    kill "$(cat "$f")" 2>/dev/null || true
  done
}
trap stop EXIT
slurmctld -c -f "$SLURM_CONF"; slurmd -c -f "$SLURM_CONF"
for _ in $(seq 30); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 1; done

"$program" predict "$@" -o "$scratch/single" --threads 1 -q
status=0
ok() { echo "ok - $*"; }
not_ok() { echo "not ok - $*"; status=1; }
# The program's own process of an array task; "" when it does not run.
process_of() {
  local job pid
  job=$(squeue -h -r -j "$1" -o %A 2>/dev/null || true)
  for pid in $(scontrol listpids "$job" 2>/dev/null | awk 'NR > 1 {print $1}'); do
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = virnucpro ]; then echo "$pid"; fi
  done
}
VIRNUCPRO=$program "$source_dir/contrib/slurm/virnucpro-submit" -n 4 -o "$scratch/run" -s '-c 1 --time=10' -- "$@" --threads 1 -q | tee "$scratch/submitted"
array=$(sed -n 's/^array \([0-9]*\),.*/\1/p' "$scratch/submitted")
sleep "${VNP_SLURM_DISTURB_S:-2}"
if scontrol requeue "${array}_0" 2>/dev/null; then ok "task 0 requeued while it ran"; else not_ok "task 0 had already ended"; fi
pid=
for _ in $(seq 600); do
  pid=$(process_of "${array}_1")
  [ -z "$pid" ] || [ ! -s "$scratch/run/shard_1/run.db" ] || break
  sleep 0.1
done
sleep 6 # past the first commit
if [ -n "$pid" ] && kill -9 $pid; then ok "task 1's program killed while it ran"; else not_ok "task 1 had already ended"; fi
wait_for_jobs() { # squeue arguments
  for _ in $(seq 600); do
    squeue -h "$@" | grep -q . || return 0
    sleep 1
  done
}
wait_for_jobs -t R,PD,CG -j "$array"
scontrol show job "$array" | grep -E 'ArrayTaskId|JobState|Restarts' | sed 's/^ */# /'
# A killed program is a failed task: the user repeats the same submission, which resumes.
if [ ! -f "$scratch/run/merged/contigs.tsv" ]; then
  scancel -n virnucpro-merge
  VIRNUCPRO=$program "$source_dir/contrib/slurm/virnucpro-submit" -n 4 -o "$scratch/run" -s '-c 1 --time=10' -- "$@" --threads 1 -q
fi
wait_for_jobs
"$program" status "$scratch"/run/shard_[0-3] "$scratch/run/merged" | sed 's/^/# /'
for f in prediction_results.txt prediction_results_highestscore.csv contigs.tsv virus.fna; do
  if cmp "$scratch/single/$f" "$scratch/run/merged/$f"; then ok "$f equals the single run"; else not_ok "$f"; fi
done
exit $status
