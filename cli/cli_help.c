// SPDX-License-Identifier: MIT
// The help texts. What they promise is design and contract: change them with CHANGELOG.
#include "cli.h"

#include <stdio.h>
#include <string.h>

static const char program_help[] =
    "virnucpro finds viruses in sequencing data with protein and DNA language models.\n"
    "\n"
    "usage: virnucpro COMMAND ...\n"
    "\n"
    "  predict IN... -o DIR      which sequences are viral\n"
    "  embed IN... -o FILE       embeddings of proteins (ESM-2) or DNA (DNABERT-S)\n"
    "  translate IN... -o DIR    windows and open reading frames only\n"
    "  train --virus FILES --other FILES -o HEAD   a classifier from your own labelled sequences\n"
    "  model info|convert|verify|validate   look at models, make one bundle, check precisions\n"
    "  status DIR                how far a run is, while it works or after\n"
    "  merge DIR... -o DIR       one result from the folders (or embed's files) of all shards\n"
    "  report DIR                a page to look at: what was found, and where\n"
    "  evaluate DIR --truth FILE judge a run against known answers\n"
    "  doctor                    what this machine offers and what is missing\n"
    "  bench host|pack|device    measure parts of the program on this machine\n"
    "  help COMMAND              options and examples of a command\n"
    "\n"
    "  -h, --help   -V, --version\n"
    "\n"
    "IN is FASTA or FASTQ, plain or compressed with gzip, BGZF or zstd, told by content; - is\n"
    "standard input; several files are one input in the order given.\n"
    "\n"
    "examples:\n"
    "  virnucpro predict contigs.fa.gz -o result          with the model shipped with the program\n"
    "  virnucpro predict contigs.fa -o result --models ~/models --device cuda\n"
    "  virnucpro embed proteins.faa -o proteins.npy --model esm2_t33_650M_UR50D.pt\n"
    "\n"
    "exit codes: 0 complete, 1 finished but some records failed, 2 usage, 65 bad input data,\n"
    "66 input missing, 69 device unavailable, 70 internal error, 73 output exists or belongs to\n"
    "another run, 74 I/O error or disk full, 75 interrupted (repeat the command to go on), 78 bad\n"
    "model, 128+n ended by signal n\n";

static const char shared_help[] =
    "\n"
    "machine:\n"
    "      --device WHAT      auto (all visible GPUs, else CPU), cpu, cuda, cuda:0,2    [auto]\n"
    "      --precision TYPE   auto (what `model validate` passed, else fp16 on GPUs, fp32 on "
    "CPUs),\n"
    "                         fp32, bf16, fp16, fp8, int8\n"
    "      --threads N        CPU threads                                  [all this job may use]\n"
    "      --tokens N         tokens a batch                                     [by the device]\n"
    "      --shard I/N        only the I-th of N parts of the records, I from 0\n"
    "      --cache FILE       vectors kept between runs of the same model; may be shared\n"
    "      --cache-size MB    largest size of that file                                  [4096]\n"
    "      --grace SECONDS    after an interrupt, time for the batches in flight            [10]\n"
    "      --workers N        on CPUs, N worker processes that share the threads; a worker that\n"
    "                         crashes costs its batch, not the run; 0 computes in one process,\n"
    "                         -1 also on GPUs (each has a process of its own otherwise)      [0]\n";

static const char log_help[] = "\n"
                               "messages (all on stderr):\n"
                               "  -q, --quiet            errors only\n"
                               "  -v, --verbose          more\n"
                               "      --log-json         one JSON object a line\n"
                               "  -h, --help   -V, --version\n";

