#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The bundled model, the examples, an installed tree: what a stranger does first.
. "$(dirname "$0")/lib.sh"
ex=$source_dir/examples
expect "no model named" 0 "shipped with the program" predict "$ex/sars_cov_2.fna" -o s
check "the note of the bundle is shown" grep -q 'note on this model' err
check "counts add up" $compare counts s
check "summary names the command" grep -q 'virnucpro predict' s/summary.json
expect "model info of the bundle" 0 "" model info "$source_dir/models/virnucpro-random-tiny.safetensors"
if [ -e "$source_dir/models/virnucpro-mini.safetensors" ]; then
  expect "the demo's records" 0 "" predict "$ex/phage_lambda.fna" "$ex/sars_cov_2.fna" "$ex/listeria.fna" "$ex/human.fna" -o demo -q
  check "the demo's calls" bash -c 'test "$(cut -f8 demo/contigs.tsv | tail -n +2 | tr "\n" " ")" = "virus virus other other "'
  check "the demo's counts add up" $compare counts demo
else
  skip "the demo's calls" "no trained model is bundled"
fi
head -40 "$ex/phage_lambda.fna" >short.fa
for p in fp32 fp16; do
  expect "the reference, $p" 0 "" predict short.fa -o "ref_$p" --models "$tiny" --device ref --precision $p --save-embeddings
done
check "fp16 there is emulated and named so" grep -q 'emulated' err
check "and rounds" bash -c '! cmp -s ref_fp32/prediction_results.txt ref_fp16/prediction_results.txt'
expect "fp16 there in worker processes" 0 "" predict short.fa -o ref_workers --models "$tiny" --device ref --precision fp16 --workers 2
check "the same bytes" cmp ref_fp16/prediction_results.txt ref_workers/prediction_results.txt
check "how far it lies from fp32" bash -c "python3 '$source_dir/tools/precision-study' . ref_fp32 ref_fp16 | grep -q '^ref_fp16.*0 (0.000 %)'"
check "a run of the first part only is compared with the same frames" bash -c "cat short.fa >two.fa && sed 's/^>/>again_/' short.fa >>two.fa && '$program' predict two.fa -o two -q --models '$tiny' --device ref --save-embeddings && python3 '$source_dir/tools/precision-study' . two ref_fp32 | grep -q '^ref_fp32.*0 (0.000 %).*0.00e+00'"
mkdir -p inst/bin inst/share/virnucpro/models
cp "$program" inst/bin/
cp "$source_dir"/models/*.safetensors inst/share/virnucpro/models/
check "installed tree finds its model" inst/bin/virnucpro predict "$ex/sars_cov_2.fna" -o si -q
check "installed tree: same bytes" cmp s/contigs.tsv si/contigs.tsv
mkdir bare && cp "$program" bare/
bare/virnucpro predict "$ex/sars_cov_2.fna" -o sb 2>err
check "without the model: 78" test $? = 78
check "without the model: says what to do" grep -q -- '--models' err
VIRNUCPRO_PLUGIN_DIR=/nowhere "$program" predict "$ex/sars_cov_2.fna" -o sc --device cuda 2>err
check "cuda by name without plug-in: 69" test $? = 69
check "cuda by name without plug-in: says why" grep -q 'no libvirnucpro_cuda.so in /nowhere' err
VIRNUCPRO_PLUGIN_DIR=/nowhere "$program" predict "$ex/sars_cov_2.fna" -o sc -q 2>err
check "auto without plug-in: works" test $? = 0
printf 'no library' >libvirnucpro_cuda.so
VIRNUCPRO_PLUGIN_DIR=$scratch "$program" predict "$ex/sars_cov_2.fna" -o sd --device cuda 2>err
check "broken plug-in: 69" test $? = 69
VIRNUCPRO_PLUGIN_DIR=$scratch "$program" doctor >out
check "doctor names a broken plug-in" grep -q 'plug-in does not load' out
printf '>p\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHS\n' >protein.faa
expect "proteins given to predict: said" 0 "protein.faa: record 'p' looks like protein, but DNA is wanted" predict protein.faa -o protein
check "proteins given to predict: in the summary" grep -q "looks like protein" protein/summary.json
expect "proteins given to translate: said" 0 "looks like protein" translate protein.faa -o protein_frames
vnp predict "$source_dir/examples/phage_lambda.fna" -o kind
check "DNA given to predict: nothing said" bash -c "! grep -q 'looks like' err"
finish
