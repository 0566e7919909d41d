#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Peak memory: predict on a stream of SIZE_GB GB of random DNA, generated while it is read, vectors
# saved, stays below 1.5 GB; 100 MB and 1 GB files need the same; so does one embed file whose
# vectors alone are larger.
#   usage: memory.sh PROGRAM SCRATCH [SIZE_GB = 10]       needs about 1.2 times SIZE_GB of disk
set -euo pipefail
program=$(realpath "$1") scratch=$2 size_gb=${3:-10}
source_dir=$(cd "$(dirname "$0")/../.." && pwd)
tiny=$source_dir/models/virnucpro-random-tiny.safetensors
rm -rf "$scratch"; mkdir -p "$scratch"; cd "$scratch"
status=0
dna() { # MB: records of 50 kb
  python3 -c '
import os, sys
table = bytes(b"ACGT"[i & 3] for i in range(256))
n = int(float(sys.argv[1]) * 20)
for i in range(n):
    sys.stdout.buffer.write(b">r%d\n%s\n" % (i, os.urandom(49990).translate(table)))' "$1"
}
peak_kb() { sed -n 's/.*peak RSS: \([0-9.]*\) GB.*/\1/p' "$1" | awk '{print int($1 * 1000000)}'; }
check() { # NAME PEAK_KB LIMIT_KB
  if [ "$2" -lt "$3" ]; then echo "ok - $1: peak $2 kB"; else echo "not ok - $1: peak $2 kB, limit $3"; status=1; fi
}
dna 100 >a.fa
"$program" predict a.fa -o a --models "$tiny" --save-embeddings --threads 2 2>a.log
dna 1000 >b.fa
"$program" predict b.fa -o b --models "$tiny" --save-embeddings --threads 2 2>b.log
grep -h -E "records:|real time" a.log b.log | sed 's/^/# /'
check "100 MB file" "$(peak_kb a.log)" 1500000
check "1 GB file" "$(peak_kb b.log)" $(($(peak_kb a.log) * 12 / 10 + 50000))
rm -rf a.fa b.fa a b
dna $((size_gb * 1000)) | "$program" predict - -o c --models "$tiny" --save-embeddings --threads 2 2>c.log
grep -h -E "records:|real time" c.log | sed 's/^/# /'
check "stream of $size_gb GB, vectors saved" "$(peak_kb c.log)" 1500000
ls -l c | sed 's/^/# /'
[ "$(awk 'NR > 1' c/contigs.tsv | wc -l)" = $((size_gb * 20000)) ] && echo "ok - every record has its row" || { echo "not ok - rows"; status=1; }
rm -rf c
exit $status