static const char predict_help[] =
    "usage: virnucpro predict IN... -o DIR [options]\n"
    "\n"
    "Cuts each record into windows, translates their six frames, embeds the open frames as DNA\n"
    "(DNABERT-S) and protein (ESM-2) and classifies them. Repeating the command after an\n"
    "interruption goes on where it stopped.\n"
    "\n"
    "  -o, --output DIR       folder for the results; made if missing\n"
    "      --force            start anew, even if DIR holds another run\n"
    "\n"
    "models:\n"
    "      --models PATH      bundle, or folder with both encoders and a classifier\n"
    "                                                      [the model shipped with the program]\n"
    "      --esm PATH         ESM-2: fair-esm .pt or Hugging Face folder\n"
    "      --dnabert PATH     DNABERT-S folder\n"
    "      --classifier PATH  300_model.pth, 500_model.pth, ...\n"
    "      --window N         window length in bases        [the classifier's own, else 500]\n"
    "\n"
    "results:\n"
    "      --save-embeddings      keep the joined vectors of all frames\n"
    "      --no-upstream-files    leave out the two files in the original program's format\n";

static const char predict_more[] =
    "\n"
    "DIR then holds: contigs.tsv (one row a record), virus.fna (records called virus),\n"
    "prediction_results.txt and prediction_results_highestscore.csv (as the original VirNucPro\n"
    "writes them), summary.json, run.log, run.db.\n"
    "\n"
    "examples:\n"
    "  virnucpro predict contigs.fa.gz -o result\n"
    "  virnucpro predict reads_1.fq.gz reads_2.fq.gz -o result --models ~/virnucpro-models\n"
    "  virnucpro predict contigs.fa -o result --esm esm2_t36_3B_UR50D.pt --dnabert DNABERT-S \\\n"
    "      --classifier 500_model.pth --device cuda:0,1\n"
    "  zstd -dc contigs.fa.zst | virnucpro predict - -o result --threads 8\n";

static const char embed_help[] =
    "usage: virnucpro embed IN... -o FILE --model PATH [options]\n"
    "\n"
    "One vector a record, in input order, duplicates kept; FILE.ids.tsv beside it has the columns\n"
    "n, id, length, status. An empty record has status 'empty' and a row of NaN.\n"
    "\n"
    "  -o, --output FILE      .npy, .safetensors, .h5 or .tsv, told by the suffix\n"
    "      --force            replace FILE\n"
    "      --model PATH       ESM-2 (proteins) or DNABERT-S (DNA), told by its content\n"
    "      --pool HOW         mean (as VirNucPro pools), cls, none (every token)         [mean]\n"
    "      --layer N          1 to L, 0 is the embedding, -1 the last                      [-1]\n";

static const char embed_more[] =
    "\n"
    "examples:\n"
    "  virnucpro embed proteins.faa -o proteins.npy --model esm2_t36_3B_UR50D.pt\n"
    "  virnucpro embed genes.fna.gz -o genes.h5 --model DNABERT-S --pool cls --threads 4\n"
    "  virnucpro embed proteins.faa -o residues.safetensors --model esm2_t30 --pool none\n";

static const char translate_help[] =
    "usage: virnucpro translate IN... -o DIR [options]\n"
    "\n"
    "Writes what the original program makes before any model runs: chunked.fa (windows),\n"
    "nucleotide.fa and protein.faa (open frames).\n"
    "\n"
    "  -o, --output DIR       folder for the results; made if missing\n"
    "      --window N         window length in bases                                      [500]\n"
    "      --force            replace results that are there\n";

static const char translate_more[] = "\n"
                                     "examples:\n"
                                     "  virnucpro translate contigs.fa.gz -o frames\n"
                                     "  virnucpro translate reads.fq.gz -o frames --window 300\n";

