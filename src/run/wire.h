/* SPDX-License-Identifier: MIT
 * What a host and its worker process say to each other. Control messages travel over a
 * SOCK_SEQPACKET pair, one message a packet; batches and vectors lie in shared memory (a memfd a
 * slot, passed with MAP).
 *
 *   host                      worker
 *   JOB            ->                    which device, models, budget
 *                  <-         READY      or FAIL with slot -1
 *   MAP slot + fd  ->                    memory of a slot; again when a long sequence needs more
 *   PACK slot      ->                    a batch lies in the slot
 *                  <-         DONE slot  its vectors lie there too, or FAIL slot
 *                  <-         LOG        any time
 *   end of file    ->                    the worker ends
 *
 * Bytes, little-endian: u32 magic "VNPW", u16 version, u16 type, u32 bytes of payload, u32 0; then
 * the payload's fields in the order of the structs below, a text as u16 length and bytes. Both
 * sides check magic, version, type, length, ranges and that nothing is left over: a peer that went
 * mad costs an error, never a crash. */
#ifndef VNP_RUN_WIRE_H
#define VNP_RUN_WIRE_H

#include "base/base.h"

enum { WIRE_VERSION = 1, WIRE_MAX_BYTES = 24 << 10, WIRE_MAX_SLOTS = 8, WIRE_N_MODELS = 2 };

enum wire_type {
    WIRE_JOB = 1,
    WIRE_READY,
    WIRE_MAP,
    WIRE_PACK,
    WIRE_DONE,
    WIRE_FAIL,
    WIRE_LOG,
    WIRE_TYPE_END
};

struct wire_model {
    char path[4096];          /* "" = not used */
    uint32_t kind;            /* enum vnp_model_kind */
    struct vnp_hash128 stamp; /* of the files that the host has mapped */
};
struct wire_job {
    char version[32]; /* of the program: both sides must be the same build */
    char backend[16];
    char name[64];    /* of the device, for messages */
    int64_t host_pid; /* the worker ends when this is no longer its parent */
    uint32_t precision, is_emulation, idx_device, n_threads, pool, log_level;
    uint32_t n_starts; /* how often this device's worker was started before */
    int64_t layer, budget_tokens, max_seqs;
    char cache_dir[1024];                    /* "" = none */
    struct wire_model models[WIRE_N_MODELS]; /* by encoder */
};
struct wire_ready {
    char device[128];
    uint32_t n_sessions;
    int64_t budget_tokens; /* that the device suggests */
    int64_t n_cols[WIRE_N_MODELS];
};
struct wire_map {
    uint32_t slot;
    uint64_t n_bytes;
};
struct wire_pack {
    uint32_t slot, enc;
    uint64_t serial;
    int64_t n_tokens, n_seqs, max_len, n_floats; /* n_floats: of the answer */
};
struct wire_done {
    uint32_t slot;
    uint64_t serial;
    double seconds;               /* computing */
    uint32_t is_judged, has_span; /* and so on: struct run_outcome */
    int64_t n_rerun, n_rerun_tokens, n_failed;
    double begin_s, end_s;
};
struct wire_fail {
    uint32_t slot; /* WIRE_NO_SLOT: the worker as a whole */
    uint64_t serial;
    struct vnp_error error;
};
enum { WIRE_NO_SLOT = 0xffff };
struct wire_log {
    uint32_t level;
    char room[16];
    char text[2048];
};
struct wire_message {
    enum wire_type type;
    union {
        struct wire_job job;
        struct wire_ready ready;
        struct wire_map map;
        struct wire_pack pack;
        struct wire_done done;
        struct wire_fail fail;
        struct wire_log log;
    };
};

/* Bytes written, or 0 when a field is out of its range or cap is too small. */
size_t vnp_run_wire_encode(const struct wire_message *m, uint8_t *buf, size_t cap);
/* FORMAT, saying what is wrong. Every text of *out is terminated, every index in its range. */
vnp_status vnp_run_wire_decode(const uint8_t *buf, size_t n,
                               struct wire_message *out) VNP_WARN_UNUSED;

/* Sends m, with the descriptor fd_passed unless that is -1. DEVICE when the peer is gone. */
vnp_status vnp_run_wire_send(int fd, const struct wire_message *m, int fd_passed) VNP_WARN_UNUSED;
/* Waits up to timeout_s (< 0: for ever) for a message. *fd_passed is -1 or the receiver's to close.
 * NONE: time is over; END: the peer is gone; BAD: it sent nonsense (the error record says what). */
enum wire_got { WIRE_GOT_MESSAGE, WIRE_GOT_NONE, WIRE_GOT_END, WIRE_GOT_BAD };
enum wire_got vnp_run_wire_recv(int fd, double timeout_s, struct wire_message *out, int *fd_passed);

/* Where the parts of a batch lie in a slot; false when the sizes make no sense. */
struct wire_layout {
    size_t off_cu, off_out, n_bytes; /* tokens at 0 */
};
bool vnp_run_wire_layout(int64_t n_tokens, int64_t n_seqs, int64_t n_floats,
                         struct wire_layout *out);

#endif
