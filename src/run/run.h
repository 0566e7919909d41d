/* SPDX-License-Identifier: MIT
 * run: the pipeline. Reader -> windows and frames -> dedup -> tokens -> packer -> devices -> join
 * -> classifier -> run database -> export, in input order. Names no backend: the api room hands
 * devices in. The room's one door. */
#ifndef VNP_RUN_H
#define VNP_RUN_H

#include "base/base.h"
#include "model/model.h"
#include "op/op.h"
#include "weights/weights.h"

/* A device the run may use. */
struct vnp_run_device {
    const struct vnp_backend *backend;
    int idx_device;    /* host backends: any number, told apart by it in messages */
    bool is_process;   /* its worker is a child process; needs worker_program */
    bool is_emulation; /* the reference rounds its operands to the precision (op.h) */
};

struct vnp_run_progress {
    int64_t n_records, n_windows, n_frames, n_tokens; /* finished */
    int64_t n_bytes_read, n_bytes_total;              /* total -1 when unknown */
    double elapsed_s;
    double tokens_per_s;
    const char *stage; /* "loading", "running", "exporting" */
};
/* Called from a run's own thread at least once a second; returns false to cancel. */
typedef bool vnp_run_progress_fn(void *ctx, const struct vnp_run_progress *p);

struct vnp_run_options {
    const char *const *inputs;
    size_t n_inputs;
    const char *out; /* folder (predict, translate) or file (embed) */
    const struct vnp_run_device *devices;
    int n_devices;
    const struct vnp_backend *host; /* classifier */
    enum vnp_precision precision;
    int n_threads;           /* < 1 = all */
    int64_t budget_tokens;   /* < 1 = from the device */
    int64_t window_bp;       /* < 1 = the classifier's, else 500 */
    int shard_idx, n_shards; /* 0 of 1 by default */
    bool is_forced, are_embeddings_saved, are_upstream_files_left_out;
    double grace_s;             /* after a stop request: time for the packs in flight; <= 0: 10 */
    const char *worker_program; /* `PROGRAM __worker FD` calls vnp_run_worker_serve */
    const char *cache_path;     /* cross-run vector cache or NULL */
    int64_t cache_mb;           /* its size; < 1 = 4096 */
    const char *cache_dir;      /* autotuning results of devices, or NULL */
    const char *command;        /* for the summary */
    /* models: checkpoints opened by the api; borrowed */
    struct vnp_checkpoint *esm2, *dnabert, *classifier;
    struct vnp_checkpoint *embed_model; /* embed: ESM-2 or DNABERT-S */
    enum vnp_pool_kind pool;
    int64_t layer;          /* -1 = last */
    const char *model_note; /* one line for the summary, e.g. that calls mean nothing */
    vnp_run_progress_fn *progress;
    void *progress_ctx;
    /* for tests and the curious; 0 = the default */
    double commit_s;       /* longest time between two commits: 5 */
    int64_t block_windows; /* windows of a block, the unit of resume: 256 */
    int64_t dedup_bytes;   /* memory for sequences seen before: 384 MiB; < 0 = none */
    double watchdog_s; /* least time without an answer after which a worker process is hung: 120 */
    double start_s;    /* time for a worker process to load its models, and for its first
                          pack, whose speed is not known: 1800 */
};

struct vnp_run_counts {
    int64_t n_records, n_virus, n_other, n_unscored, n_failed, n_empty;
    int64_t n_windows, n_windows_scored, n_frames, n_duplicates, n_tokens_dna, n_tokens_protein;
    int64_t n_packs, n_unknown_residues;
    bool was_complete; /* nothing to do: the run had already finished */
};

/* Each runs to its end or fails; CANCELED after an interrupt with everything durable kept. */
vnp_status vnp_run_predict(const struct vnp_run_options *opt,
                           struct vnp_run_counts *out) VNP_WARN_UNUSED;
vnp_status vnp_run_embed(const struct vnp_run_options *opt,
                         struct vnp_run_counts *out) VNP_WARN_UNUSED;
/* Writes chunked.fa, nucleotide.fa, protein.faa into opt->out. */
vnp_status vnp_run_translate(const struct vnp_run_options *opt,
                             struct vnp_run_counts *out) VNP_WARN_UNUSED;