static const char train_help[] =
    "usage: virnucpro train --virus FILES --other FILES -o HEAD.safetensors [options]\n"
    "\n"
    "Trains a classifier on the vectors of any two encoders. Every open frame of a record has the\n"
    "record's class; windows with ambiguous letters are left out. Whole records are held out to "
    "judge\n"
    "each epoch, and the scores are calibrated on them. Repeating the command after an "
    "interruption\n"
    "goes on; the same files, options and seed give the same HEAD byte for byte.\n"
    "\n"
    "      --virus FILES...   FASTA or FASTQ; may be given several times\n"
    "      --other FILES...   likewise: what is not viral\n"
    "  -o, --output HEAD      the classifier, for predict --classifier; beside it HEAD.log.tsv (a\n"
    "                         row an epoch) and HEAD.train (vectors and state; may be deleted)\n"
    "      --bundle FILE      also write encoders and classifier together, for predict --models\n"
    "      --force            replace another training's files; vectors that still fit are kept\n"
    "\n"
    "encoders:\n"
    "      --models PATH      bundle, or folder with both          [the model shipped with the "
    "program]\n"
    "      --esm PATH   --dnabert PATH\n"
    "      --window N         window length in bases                                          "
    "[500]\n"
    "\n"
    "training:\n"
    "      --valid-share P    percent of each class's frames held out, whole records           "
    "[10]\n"
    "      --valid-ids FILE   hold out the records named there instead, one id a line\n"
    "      --optimizer NAME   sgd or adamw                                                    "
    "[sgd]\n"
    "      --lr X  --momentum X  --weight-decay X (adamw)                      [0.0002, 0.9, "
    "0.01]\n"
    "      --step-epochs N  --step-factor X   the rate times X every N epochs           [10, "
    "0.85]\n"
    "      --batch N  --epochs N  --patience N                                        [32, 200, "
    "5]\n"
    "      --hidden N  --dropout X                                                       [512, "
    "0.5]\n"
    "      --class-weights W  none, balanced, or OTHER:VIRUS                                 "
    "[none]\n"
    "      --seed N           split, first weights, order and dropout                          "
    "[42]\n"
    "      --uncalibrated     leave the scores as the training gives them\n"
    "\n"
    "machine:\n"
    "      --device WHAT  --precision TYPE  --threads N  --tokens N          as predict has them\n";

static const char train_more[] =
    "\n"
    "examples:\n"
    "  virnucpro train --virus phages.fa.gz viruses.fa.gz --other bacteria.fa host.fa -o "
    "my.safetensors\n"
    "  virnucpro predict contigs.fa -o result --classifier my.safetensors\n"
    "  virnucpro train --virus v.fa --other o.fa -o h300.safetensors --window 300 \\\n"
    "      --esm esm2_t36_3B_UR50D.pt --dnabert DNABERT-S --bundle all.safetensors --device cuda\n"
    "  virnucpro train --virus v.fa --other o.fa -o h.safetensors --optimizer adamw --lr 0.001\n"
    "  virnucpro predict new.fa -o judged --models all.safetensors\n"
    "  virnucpro evaluate judged --truth t.tsv\n";

static const char model_help[] =
    "usage: virnucpro model info PATH... [--json]\n"
    "       virnucpro model convert [PATH] [--esm PATH] [--dnabert PATH] [--classifier PATH]\n"
    "                 -o BUNDLE [--window N] [--note TEXT] [--force]\n"
    "       virnucpro model verify [PATH] [--esm PATH] [--dnabert PATH] [--classifier PATH]\n"
    "                 [--device WHAT] [--precision TYPE] [--threads N]\n"
    "       virnucpro model validate IN... [--models PATH | --model PATH] [--precision LIST]\n"
    "                 [--device WHAT] [--frames N] [--window N] [--threads N] [--json]\n"
    "\n"
    "info      architecture, sizes, stored type and digest; the digest is the same for every file\n"
    "          format of the same weights\n"
    "convert   writes one safetensors file with everything predict needs, for --models\n"
    "verify    compares vectors and scores of eight frames with those of the published weights\n"
    "validate  compares each precision with fp32 on your own sequences: errors, labels that flip,\n"
    "          speed; says which pass and keeps it in ~/.cache/virnucpro for --precision auto\n"
    "\n"
    "Options of validate\n"
    "      --models PATH      as for predict, also --esm, --dnabert, --classifier: passes what\n"
    "                         flips at most 0.1 % of the labels             [the model shipped]\n"
    "      --model PATH       one encoder alone: passes a centred error of at most 0.02 in the\n"
    "                         median and 0.1 anywhere; IN is of the encoder's kind\n"
    "      --precision LIST   fp16,bf16,...                          [all that the device has]\n"
    "      --frames N         open frames (--model: records) from the beginning of IN; kept for\n"
    "                         --precision auto from 1000 on                              [2000]\n"
    "A precision that fails is a result: the exit code is 0. Centred errors are relative to how\n"
    "far a vector is from the mean of all; what overflows is computed again in fp32, as in a run.\n"
    "\n"
    "Read are: fair-esm .pt, Hugging Face folders (safetensors or .bin, sharded or not),\n"
    "DNABERT-S folders, VirNucPro classifiers (.pth), safetensors, and our bundles. Nothing\n"
    "stored in a file is ever executed.\n"
    "\n"
    "examples:\n"
    "  virnucpro model info esm2_t36_3B_UR50D.pt DNABERT-S 500_model.pth\n"
    "  virnucpro model convert --esm esm2_t36_3B_UR50D.pt --dnabert DNABERT-S \\\n"
    "      --classifier 500_model.pth -o virnucpro-500.safetensors\n"
    "  virnucpro model verify virnucpro-500.safetensors\n"
    "  virnucpro model validate contigs.fa --models virnucpro-500.safetensors\n";

