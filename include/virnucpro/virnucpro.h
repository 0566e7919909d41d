/* SPDX-License-Identifier: MIT
 * virnucpro: which sequences are viral, and what are their embeddings. The public C interface.
 *
 *   vnp_engine   models opened and devices chosen; made once, then only read
 *   vnp_job      one run over files: predict, embed or translate
 *   vnp_engine_embed, vnp_engine_predict   the same answers for sequences in memory
 *
 * Every options struct begins with its size and version and is filled by its *_INIT macro, so that
 * a program built against an older header goes on working. A NULL or 0 field means its default.
 * The library never prints, exits or installs signal handlers. Text returned is UTF-8 as given. */
#ifndef VIRNUCPRO_VIRNUCPRO_H
#define VIRNUCPRO_VIRNUCPRO_H

#include <virnucpro/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VNP_API_VERSION 1

typedef struct vnp_engine vnp_engine;
typedef struct vnp_job vnp_job;

/* ---- version, errors, log ------------------------------------------------------------------- */

/** Version of the library, e.g. "0.1.0".
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    a static string; never freed.
 *  Threads  any.
 *  Returns  never NULL.
 *  Since    0.1        Source  none
 */
VNP_API const char *vnp_version(void);

/* Everything that is known about a failure. Unknown numbers are -1, unknown strings "". */
typedef struct vnp_error_detail {
    size_t size; /* set by the caller: sizeof(vnp_error_detail) */
    vnp_status status;
    int exit_code;      /* what the program `virnucpro` would exit with */
    int64_t line;       /* from 1 */
    int64_t off_byte;   /* in the file's plain text */
    const char *file;   /* as the user named it */
    const char *record; /* record id or tensor name */
    const char *text;   /* what is wrong */
    const char *hint;   /* what to do about it */
} vnp_error_detail;

/** This thread's last failure as one line: file, line, byte, record, what is wrong, what to do.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    the library; valid until this thread's next failing call.
 *  Threads  any; every thread has its own record.
 *  Returns  never NULL; "" when nothing has failed.
 *  Since    0.1        Source  none
 */
VNP_API const char *vnp_last_error(void);

/** This thread's last failure, field by field.
 *
 *  Shapes   out[1], out->size set by the caller.
 *  Units    off_byte in bytes, line from 1.
 *  Owner    strings belong to the library; valid until this thread's next failing call.
 *  Threads  any; every thread has its own record.
 *  Returns  VNP_OK; INVAL (out NULL or of unknown size).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_last_error_get(vnp_error_detail *out) VNP_WARN_UNUSED;

/* 0 error, 1 warning, 2 information, 3 debug (per batch), 4 trace (per operation). */
typedef void vnp_log_callback(void *ctx, int level, const char *room, const char *text);

/** Where log lines go; none by default. For the whole process.
 *
 *  Shapes   none.
 *  Units    max_level 0..4.
 *  Owner    ctx stays the caller's and must live until the callback is replaced.
 *  Threads  call before other threads use the library; fn is called from any thread, one call at
 *           a time.
 *  Returns  nothing; fn NULL silences.
 *  Since    0.1        Source  none
 */
VNP_API void vnp_log_callback_set(vnp_log_callback *fn, void *ctx, int max_level);

/* ---- engine --------------------------------------------------------------------------------- */

enum {
    VNP_FOR_PREDICT = 1, /* both encoders and a classifier */
    VNP_FOR_EMBED = 2,   /* one encoder, `model` */
    VNP_FOR_TRAIN = 4    /* both encoders; a classifier beside them is passed over */
};

