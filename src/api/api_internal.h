/* SPDX-License-Identifier: MIT
 * api, inside: what the files of this room share. Only this room names concrete backends; the
 * public structs are turned here into those of the rooms below. */
#ifndef VNP_API_INTERNAL_H
#define VNP_API_INTERNAL_H

#include "base/base.h"
#include "model/model.h"
#include "op/op.h"
#include "run/run.h"
#include "tok/tok.h"
#include "weights/weights.h"

#include <virnucpro/virnucpro.h>

#include <pthread.h>
#include <stdatomic.h>

enum { VNP_API_PATH = 4096, VNP_API_MAX_DEVICES = 64 };

/* ---- devices (api_devices.c) ---------------------------------------------------------------- */

struct vnp_api_devices {
    struct vnp_run_device list[VNP_API_MAX_DEVICES];
    int n;
    enum vnp_precision precision;
    char name[256], why[512];
    char why_not[320]; /* why no GPU is used although any was welcome; "" = one is, or none was
                          asked for */
};
/* Reads "auto", "cpu", "ref", "cuda", "cuda:0,2" and a precision; opens nothing but the plug-in. */
vnp_status vnp_api_devices_choose(const char *device, const char *precision, int n_threads,
                                  struct vnp_api_devices *out) VNP_WARN_UNUSED;
/* Puts why_not behind why. */
void vnp_api_devices_tell_why_not(struct vnp_api_devices *d);
/* What results of a validation hold for: the backend and the kind of device, without opening it. */
void vnp_api_device_identity(const struct vnp_api_devices *d, char *out, size_t n);
/* Precisions with commas between them; NULL or "auto": all a GPU may have. */
vnp_status vnp_api_precisions_parse(const char *text,
                                    enum vnp_precision *out /* [VNP_PREC_COUNT] */,
                                    int *n) VNP_WARN_UNUSED;
/* The fastest precision that `model validate` has passed for these parts (NULL: none) on this kind
 * of device; false when nothing is known. */
bool vnp_api_verdict_find(const struct vnp_api_devices *d, struct vnp_checkpoint *const *parts,
                          int n, enum vnp_precision *out, char *why, size_t n_why);
/* The CUDA backend, or NULL and a reason in why. Loaded once for the process. */
const struct vnp_backend *vnp_api_cuda(char *why, size_t n_why);

/* ---- models (api_models.c) ------------------------------------------------------------------ */

/* Paths of the parts, and the opened parts. */
struct vnp_api_models {
    char esm_path[VNP_API_PATH], dnabert_path[VNP_API_PATH], classifier_path[VNP_API_PATH];
    struct vnp_checkpoint *esm2, *dnabert, *classifier;
    bool is_bundled;
    char what[1024], note[1024];
};
struct vnp_api_model_paths {
    const char *models, *esm, *dnabert, *classifier;
    int64_t window_bp;
    bool is_partial;  /* a part that is nowhere is no error */
    bool is_headless; /* both encoders, whatever classifiers there are */
};
vnp_status vnp_api_models_open(const struct vnp_api_model_paths *paths,
                               struct vnp_api_models *out) VNP_WARN_UNUSED;
void vnp_api_models_close(struct vnp_api_models *m);
/* The model shipped with the program; false when there is none. */
bool vnp_api_bundled_path(char *out, size_t n);
/* The user's cache folder of this program: its path (false when nothing says where), and made if
 * missing (false when it cannot be). */
bool vnp_api_cache_path(char *out, size_t n);
bool vnp_api_cache_dir(char *out, size_t n);
/* Folder of the program or library, without a slash at its end. */
bool vnp_api_own_dir(char *out, size_t n);

/* ---- engine --------------------------------------------------------------------------------- */

/* An encoder made ready for calls in memory, on the first device. */
struct vnp_api_encoder {
    struct vnp_encoder *encoder;
    struct vnp_encoder_session *session;
    int64_t max_tokens, max_seqs;
};

struct vnp_engine {
    /* Written by create, read only afterwards. */
    uint32_t purpose;
    bool is_auto; /* nobody named a precision */
    struct vnp_api_devices devices;
    struct vnp_api_models models;
    struct vnp_checkpoint *embed_model;
    char embed_what[512];
    int n_threads;
    int64_t n_tokens, window_bp;
    char cache_dir[VNP_API_PATH]; /* "" = none */
    /* Calls in memory: made at the first call and used under the lock. */
    pthread_mutex_t lock;
    struct vnp_device *device, *host_device;
    struct vnp_api_encoder esm2, dnabert, embed;
    struct vnp_classifier *classifier;
    struct vnp_bpe *bpe;
    struct vnp_safe *safe; /* for vectors that are not finite */
    /* of calls in memory; written under the lock, read at any time */
    atomic_int_fast64_t n_sequences, n_tokens_done, n_reruns, n_rerun_tokens;
};

/* Under engine->lock: makes `e` ready for sequences of up to max_len tokens. */
vnp_status vnp_api_encoder_ready(struct vnp_engine *engine, struct vnp_api_encoder *e,
                                 const struct vnp_checkpoint *c, int64_t max_len) VNP_WARN_UNUSED;
void vnp_api_encoder_drop(struct vnp_api_encoder *e);
vnp_status vnp_api_bpe_ready(struct vnp_engine *engine, struct vnp_checkpoint *dna) VNP_WARN_UNUSED;
/* Sequences to embed and with what. */
struct vnp_api_embedding {
    struct vnp_api_encoder *encoder; /* of the engine, for checkpoint */
    struct vnp_checkpoint *checkpoint;
    struct vnp_encoder_want want;
    bool is_raw; /* vectors that are not finite are left as the precision gives them */
    const char *const *seqs;
    const size_t *lens;
    size_t n;
    float *out;        /* [n][D]; rows of sequences without letters are NaN */
    size_t idx_failed; /* set: the sequence that is not finite in FP32 either; SIZE_MAX: none */
};
/* Under engine->lock. */
vnp_status vnp_api_embed_seqs(struct vnp_engine *engine,
                              struct vnp_api_embedding *job) VNP_WARN_UNUSED;
const struct vnp_backend *vnp_api_host_backend(void);

/* INVAL unless the struct a caller handed in is of a size and version that this library knows. */
/* Every path of the list is there. */
vnp_status vnp_api_check_paths(const char *what, const char *const *paths, size_t n);
vnp_status vnp_api_check_struct(const char *what, const void *p, size_t size, size_t size_known,
                                uint32_t version) VNP_WARN_UNUSED;

/* The run room's progress as callers see it. */
vnp_progress vnp_api_progress_of(const struct vnp_run_progress *p);

#endif