/* Trains a classifier on labelled records. Beside the head stands `out`.train: the vectors of both
 * classes (run databases of their own) and the state after the last epoch, so that a repeated call
 * goes on; `out`.log.tsv has a row an epoch. The same data, options and seed give the same head,
 * byte for byte, whatever the number of threads and interruptions. */
struct vnp_run_training_options {
    struct vnp_run_options run;   /* devices, models, window, progress; inputs and out unused */
    const char *const *inputs[2]; /* files of class 0 (other) and 1 (virus) */
    size_t n_inputs[2];
    const char *out;       /* head file */
    const char *bundle;    /* NULL, or a file for encoders and head together */
    const char *valid_ids; /* NULL, or a file with the record ids of the validation part */
    double valid_share;    /* of each class's frames, 0..0.9; without valid_ids */
    bool is_balanced;      /* class weights from the training frames */
    bool is_uncalibrated;
    struct vnp_train_options train; /* progress unused */
};
struct vnp_run_training_result {
    int64_t n_records[2][2], n_frames[2][2]; /* [train, valid][other, virus] */
    int64_t n_windows, n_tokens;             /* embedded for it */
    int n_epochs, best_epoch;
    struct vnp_train_metrics valid; /* of the head as written */
    double scale, shift;            /* calibration; 1, 0 without */
    bool was_complete;              /* the head was there already */
};
vnp_status vnp_run_training(const struct vnp_run_training_options *opt,
                            struct vnp_run_training_result *out) VNP_WARN_UNUSED;
/* Judges a finished run folder against a truth table (tab-separated: record id, virus or other,
 * optionally a group; a heading is allowed). *out_text is a report in tab-separated rows, the
 * caller frees it. Errors have origin INPUT and name file and line. */
vnp_status vnp_run_evaluate(const char *truth_path, const char *run_dir,
                            char **out_text) VNP_WARN_UNUSED;

/* What is known of a run, from its database or, while another process computes, from the file that
 * process renews at every commit. */
struct vnp_run_status_info {
    bool is_active; /* another process has it open */
    char state[16]; /* running, computed, complete */
    char shard[32]; /* "0/1" */
    int64_t n_records, n_windows, n_frames, n_tokens, n_failed_frames, n_incidents, n_sessions;
    int64_t n_bytes_read, n_bytes_total;   /* -1 = unknown */
    double elapsed_s, tokens_per_s, eta_s; /* eta -1 = unknown */
};
/* DIR of predict, or FILE of embed. Reads only. NOT_FOUND when there is no run. */
vnp_status vnp_run_status(const char *path, struct vnp_run_status_info *out) VNP_WARN_UNUSED;
/* The precision that the run at `path` was begun with on this backend; false where there is none,
 * or its database is in use. */
bool vnp_run_precision_there(const char *path, const char *backend, enum vnp_precision *out);
/* One page of HTML about a finished run of predict or merge. NOT_FOUND when there is no run,
 * MISMATCH when it is not finished or another kind. */
struct vnp_run_report_options {
    const char *dir;
    const char *out;   /* NULL: dir/report.html */
    int64_t n_records; /* shown in each list; 0: 100 */
};
vnp_status vnp_run_report(const struct vnp_run_report_options *opt) VNP_WARN_UNUSED;
/* One run's files from those of all its shards: folders of predict, or files of embed in any of
 * the four formats. MISMATCH when they do not belong together or some are missing or unfinished,
 * naming them. */
struct vnp_run_merge_options {
    const char *const *dirs; /* or files */
    size_t n_dirs;
    const char *out;
    bool is_forced, are_upstream_files_left_out;
    const char *command;
};
vnp_status vnp_run_merge(const struct vnp_run_merge_options *opt,
                         struct vnp_run_counts *out) VNP_WARN_UNUSED;

/* ---- gpu.c: what NVIDIA's management library says; nothing where it is missing -------------- */