static const char status_help[] =
    "usage: virnucpro status DIR... [--json]\n"
    "\n"
    "How far a run is: records, rate, time left, incidents. Reads only, also while it works.\n"
    "\n"
    "example:\n"
    "  virnucpro status result\n";

static const char merge_help[] =
    "usage: virnucpro merge DIR... -o DIR [options]\n"
    "       virnucpro merge FILE... -o FILE [options]\n"
    "\n"
    "Makes one result from the folders of all shards (predict --shard I/N), or from their files\n"
    "(embed --shard I/N; any of the four formats in, any out): the same bytes that one run would\n"
    "have written. Shards that are missing or not finished are named.\n"
    "\n"
    "  -o, --output PATH          folder (predict) or file (embed) for the result\n"
    "      --force                replace what is there\n"
    "      --no-upstream-files    leave out the two files in the original program's format\n";

static const char merge_more[] =
    "\n"
    "example:\n"
    "  for i in 0 1 2; do virnucpro predict contigs.fa -o part$i --shard $i/3; done\n"
    "  virnucpro merge part0 part1 part2 -o result\n"
    "  virnucpro merge part0.npy part1.npy part2.npy -o proteins.npy\n";

static const char report_help[] =
    "usage: virnucpro report DIR [-o FILE] [--records N]\n"
    "\n"
    "Writes a page of HTML about a finished run of predict or merge: counts, the distribution of "
    "the\n"
    "scores, a map of each viral record window by window, viral stretches in records called other\n"
    "(proviruses, chimeras), what was not scored and why, and how the run went. One file without\n"
    "scripts that any browser opens and that can be mailed.\n"
    "\n"
    "  -o, --output FILE      where to                                          [DIR/report.html]\n"
    "      --records N        how many records each list shows                              [100]\n"
    "  -q, --quiet            only errors\n"
    "\n"
    "examples:\n"
    "  virnucpro report result\n"
    "  virnucpro report result -o report.html --records 1000\n";

static const char evaluate_help[] =
    "usage: virnucpro evaluate DIR --truth FILE\n"
    "\n"
    "Compares a folder that predict or merge has written, whatever the model, with known answers\n"
    "and prints AUROC, AUPRC, F1, calibration and the figures by group, for windows, for records\n"
    "(virus_score, the mean over windows) and for records by evidence (the sum of their windows'\n"
    "log odds, which also counts how many windows there are). A group of one class is judged\n"
    "against all of the other. Records without an open frame have no score and are counted apart;\n"
    "records without an answer are passed over.\n"
    "\n"
    "      --truth FILE       tab-separated: record id, virus or other, optionally a group\n"
    "\n"
    "example:\n"
    "  virnucpro evaluate result --truth truth.tsv\n";

static const char doctor_help[] =
    "usage: virnucpro doctor\n"
    "\n"
    "CPU and its instruction sets, memory, libraries, the bundled model, GPU driver, CUDA\n"
    "libraries and plug-in: what is there and what is missing.\n"
    "\n"
    "example:\n"
    "  virnucpro doctor\n";

