/* SPDX-License-Identifier: MIT
 * Workers of the device pool: encoders on one device, in this process (inproc.c) or in a child of
 * it (process.c is the host's side, worker.c the child's). */
#ifndef VNP_RUN_WORKER_H
#define VNP_RUN_WORKER_H

#include "run/run.h"

#include <stdatomic.h>

enum { ENC_DNA = 0, ENC_PROTEIN = 1, N_ENC = 2 };

struct run_pack;

/* How long a caller is ready to wait for a worker. */
struct run_patience {
    double limit_s;                  /* of waiting while awake; the watchdog's */
    const atomic_bool *is_abandoned; /* once true nobody wants the answer; may be NULL */
};

/* What became of a pack beside its vectors. */
struct run_outcome {
    bool is_judged;  /* rows that are not finite are their sequences' own fault */
    int64_t n_rerun; /* sequences computed again in FP32 */
    int64_t n_rerun_tokens;
    int64_t n_failed; /* sequences that are not finite then either */
    bool has_span;    /* when the device worked on it, on the device's own clock */
    double begin_s, end_s;
};

/* What a device thread drives. In-process encoders and worker processes implement it, tests a
 * stand-in. Calls of one worker come from one thread. Status DEVICE means that the worker is lost
 * and must be opened anew; after any other failure of submit or wait it goes on. */
struct run_worker_ops {
    const char *kind;
    vnp_status (*open)(void *ctx, const struct run_patience *p, void **worker);
    void (*close)(void *worker);
    int (*n_slots)(void *worker); /* packs that may be in flight */
    /* out [rows][cols] belongs to the worker until the slot is used again */
    vnp_status (*submit)(void *worker, int slot, const struct run_pack *p);
    /* Slots are waited for in the order of submit. CANCELED when abandoned, DEVICE when patience
     * is at its end. Encoders in this process cannot be interrupted inside an op: they look at
     * is_abandoned between layers and have no watchdog. */
    vnp_status (*wait)(void *worker, int slot, const struct run_patience *p, const float **out);
    /* of the pack last waited for in the slot; NULL: nothing is known */
    void (*outcome)(void *worker, int slot, struct run_outcome *out);
};

/* ---- inproc.c ----------------------------------------------------------------------------------
 */

/* What a worker computes with: the plan of one device. Borrowed by its workers. */
struct run_inproc {
    struct vnp_run_device device;
    enum vnp_precision precision;
    int n_threads;
    const char *cache_dir;                          /* may be NULL */
    const struct vnp_checkpoint *checkpoint[N_ENC]; /* NULL: not used */
    int64_t budget_tokens, max_seqs;
    struct vnp_encoder_want want;
};
extern const struct run_worker_ops vnp_run_inproc_ops; /* ctx is a struct run_inproc */

/* The same encoders with the caller's memory for the answers: what worker.c serves. */
struct run_encoders;
vnp_status vnp_run_encoders_open(const struct run_inproc *plan,
                                 struct run_encoders **out) VNP_WARN_UNUSED;
void vnp_run_encoders_close(struct run_encoders *w);
int vnp_run_encoders_n_sessions(const struct run_encoders *w);
struct vnp_device *vnp_run_encoders_device(struct run_encoders *w);
/* Numbers of an answer; 0 when the plan has no such encoder. */
int64_t vnp_run_encoders_n_floats(const struct run_encoders *w, const struct run_pack *p);
/* p (its items are not looked at) and out stay as they are until wait. */
vnp_status vnp_run_encoders_submit(struct run_encoders *w, int session, const struct run_pack *p,
                                   float *out) VNP_WARN_UNUSED;
vnp_status vnp_run_encoders_wait(struct run_encoders *w, int session,
                                 struct run_outcome *o) VNP_WARN_UNUSED;

/* ---- process.c: the host's side -----------------------------------------------------------------
 */

struct run_process {
    struct run_inproc plan;
    const char *program; /* `PROGRAM __worker FD` serves */
    char name[64];       /* of the device */
    uint32_t idx_device; /* of the backend, or a number that tells host workers apart */
    uint32_t n_starts;   /* written by the device's thread */
};
extern const struct run_worker_ops vnp_run_process_ops; /* ctx is a struct run_process */
/* What the device's backend says in a process of its own: its context dies with that process. */
vnp_status vnp_run_process_info(struct run_process *p, const struct run_patience *patience,
                                struct vnp_device_info *out) VNP_WARN_UNUSED;

#endif
