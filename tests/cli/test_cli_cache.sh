#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# --cache: the same bytes with none, a cold and a warm one; hits counted; shared by processes at once;
# whatever is wrong with the file is reported and left out.
. "$(dirname "$0")/lib.sh"
need_goldens
input=$goldens/pipeline/chunk500/input.fa
run() { "$program" predict "$@" --models "$tiny" --save-embeddings >out 2>err </dev/null; }
same() {
  for f in prediction_results.txt prediction_results_highestscore.csv contigs.tsv virus.fna embeddings.npy embeddings.npy.ids.tsv; do
    cmp "$1/$f" "$2/$f" || return 1
  done
}
value() { # DIR KEY of the summary's cache
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1] + "/summary.json"))["cache"][sys.argv[2]])' "$1" "$2"
}
left_out() { # DIR PATTERN: said in the log and in the summary, and the bytes are those of no cache
  grep -qE "cache is left out.*$2" err && value "$1" left_out_because | grep -qE "$2" && same none "$1"
}
check "no cache" run "$input" -o none
check "no cache: none in the summary" python3 -c 'import json; assert json.load(open("none/summary.json"))["cache"] is None'
check "cold" run "$input" -o cold --cache c.db
check "cold: the same bytes" same none cold
check "cold: no hits, all kept" test "$(value cold hits)" = 0 -a "$(value cold kept)" -gt 0
check "warm" run "$input" -o warm --cache c.db
check "warm: the same bytes" same none warm
check "warm: all hits, nothing computed" test "$(value warm hits)" = "$(value cold kept)" -a "$(value warm misses)" = 0
check "warm: no pack" python3 -c 'import json; assert json.load(open("warm/summary.json"))["packing"]["packs"] == 0'
check "warm, other batches" run "$input" -o warm2 --cache c.db --tokens 300 --threads 1
check "warm, other batches: the same bytes" same none warm2
check "another precision has its own" run "$input" -o bf16 --cache c.db --precision bf16
check "another precision: no hits" test "$(value bf16 hits)" = 0

model=$goldens/esm2/t3_d128_h2
embed() { "$program" embed "$model/proteins.faa" --model "$model/model.pt" "$@" -q 2>err </dev/null; }
check "embed without" embed -o e0.npy
check "embed cold" embed -o e1.npy --cache c.db
check "embed warm" embed -o e2.npy --cache c.db
check "embed: the same bytes" bash -c 'cmp e0.npy e1.npy && cmp e0.npy e2.npy'
check "embed, other pooling" embed -o e3.npy --cache c.db --pool cls
check "embed, other pooling without" embed -o e4.npy --pool cls
check "embed, other pooling: the same bytes" cmp e3.npy e4.npy
check "embed, every token: left out" embed -o e5.npy --cache c.db --pool none

check "small" run "$input" -o small --cache small.db --cache-size 1
check "small: the same bytes" same none small
run "$input" -o small2 --cache small.db --cache-size 1 --force
check "small, again: the same bytes" same none small2
check "small: the file stays small" test "$(stat -c %s small.db)" -lt 2000000

both() {
  "$program" predict "$input" -o both1 --models "$tiny" --save-embeddings --cache both.db -q & a=$!
  "$program" predict "$input" -o both2 --models "$tiny" --save-embeddings --cache both.db -q & b=$!
  wait $a && wait $b
}
check "two at once" both
check "two at once: the same bytes" bash -c "$(declare -f same); same none both1 && same none both2"
check "two at once: the file is sound" python3 -c 'import sqlite3; assert sqlite3.connect("both.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)'

head -c 200000 /dev/urandom >noise.db
check "no database" run "$input" -o noise --cache noise.db
check "no database: reported, left out" left_out noise "not a cache"
cp none/run.db other.db
check "another database" run "$input" -o other --cache other.db
check "another database: reported, left out" left_out other "not a cache"
check "another database: untouched" cmp none/run.db other.db
python3 - <<'PY'
data = bytearray(open("c.db", "rb").read())
for i in range(20000, len(data), 977):
    data[i] ^= 0x41
open("torn.db", "wb").write(data)
open("short.db", "wb").write(open("c.db", "rb").read()[: len(data) // 2])
import sqlite3
open("bits.db", "wb").write(open("c.db", "rb").read())
db = sqlite3.connect("bits.db")
for row, vector in db.execute("SELECT id, vector FROM vectors").fetchall():
    db.execute("UPDATE vectors SET vector = ? WHERE id = ?", (bytes([vector[0] ^ 1]) + vector[1:], row))
db.execute("PRAGMA user_version").fetchone()
db.commit()
new = sqlite3.connect("newer.db")
new.executescript("PRAGMA application_id=1984843875; PRAGMA user_version=7; CREATE TABLE t(x)")
PY
for kind in torn short; do
  check "$kind" run "$input" -o $kind --cache $kind.db
  check "$kind: reported, left out" left_out $kind "malformed|not a cache|damaged|disk image"
done
check "a bit of every vector" run "$input" -o bits --cache bits.db
check "a bit of every vector: reported, left out" left_out bits "damaged"
check "a newer one" run "$input" -o newer --cache newer.db
check "a newer one: reported, left out" left_out newer "another version"
check "a folder" run "$input" -o folder --cache none
check "a folder: reported, left out" left_out folder "unable to open"
check "in a folder that is not there" run "$input" -o nowhere --cache no/where/c.db
check "in a folder that is not there: reported, left out" left_out nowhere "unable to open"
python3 - <<'PY' &
import sqlite3, time
db = sqlite3.connect("c.db", isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
open("held", "w").close()
for i in range(600):
    time.sleep(0.1)
    import os
    if os.path.exists("release"): break
PY
holder=$!
for _ in $(seq 100); do [ ! -e held ] || break; sleep 0.1; done
check "locked" run "$input" -o locked --cache c.db
touch release; wait $holder
check "locked: reported, left out" left_out locked "locked"
check "not locked any more" run "$input" -o free --cache c.db
check "not locked any more: hits" test "$(value free misses)" = 0
finish