typedef struct vnp_engine_options {
    size_t size;
    uint32_t version;
    uint32_t purpose;       /* VNP_FOR_PREDICT | VNP_FOR_EMBED */
    const char *models;     /* bundle file or folder; NULL: the model shipped with the program */
    const char *esm;        /* protein encoder, overrides the one in `models` */
    const char *dnabert;    /* DNA encoder, likewise */
    const char *classifier; /* likewise */
    const char *model;      /* for embed: an ESM-2 or DNABERT-S model, told by its content */
    const char *device;     /* "auto", "cpu", "cuda", "cuda:0,2"; NULL is "auto" */
    const char *precision;  /* "auto", "fp32", "bf16", "fp16", "fp8", "int8"; NULL is "auto" */
    int32_t n_threads;      /* 0: one a CPU that this process may use */
    int32_t window_bp;      /* 0: the classifier's own, else 500 */
    int64_t n_tokens;       /* batch budget; 0: from the device */
} vnp_engine_options;
#define VNP_ENGINE_OPTIONS_INIT                                                                    \
    { sizeof(vnp_engine_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/** Opens the models, checks them, chooses devices and precision.
 *
 *  Shapes   options[1]; out[1].
 *  Units    n_tokens in tokens, window_bp in bases.
 *  Owner    the caller owns *out (vnp_engine_destroy); options and strings may go after return.
 *  Threads  any; the engine may then be shared by threads.
 *  Returns  VNP_OK; INVAL (options), FORMAT, TRUNCATED, MISMATCH, NOT_FOUND, IO (model files),
 *           UNSUPPORTED (model or precision), DEVICE (a device asked for by name is not there),
 *           NOMEM; *out is NULL on error.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_engine_create(const vnp_engine_options *options,
                                     vnp_engine **out) VNP_WARN_UNUSED;

/** Frees an engine, its devices and mapped files.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    takes engine; NULL is legal. Its jobs must have been destroyed.
 *  Threads  no call on the engine may be under way.
 *  Returns  nothing.
 *  Since    0.1        Source  none
 */
VNP_API void vnp_engine_destroy(vnp_engine *engine);

typedef struct vnp_engine_info {
    size_t size;              /* set by the caller */
    const char *device;       /* e.g. "cpu (avx512, 2 threads)" */
    const char *precision;    /* e.g. "fp32" */
    const char *why;          /* why this device and precision */
    const char *models;       /* what was opened, one line */
    const char *note;         /* what the bundle says about itself, or "" */
    int32_t is_bundled;       /* the model shipped with the program is in use */
    int32_t window_bp;        /* predict: window length */
    int32_t n_dna, n_protein; /* columns of the encoders' vectors, 0 where there is none */
} vnp_engine_info;

/** What an engine consists of.
 *
 *  Shapes   out[1], out->size set by the caller.
 *  Units    n_dna, n_protein in columns; window_bp in bases.
 *  Owner    strings belong to the engine and live as long as it.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL (NULL or unknown size).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_engine_info_get(const vnp_engine *engine,
                                       vnp_engine_info *out) VNP_WARN_UNUSED;

/** Smallest and largest legal value of a numeric option: "n_threads", "n_tokens", "window_bp",
 *  "n_shards", "grace_s".
 *
 *  Shapes   min[1], max[1].
 *  Units    those of the option.
 *  Owner    caller's memory.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL (no such option).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_option_bounds(const char *name, int64_t *min, int64_t *max) VNP_WARN_UNUSED;

/* ---- sequences in memory -------------------------------------------------------------------- */

typedef struct vnp_embed_options {
    size_t size;
    uint32_t version;
    int32_t layer;    /* -1: last (after the final norm); 0: embedding; 1..L */
    const char *pool; /* "mean" (NULL) or "cls" */
} vnp_embed_options;
#define VNP_EMBED_OPTIONS_INIT                                                                     \
    { sizeof(vnp_embed_options), VNP_API_VERSION, -1, 0 }

/** Columns of a vector that vnp_engine_embed gives.
 *
 *  Shapes   n_cols[1].
 *  Units    columns of FP32.
 *  Owner    caller's memory.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL (the engine was not made with VNP_FOR_EMBED).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_engine_embed_cols(const vnp_engine *engine, int64_t *n_cols) VNP_WARN_UNUSED;

/** Embeds n_seqs sequences.
 *
 *  Shapes   seqs[n_seqs], lens[n_seqs]; out[n_seqs][n_cols] float, n_cols from
 *           vnp_engine_embed_cols; out_n is the number of floats in out.
 *  Units    lens in letters; case does not matter. A sequence without letters gets a row of NaN,
 *           any other one finite numbers: vectors that overflow in the engine's precision are
 *           computed again in FP32 and counted (vnp_engine_counts_get). The first of them waits for
 *           a second set of weights, which stays until the engine is destroyed.
 *  Owner    caller owns everything; nothing is kept after return.
 *  Threads  several threads may call on one engine; calls take turns on its device.
 *  Returns  VNP_OK; INVAL (options, out too small, no VNP_FOR_EMBED, a sequence that is NULL or
 *           of more than 2^30 letters), FORMAT (a vector is NaN or infinite in FP32 too; the
 *           error's record is the number of its sequence, from 0), NOMEM, DEVICE, DEVICE_NOMEM;
 *           on error out is unspecified and the engine stays usable.
 *  Since    0.1        Source  upstream extract_feature; spec: pooling of ESM-2 and DNABERT-S
 */
VNP_API vnp_status vnp_engine_embed(vnp_engine *engine, float *out, size_t out_n,
                                    const char *const *seqs, const size_t *lens, size_t n_seqs,
                                    const vnp_embed_options *options) VNP_WARN_UNUSED;

typedef enum vnp_call { VNP_CALL_OTHER = 0, VNP_CALL_VIRUS = 1, VNP_CALL_UNSCORED = 2 } vnp_call;

/* One record's answer, as a row of contigs.tsv. */
typedef struct vnp_result {
    int64_t n_windows, n_scored, n_frames, n_virus;
    double virus_score; /* mean over scored windows; NaN when none was scored */
    vnp_call call;
} vnp_result;

/** Predicts records in memory: windows, open frames, both encoders, classifier.
 *
 *  Shapes   seqs[n_seqs], lens[n_seqs]; out[n_seqs], row s belongs to seqs[s].
 *  Units    lens in bases, white space between them does not count; virus_score is a probability.
 *           Frames that overflow are computed again in FP32, as by vnp_engine_embed.
 *  Owner    caller owns everything; nothing is kept after return.
 *  Threads  several threads may call on one engine; calls take turns on its device.
 *  Returns  VNP_OK; INVAL (no VNP_FOR_PREDICT, a sequence that is NULL or of more than 2^40
 *           letters), FORMAT (a vector or score that is NaN in FP32 too), NOMEM, DEVICE,
 *           DEVICE_NOMEM; the error's record is the number of the sequence that failed, from 0; on
 *           error out is unspecified and the engine stays usable. For whole files a job is faster.
 *  Since    0.1        Source  upstream prediction.py
 */
VNP_API vnp_status vnp_engine_predict(vnp_engine *engine, vnp_result *out, const char *const *seqs,
                                      const size_t *lens, size_t n_seqs) VNP_WARN_UNUSED;

typedef struct vnp_engine_counts {
    size_t size;                      /* set by the caller */
    int64_t n_sequences, n_tokens;    /* embedded; predict embeds a frame as DNA and as protein */
    int64_t n_reruns, n_rerun_tokens; /* of them, computed again in FP32: they had overflowed */
} vnp_engine_counts;

/** What an engine has computed for sequences in memory; jobs count for themselves.
 *
 *  Shapes   out[1], out->size set by the caller.
 *  Units    counts since vnp_engine_create.
 *  Owner    caller's memory.
 *  Threads  any, also while calls are under way: then some of their work is in it.
 *  Returns  VNP_OK; INVAL (NULL or unknown size).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_engine_counts_get(const vnp_engine *engine,
                                         vnp_engine_counts *out) VNP_WARN_UNUSED;

/* ---- jobs: files in, files out -------------------------------------------------------------- */

typedef enum vnp_job_kind {
    VNP_JOB_PREDICT = 1,
    VNP_JOB_EMBED = 2,
    VNP_JOB_TRANSLATE = 3
} vnp_job_kind;

typedef struct vnp_progress {
    int64_t n_records, n_windows, n_frames, n_tokens; /* finished */
    int64_t n_bytes_read, n_bytes_total;              /* total -1 when unknown */
    double elapsed_s, tokens_per_s;
    const char *stage; /* "loading", "running", "exporting" */
} vnp_progress;
/* Called about once a second from a thread of the job; 0 stops the job (CANCELED). */
typedef int vnp_progress_callback(void *ctx, const vnp_progress *p);

typedef struct vnp_job_options {
    size_t size;
    uint32_t version;
    uint32_t kind;             /* vnp_job_kind */
    const char *const *inputs; /* files, "-" is standard input */
    size_t n_inputs;
    const char *out;             /* folder (predict, translate) or file (embed) */
    int32_t shard_idx, n_shards; /* 0 of 0 or 1: everything */
    int32_t is_forced;           /* replace what belongs to another run */
    int32_t are_embeddings_saved, are_upstream_files_left_out;
    int32_t layer;       /* embed: as in vnp_embed_options */
    const char *pool;    /* embed: "mean" (NULL), "cls", "none" (every token) */
    int32_t window_bp;   /* translate: 0 is 500 */
    int32_t grace_s;     /* after a stop: seconds for the batches in flight, which are then
                            given up; 0 is 10 */
    const char *command; /* for the summary; may be NULL */
    const char *cache;   /* file of vectors shared by runs; NULL: none */
    int64_t cache_mb;    /* its largest size in MB; 0 is 4096 */
    vnp_progress_callback *progress;
    void *progress_ctx;
    int32_t n_workers;          /* 0: a child process for each GPU, the CPU computes in this one;
                                   1..: so many children for the CPU; -1: no children at all */
    const char *worker_program; /* what children run, see vnp_worker_run; NULL: the program
                                   virnucpro beside the library; none found: no children */
} vnp_job_options;
#define VNP_JOB_OPTIONS_INIT                                                                       \
    {                                                                                              \
        sizeof(vnp_job_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, 0, \
            0, 0, 0, 0                                                                             \
    }

/** Prepares a run over files; touches nothing yet.
 *
 *  Shapes   options->inputs[n_inputs]; out[1].
 *  Units    grace_s in seconds.
 *  Owner    the caller owns *out (vnp_job_destroy); everything options points to must live as long
 *           as the job. engine may be NULL for translate.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL (options, engine not made for this kind), NOMEM.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_job_create(vnp_engine *engine, const vnp_job_options *options,
                                  vnp_job **out) VNP_WARN_UNUSED;

/** Runs a job to its end. Files appear under their names only when whole; what is done is durable,
 *  the same call after an interruption goes on from there: with "auto" precision in the one that
 *  the run began with on this kind of device, whatever vnp_engine_info_get says.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    job stays the caller's.
 *  Threads  one call a job; one predict or embed job of an engine at a time.
 *  Returns  VNP_OK, also when some records failed (see vnp_job_counts_get); CANCELED after a stop;
 *           FORMAT, TRUNCATED (input), IO, MISMATCH (output belongs to another run), DEVICE,
 *           DEVICE_NOMEM, NOMEM, BUG.
 *  Since    0.1        Source  upstream prediction.py
 */
VNP_API vnp_status vnp_job_run(vnp_job *job) VNP_WARN_UNUSED;

typedef struct vnp_job_counts {
    size_t size; /* set by the caller */
    int64_t n_records, n_virus, n_other, n_unscored, n_failed, n_empty;
    int64_t n_windows, n_windows_scored, n_frames, n_duplicates, n_tokens_dna, n_tokens_protein;
    int64_t n_packs, n_unknown_residues;
    int32_t was_complete; /* there was nothing to do: the run had already finished */
    double wall_s;
} vnp_job_counts;

/** What a job did; after vnp_job_run.
 *
 *  Shapes   out[1], out->size set by the caller.
 *  Units    counts; wall_s in seconds.
 *  Owner    caller's memory.
 *  Threads  not while vnp_job_run is under way.
 *  Returns  VNP_OK; INVAL.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_job_counts_get(const vnp_job *job, vnp_job_counts *out) VNP_WARN_UNUSED;

/** Frees a job.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    takes job; NULL is legal.
 *  Threads  not while vnp_job_run is under way.
 *  Returns  nothing.
 *  Since    0.1        Source  none
 */
VNP_API void vnp_job_destroy(vnp_job *job);

/** Asks every job of this process to finish its batches, commit and return CANCELED.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    none.
 *  Threads  any, also from a signal handler.
 *  Returns  nothing.
 *  Since    0.1        Source  none
 */
VNP_API void vnp_stop_request(void);

/** The whole life of a worker process: computes batches for the job that started it, until that job
 *  ends or dies. A job starts `PROGRAM __worker FD`; a program that wants to be its own worker
 *  names itself in worker_program ("/proc/self/exe") and, when called so, calls this first of all
 *  and ends with its result. Signals that stop a job are ignored from then on: the job decides.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    fd stays open; the process is the worker's.
 *  Threads  the only thread of the process.
 *  Returns  VNP_OK when the job is over; CANCELED, FORMAT, DEVICE and the errors of opening a model
 *           otherwise: the job has been told.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_worker_run(int fd) VNP_WARN_UNUSED;

/* ---- models --------------------------------------------------------------------------------- */

typedef struct vnp_model_info {
    size_t size;      /* set by the caller in out[0] */
    const char *kind; /* "esm2", "dnabert-s", "classifier" */
    char format[64];  /* e.g. "safetensors" */
    char name[128];
    char dtype[8];   /* of most stored weights */
    char digest[33]; /* 32 hexadecimal digits; the same for every on-disk format */
    int64_t n_layers, n_hidden, n_heads, n_ffn, n_vocab; /* encoders */
    int64_t n_in, n_dna, n_protein, window_bp;           /* classifier; 0 = unknown */
    int64_t n_params, n_bytes;
    int32_t has_lm_head, has_tokenizer;
} vnp_model_info;

/** What models a file or folder holds. Reads every byte of them for the digest.
 *
 *  Shapes   out[n_max], *n_out <= 3 filled; out[0].size set by the caller.
 *  Units    n_bytes of stored weights.
 *  Owner    caller's memory; note (may be NULL) receives a bundle's note, cut to n_note bytes.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL (n_max < 3), IO, NOT_FOUND, FORMAT, TRUNCATED, UNSUPPORTED, MISMATCH.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_model_info_get(const char *path, vnp_model_info *out, size_t n_max,
                                      size_t *n_out, char *note, size_t n_note) VNP_WARN_UNUSED;

typedef struct vnp_convert_options {
    size_t size;
    uint32_t version;
    int32_t window_bp;  /* 0: as the classifier's name says, else unknown */
    const char *models; /* as in vnp_engine_options */
    const char *esm, *dnabert, *classifier;
    const char *note;  /* free text for people */
    const char *out;   /* the bundle to write */
    int32_t is_forced; /* replace an existing file */
} vnp_convert_options;
#define VNP_CONVERT_OPTIONS_INIT                                                                   \
    { sizeof(vnp_convert_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0 }

/** Writes one bundle: encoders, tokenizer, classifier, window, digests in one safetensors file.
 *
 *  Shapes   options[1].
 *  Units    window_bp in bases.
 *  Owner    nothing is kept after return.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL, MISMATCH (parts do not fit together; file exists), IO, and the errors of
 *           opening a model. The file appears only when whole.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_model_convert(const vnp_convert_options *options) VNP_WARN_UNUSED;

/* level: 0 fine, 1 worth knowing, 2 wrong. */
typedef void vnp_report_callback(void *ctx, int level, const char *what, const char *text);

/** Compares an installation of the published weights with the facts built into the library: vectors
 *  and scores of eight frames.
 *
 *  Shapes   options as for vnp_engine_create; parts that are not there are left out and named.
 *  Units    centred error, see docs/numerics.md.
 *  Owner    nothing is kept after return.
 *  Threads  any; fn is called from this thread.
 *  Returns  VNP_OK when everything compared agrees; MISMATCH (a model is not the published one, or
 *           computes otherwise), and the errors of vnp_engine_create.
 *  Since    0.1        Source  reference vectors of the published weights (spec: true_weights)
 */
VNP_API vnp_status vnp_model_verify(const vnp_engine_options *options, vnp_report_callback *fn,
                                    void *ctx) VNP_WARN_UNUSED;

/* ---- training -------------------------------------------------------------------------------- */

typedef struct vnp_training_options {
    size_t size;
    uint32_t version;
    const char *const *virus; /* FASTA or FASTQ files of each class */
    size_t n_virus;
    const char *const *other;
    size_t n_other;
    const char *out;    /* the classifier; OUT.train (vectors, state) and OUT.log.tsv beside it */
    const char *bundle; /* NULL, or a file for encoders and classifier together */
    const char *valid_ids; /* NULL, or a file with the ids of the records to judge on */
    double valid_share;    /* else this share of each class's frames, whole records; 0.1 */
    const char *optimizer; /* "sgd" (NULL) or "adamw" */
    double lr, momentum, weight_decay; /* 2e-4, 0.9, 0.01 (adamw only) */
    int32_t step_epochs;               /* the rate is multiplied by step_gamma every so many: 10 */
    double step_gamma;                 /* 0.85 */
    int32_t batch, max_epochs, patience, n_hidden; /* 32, 200, 5, 512 */
    double dropout;                                /* 0.5 */
    double weight_other, weight_virus;             /* of a class in the loss; 1, 1 */
    int32_t is_balanced;                           /* weights from the training frames instead */
    int32_t is_uncalibrated;                       /* leave the scores as the training gives them */
    int32_t is_forced;                             /* replace another training's files */
    uint64_t seed;                                 /* 42 */
    vnp_progress_callback *progress;
    void *progress_ctx;
} vnp_training_options;
#define VNP_TRAINING_OPTIONS_INIT                                                                  \
    {                                                                                              \
        sizeof(vnp_training_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0.1, 0, 2e-4, 0.9,     \
            0.01, 10, 0.85, 32, 200, 5, 512, 0.5, 1, 1, 0, 0, 0, 42, 0, 0                          \
    }

typedef struct vnp_training_result {
    size_t size; /* set by the caller */
    int64_t n_virus_records, n_other_records, n_virus_frames, n_other_frames; /* trained on */
    int64_t n_valid_virus_records, n_valid_other_records, n_valid_virus_frames,
        n_valid_other_frames;
    int64_t n_tokens; /* embedded */
    int32_t n_epochs, best_epoch;
    double accuracy, precision, recall, f1, auroc, brier, loss; /* validation frames, at the end */
    double scale, shift;  /* calibration of the logit difference; 1, 0 without */
    int32_t was_complete; /* the same training had already finished */
    double wall_s;
} vnp_training_result;

/** Trains a classifier on labelled sequences: every open frame of a record has the record's class;
 *  windows with ambiguous letters are left out; records are split whole. Repeated after an
 *  interruption it goes on: vectors are kept, at most one epoch is lost. The same data, models,
 *  options and seed give the same file byte for byte.
 *
 *  Shapes   options->virus[n_virus], other[n_other]; out[1], out->size set by the caller.
 *  Units    shares and measures 0..1; wall_s in seconds.
 *  Owner    nothing is kept after return. engine was made with VNP_FOR_TRAIN.
 *  Threads  one training, predict or embed job of an engine at a time.
 *  Returns  VNP_OK; CANCELED after a stop; INVAL (options), NOT_FOUND, FORMAT, TRUNCATED, IO
 *           (input or output), MISMATCH (a file on both sides, too few records, or the output
 *           belongs to another training), DEVICE, DEVICE_NOMEM, NOMEM.
 *  Since    0.1        Source  upstream train.py; docs/training.md
 */
VNP_API vnp_status vnp_training_run(vnp_engine *engine, const vnp_training_options *options,
                                    vnp_training_result *out) VNP_WARN_UNUSED;

/* ---- runs on disk --------------------------------------------------------------------------- */

typedef struct vnp_folder_status {
    size_t size;       /* set by the caller */
    int32_t is_active; /* another process is computing it */
    char state[16];    /* "running" (not finished), "computed" (files missing), "complete" */
    char shard[32];    /* "0/1" */
    int64_t n_records, n_windows, n_frames, n_tokens, n_failed_frames, n_incidents, n_sessions;
    int64_t n_bytes_read, n_bytes_total;   /* -1: unknown */
    double elapsed_s, tokens_per_s, eta_s; /* eta -1: unknown */
} vnp_folder_status;

/** How far a run is; reads only, also while another process computes it.
 *
 *  Shapes   path: folder of predict or file of embed; out[1], out->size set by the caller.
 *  Units    seconds, tokens/s, counts.
 *  Owner    caller's memory.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL, NOT_FOUND (no run there), IO, MISMATCH (not our database).
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_folder_status_get(const char *path, vnp_folder_status *out) VNP_WARN_UNUSED;

typedef struct vnp_merge_options {
    size_t size;
    uint32_t version;
    int32_t is_forced, are_upstream_files_left_out;
    const char *const *dirs; /* folders of all shards, any order */
    size_t n_dirs;
    const char *out;
    const char *command; /* for the summary; may be NULL */
} vnp_merge_options;
#define VNP_MERGE_OPTIONS_INIT                                                                     \
    { sizeof(vnp_merge_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0 }

/** Makes one run's files from the folders of all its shards: the bytes that one run would write.
 *
 *  Shapes   options->dirs[n_dirs]; counts may be NULL, else counts->size set by the caller.
 *  Units    counts.
 *  Owner    nothing is kept after return.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL, MISMATCH (shards that do not belong together, are missing or are not
 *           finished, named; out exists), NOT_FOUND, IO, NOMEM.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_folder_merge(const vnp_merge_options *options,
                                    vnp_job_counts *counts) VNP_WARN_UNUSED;

/* ---- judging a run -------------------------------------------------------------------------- */

/** Judges a finished predict folder against known answers: AUROC, AUPRC, F1, calibration, by group.
 *
 *  Shapes   truth_path: rows `record id, virus|other[, group]`, tab-separated; out_text[1].
 *  Units    see docs of `virnucpro evaluate`.
 *  Owner    the caller frees *out_text with vnp_text_free.
 *  Threads  any.
 *  Returns  VNP_OK; IO, NOT_FOUND, FORMAT, MISMATCH (no record in common), NOMEM.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_evaluate(const char *truth_path, const char *run_dir,
                                char **out_text) VNP_WARN_UNUSED;

/** Writes one page of HTML about a finished predict folder: what was found, where along each
 *  record, and what did it.
 *
 *  Shapes   n_records: how many records a list shows; 0 is 100.
 *  Units    positions in bases, from 1.
 *  Owner    nothing is kept after return.
 *  Threads  any.
 *  Returns  VNP_OK; INVAL, NOT_FOUND (no run), MISMATCH (not finished, not of predict, in use),
 *           FORMAT (damaged), IO, NOMEM, CANCELED. out_path (NULL: run_dir/report.html) appears
 *           whole or not at all.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_folder_report(const char *run_dir, const char *out_path,
                                     int64_t n_records) VNP_WARN_UNUSED;

/** Frees a text that the library handed out.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    takes text; NULL is legal.
 *  Threads  any.
 *  Returns  nothing.
 *  Since    0.1        Source  none
 */
VNP_API void vnp_text_free(char *text);

/* ---- the machine ---------------------------------------------------------------------------- */

/** Looks at CPU, memory, libraries, the bundled model and GPUs, and says what is missing.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    strings live during the callback only.
 *  Threads  any; fn is called from this thread.
 *  Returns  VNP_OK; a machine without a GPU is not an error.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_doctor(vnp_report_callback *fn, void *ctx) VNP_WARN_UNUSED;

/* ---- benches -------------------------------------------------------------------------------- */

typedef struct vnp_bench_cell {
    const char *key, *title; /* for programs, for people (with the unit; "passes?": 1 yes, 0 no) */
    double value;            /* NaN: unknown here */
} vnp_bench_cell;
/* Rows of one table come one after the other and have the same cells. */
typedef struct vnp_bench_row {
    const char *table, *name;
    const vnp_bench_cell *cells;
    size_t n_cells;
} vnp_bench_row;
typedef void vnp_bench_callback(void *ctx, const vnp_bench_row *row);

typedef struct vnp_bench_options {
    size_t size;
    uint32_t version;
    int32_t n_threads; /* host: threads that prepare; 0: one a CPU, at most 8 */
    const char *what;  /* "host": files to packs without a model; "pack": the packer; "device":
                          encoders on a device */
    const char *const *inputs; /* host: FASTA or FASTQ; none: random DNA and made genes */
    size_t n_inputs;
    const char *models, *dnabert; /* host: whose tokenizer; NULL: the model shipped */
    int64_t n_bytes;              /* host: of made input; 0 is 64 MB */
    int64_t n_sequences;          /* pack: 0 is 2,000,000 */
    int32_t window_bp;            /* host: 0 is 500 */
    const char *model;  /* device: "3B", "650M", "150M", "35M", "8M", "dnabert" (random weights in
                           memory) or a model's path; NULL: 3B and dnabert on GPUs, 35M on CPUs */
    const char *device; /* device: as in vnp_engine_options */
    const char *precision; /* device: one, or several with commas; NULL: all that it has */
    int64_t n_tokens;      /* device: batch budget; 0: the device's */
    int32_t n_seconds;     /* device: of each measurement; 0 is 10 */
} vnp_bench_options;
#define VNP_BENCH_OPTIONS_INIT                                                                     \
    { sizeof(vnp_bench_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/** Measures a part of the program on this machine.
 *
 *  Shapes   options->inputs[n_inputs]; fn gets rows of cells.
 *  Units    in the cells' titles. Rates "on one core" are of processor time.
 *  Owner    strings and cells live during the callback only. Temporary files (TMPDIR) are removed.
 *  Threads  any; fn is called from this thread.
 *  Returns  VNP_OK; INVAL (no such bench), NOMEM, IO, DEVICE, DEVICE_NOMEM, UNSUPPORTED
 *           (precision), and the errors of reading input or model.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_bench(const vnp_bench_options *options, vnp_bench_callback *fn,
                             void *ctx) VNP_WARN_UNUSED;

typedef struct vnp_validate_options {
    size_t size;
    uint32_t version;
    int32_t n_threads;  /* 0: one a CPU */
    const char *models; /* predict's models, as in vnp_engine_options; or */
    const char *esm, *dnabert, *classifier;
    const char *model;         /* one encoder */
    const char *device;        /* as in vnp_engine_options; the first one is used */
    const char *precisions;    /* with commas; NULL: all that the device has */
    const char *const *inputs; /* DNA for models, the encoder's kind for model */
    size_t n_inputs;
    int64_t n_frames;  /* open frames (model: records) to compare; 0 is 2,000 */
    int32_t window_bp; /* 0: the classifier's own, else 500 */
} vnp_validate_options;
#define VNP_VALIDATE_OPTIONS_INIT                                                                  \
    { sizeof(vnp_validate_options), VNP_API_VERSION, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/** Compares every precision with FP32 on the caller's own sequences and keeps the verdict in the
 *  user's cache folder, for "auto" precision.
 *
 *  Shapes   options->inputs[n_inputs]; fn gets rows of cells, the last table is the conclusion.
 *  Units    centred and relative errors, labels, differences of a probability: docs/numerics.md.
 *  Owner    strings and cells live during the callback only.
 *  Threads  any; fn is called from this thread.
 *  Returns  VNP_OK whatever passes; INVAL, UNSUPPORTED (the only precision named is not there),
 *           DEVICE, DEVICE_NOMEM, NOMEM, and the errors of reading input or model.
 *  Since    0.1        Source  none
 */
VNP_API vnp_status vnp_model_validate(const vnp_validate_options *options, vnp_bench_callback *fn,
                                      void *ctx) VNP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