enum {
    VNP_RUN_GPU_TEMPERATURE_C,
    VNP_RUN_GPU_POWER_W,
    VNP_RUN_GPU_SM_MHZ,
    VNP_RUN_GPU_USE_PERCENT,
    VNP_RUN_GPU_MEMORY_GB, /* in use */
    VNP_RUN_GPU_N
};
struct vnp_run_gpu_values {
    double v[VNP_RUN_GPU_N]; /* -1 = unknown */
    uint64_t reasons;        /* why clocks are held down, NVML's bits */
};
struct vnp_run_gpu_info {
    char name[96], driver[80], pci[32];
    int major, minor;
    double memory_gb;
    struct vnp_run_gpu_values now;
};
struct vnp_run_gpu_stats {
    int64_t n_samples;
    double min[VNP_RUN_GPU_N], mean[VNP_RUN_GPU_N], max[VNP_RUN_GPU_N];
    uint64_t reasons; /* any sample's */
    double energy_j;  /* -1 = unknown */
};
bool vnp_run_gpu_is_there(const char **why);
int vnp_run_gpu_count(void);
bool vnp_run_gpu_look(int idx, struct vnp_run_gpu_info *out);
void vnp_run_gpu_reasons_text(uint64_t reasons, char *out, size_t n); /* "" = none of note */
/* Samples the GPUs at these PCI addresses ("" = none) twice a second until stopped; NULL: no
 * memory. stop writes [n] stats (out may be NULL) and frees. */
struct vnp_run_gpu_monitor;
struct vnp_run_gpu_monitor *vnp_run_gpu_monitor_start(const char (*pci)[32], int n);
void vnp_run_gpu_monitor_stop(struct vnp_run_gpu_monitor *m, struct vnp_run_gpu_stats *out);

/* True, with a warning, when a record looks like protein where DNA is wanted or the reverse. */
struct vnp_seq_record;
bool vnp_run_kind_warn(const struct vnp_seq_record *r, bool is_dna_wanted);

/* The tokenizer of a DNA encoder; MISMATCH when it knows tokens that the encoder has no row for. */
struct vnp_bpe;
vnp_status vnp_run_tokenizer_load(const struct vnp_checkpoint *dna,
                                  struct vnp_bpe **out) VNP_WARN_UNUSED;

/* ---- benches: figures a row at a time, nothing kept ------------------------------------------ */

struct vnp_run_bench_cell {
    const char *key, *title; /* for programs, for people */
    double value;
};
struct vnp_run_bench_row { /* lives for the call; rows of one table come one after the other */
    const char *table, *name;
    const struct vnp_run_bench_cell *cells;
    size_t n_cells;
};
typedef void vnp_run_bench_fn(void *ctx, const struct vnp_run_bench_row *row);
struct vnp_run_bench_options {
    const char *const *inputs; /* host: files; none: made ones */
    size_t n_inputs;
    struct vnp_checkpoint *dnabert; /* host: its tokenizer; NULL: no DNA tokens */
    int64_t window_bp, n_bytes;     /* host: 0 is 500; of made input, 0 is 64 MB */
    int64_t n_sequences;            /* pack: 0 is 2,000,000 */
    int n_threads;                  /* host: that prepare blocks; < 1 = all */
};
/* The path from files to packs and back without a model. */
vnp_status vnp_run_bench_host(const struct vnp_run_bench_options *opt, vnp_run_bench_fn *fn,
                              void *ctx) VNP_WARN_UNUSED;
/* Encoders alone on a device: tokens/s sustained, time by op, share of what the device's own matrix
 * products reach alone, watts. */
struct vnp_run_bench_device_options {
    struct vnp_run_device device;
    const char *title;                    /* of the tables: model and device */
    struct vnp_checkpoint *model;         /* an encoder */
    const enum vnp_precision *precisions; /* [n_precisions]; those the device lacks are left out */
    int n_precisions, n_threads;
    double seconds;        /* of a measurement; < = 0: 10 */
    int64_t budget_tokens; /* < 1: the device's */
};
vnp_status vnp_run_bench_device(const struct vnp_run_bench_device_options *opt,
                                vnp_run_bench_fn *fn, void *ctx) VNP_WARN_UNUSED;
/* The packer alone. */
vnp_status vnp_run_bench_pack(const struct vnp_run_bench_options *opt, vnp_run_bench_fn *fn,
                              void *ctx) VNP_WARN_UNUSED;
/* Asks every run of this process to finish its packs and stop; async-signal-safe. */
void vnp_run_request_stop(void);

/* The whole life of a worker process: serves the host at the other end of the socket fd until that
 * closes. The process is the worker's from now on: signals of its group are ignored, its log goes
 * to the host. find names the backends it may be asked for (NULL: there is none of that name). */
typedef const struct vnp_backend *vnp_run_backend_fn(const char *name);
vnp_status vnp_run_worker_serve(int fd, vnp_run_backend_fn *find) VNP_WARN_UNUSED;

#endif
