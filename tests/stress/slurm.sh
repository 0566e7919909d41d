#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The Slurm array against a real slurmctld and slurmd on this machine: shards run as array tasks, one
# is killed and one is requeued in the middle, and the merged result equals a single run's bytes.
#   usage (root): slurm.sh PROGRAM SCRATCH IN...     needs: slurmctld slurmd slurm-client munge
set -euo pipefail
program=$(realpath "$1") scratch=$2
shift 2
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
rm -rf "$scratch"; mkdir -p "$scratch"/{state,spool}; scratch=$(realpath "$scratch")
host=$(hostname -s)
[ -f /etc/munge/munge.key ] || { dd if=/dev/urandom bs=1 count=1024 of=/etc/munge/munge.key status=none; chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
mkdir -p /run/munge; chown munge:munge /run/munge
pgrep -x munged >/dev/null || runuser -u munge -- /usr/sbin/munged
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
stop() { kill "$(cat "$scratch/slurmd.pid")" "$(cat "$scratch/slurmctld.pid")" 2>/dev/null || true; }
trap stop EXIT
slurmctld -c -f "$SLURM_CONF"; slurmd -c -f "$SLURM_CONF"
for _ in $(seq 30); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 1; done

"$program" predict "$@" -o "$scratch/single" --threads 1 -q
VIRNUCPRO=$program "$source_dir/contrib/slurm/virnucpro-submit" -n 4 -o "$scratch/run" -s '-c 1 --time=10' -- "$@" --threads 1 -q | tee "$scratch/submitted"
array=$(sed -n 's/^array \([0-9]*\),.*/\1/p' "$scratch/submitted")
sleep "${VNP_SLURM_DISTURB_S:-2}"
scontrol requeue "${array}_0" || echo "task 0 had already ended"
pkill -9 -f -- "predict --shard 1/4" || echo "task 1 had already ended"
for _ in $(seq 120); do
  squeue -h -t R,PD -j "$array" | grep -q . || break
  sleep 1
done
# A killed program is a failed task: the user repeats the same submission, which resumes.
if [ ! -f "$scratch/run/merged/contigs.tsv" ]; then
  scancel -n virnucpro-merge
  VIRNUCPRO=$program "$source_dir/contrib/slurm/virnucpro-submit" -n 4 -o "$scratch/run" -s '-c 1 --time=10' -- "$@" --threads 1 -q
fi
for _ in $(seq 120); do
  squeue -h | grep -q . || break
  sleep 1
done
status=0
for f in prediction_results.txt prediction_results_highestscore.csv contigs.tsv virus.fna; do
  cmp "$scratch/single/$f" "$scratch/run/merged/$f" && echo "ok - $f equals the single run" || { echo "not ok - $f"; status=1; }
done
exit $status