static const char bench_help[] =
    "usage: virnucpro bench host [FILE...] [--size MB] [--window N] [--threads N] [--models PATH]\n"
    "                            [--dnabert PATH] [--json]\n"
    "       virnucpro bench pack [--sequences N] [--json]\n"
    "       virnucpro bench device [--model NAME|PATH] [--device WHAT] [--precision LIST]\n"
    "                              [--seconds N] [--tokens N] [--threads N] [--json]\n"
    "\n"
    "Measures parts of the program on this machine and prints tables.\n"
    "\n"
    "host      the path without a model: reading, windows, frames and tokens on one core, then "
    "the\n"
    "          whole engine with a stand-in that answers at once. Without files: random DNA, and\n"
    "          DNA made of genes\n"
    "pack      the packer: fill of a budget of 16,896 tokens and sequences a second on one core\n"
    "\n"
    "device    an encoder on the first device named: tokens a second sustained, watts, share of "
    "what\n"
    "          its matrix products reach alone, time by op; reads, windows and a proteome\n"
    "\n"
    "      --model NAME|PATH  device: 3B, 650M, 150M, 35M, 8M, dnabert (random weights), or a\n"
    "                         model's file                       [3B and dnabert; on CPUs 35M]\n"
    "      --precision LIST   device: fp16,fp8,...                       [all that the device "
    "has]\n"
    "      --seconds N        device: of each measurement, after a third as much to warm    [10]\n"
    "      --tokens N         device: tokens a batch                             [by the device]\n"
    "      --device WHAT      device: cpu, cuda, cuda:1                                   [auto]\n"
    "      --size MB          host: of the made input                                       [64]\n"
    "      --window N         host: window length in bases                                 [500]\n"
    "      --threads N        host: threads that prepare; device: of a CPU\n"
    "                                                         [one a CPU; host: at most 8]\n"
    "      --models PATH      host: bundle or folder whose tokenizer is used  [the one shipped]\n"
    "      --dnabert PATH     host: likewise, a DNABERT-S folder\n"
    "      --sequences N      pack: how many of each kind                            [2000000]\n"
    "      --json             one JSON list of rows\n"
    "\n"
    "examples:\n"
    "  virnucpro bench host\n"
    "  virnucpro bench host contigs.fa.gz --threads 2\n"
    "  virnucpro bench pack --json\n"
    "  virnucpro bench device --model 650M --precision fp16,fp8\n";

int vnp_cli_help(const char *command) {
    const char *parts[4] = {program_help, "", "", ""};
    if (command && strcmp(command, "predict") == 0) {
        parts[0] = predict_help;
        parts[1] = shared_help;
        parts[2] = log_help;
        parts[3] = predict_more;
    } else if (command && strcmp(command, "embed") == 0) {
        parts[0] = embed_help;
        parts[1] = shared_help;
        parts[2] = log_help;
        parts[3] = embed_more;
    } else if (command && strcmp(command, "translate") == 0) {
        parts[0] = translate_help;
        parts[2] = log_help;
        parts[3] = translate_more;
    } else if (command && strcmp(command, "train") == 0) {
        parts[0] = train_help;
        parts[2] = log_help;
        parts[3] = train_more;
    } else if (command && strcmp(command, "model") == 0) {
        parts[0] = model_help;
    } else if (command && strcmp(command, "status") == 0) {
        parts[0] = status_help;
    } else if (command && strcmp(command, "merge") == 0) {
        parts[0] = merge_help;
        parts[2] = log_help;
        parts[3] = merge_more;
    } else if (command && strcmp(command, "report") == 0) {
        parts[0] = report_help;
    } else if (command && strcmp(command, "evaluate") == 0) {
        parts[0] = evaluate_help;
    } else if (command && strcmp(command, "doctor") == 0) {
        parts[0] = doctor_help;
    } else if (command && strcmp(command, "bench") == 0) {
        parts[0] = bench_help;
    } else if (command) {
        return vnp_cli_usage(NULL, "there is no help on '%s'", command);
    }
    for (int i = 0; i < 4; i++) fputs(parts[i], stdout);
    return fflush(stdout) == 0 ? 0 : VNP_EXIT_IO;
}
