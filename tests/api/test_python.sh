#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The Python package against the program: same answers, errors as exceptions. $VNP_PYTHON chooses
# the interpreter; it needs numpy, which the system's own has when tools/install-deps put it there.
. "$(dirname "$0")/../cli/lib.sh"
python=${VNP_PYTHON:-python3}
if [ -z "${VNP_PYTHON:-}" ] && ! "$python" -c "import numpy" 2>/dev/null && [ -x /usr/bin/python3 ]; then
  python=/usr/bin/python3
fi
export VIRNUCPRO_LIBRARY; VIRNUCPRO_LIBRARY=$(dirname "$program")/libvirnucpro.so
export PYTHONPATH=$source_dir/python PYTHONDONTWRITEBYTECODE=1
check "without the library: ImportError that says what to do" bash -c "
  VIRNUCPRO_LIBRARY=nowhere.so $python -c 'import sys; sys.modules[\"numpy\"] = sys; import virnucpro' 2>&1 |
    grep -q 'ImportError.*VIRNUCPRO_LIBRARY'"
if nm -D "$VIRNUCPRO_LIBRARY" | grep -qE '__(asan|tsan)_init'; then
  skip "python" "a sanitized library does not load into an interpreter"
  finish
fi
if ! "$python" -c "import numpy" 2>/dev/null; then
  skip "python" "numpy is missing for $python (set VNP_PYTHON)"
  finish
fi
{
  head -c 9000 "$source_dir/examples/phage_lambda.fna"
  echo
  head -c 4000 "$source_dir/examples/listeria.fna"
  printf '\n>nothing\nNNNN\n'
} >in.fna
expect "the program predicts" 0 "" predict in.fna -o run --models "$tiny" --device cpu --precision fp32 -q
check "predict: equal to contigs.tsv" "$python" "$source_dir/tests/api/python_checks.py" predict "$tiny" in.fna run/contigs.tsv
check "errors are exceptions" "$python" "$source_dir/tests/api/python_checks.py" errors "$tiny"
tools=$(dirname "$program")/tools
"$tools/make-random-model" esm2-hf overflow --esm 2,96,3 --overflow yes --dtype fp16 >/dev/null
"$tools/make-random-model" esm2-hf hopeless --esm 2,96,3 --overflow nan >/dev/null
check "what overflows in fp16 is computed again in fp32" \
  "$python" "$source_dir/tests/api/python_checks.py" overflow overflow hopeless
need_goldens
golden=$goldens/esm2/t3_d128_h2
expect "the program embeds" 0 "" embed "$golden/proteins.faa" -o e.npy --model "$golden/model.pt" --device cpu --precision fp32 -q
check "embed: equal to the program's bytes" "$python" "$source_dir/tests/api/python_checks.py" embed "$golden/model.pt" "$golden/proteins.faa" e.npy
finish
