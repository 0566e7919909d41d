// SPDX-License-Identifier: MIT
// The bytes between a host and its worker process; wire.h has the format. Encoding and decoding
// walk the same list of fields, so that the two cannot drift apart.
#include "run/wire.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAGIC = 0x57504e56, HEAD_BYTES = 16, MAX_MEMORY_LOG2 = 46 };

/* A place in a message, for writing or reading. */
struct cursor {
    uint8_t *to;         /* writing */
    const uint8_t *from; /* reading */
    size_t n, cap;
    const char *bad; /* the field that does not fit or makes no sense; NULL = all well */
};

static void fail_field(struct cursor *c, const char *what) {
    if (!c->bad) c->bad = what;
}

static void bytes(struct cursor *c, void *data, size_t n, const char *what) {
    if (c->bad) return;
    if (n > c->cap - c->n) {
        fail_field(c, what);
        return;
    }
    if (c->to)
        memcpy(c->to + c->n, data, n);
    else
        memcpy(data, c->from + c->n, n);
    c->n += n;
}

/* The machine's order is the wire's: both sides are one machine, and it is little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian");

static void u16(struct cursor *c, uint16_t *v, const char *what) {
    bytes(c, v, sizeof *v, what);
}

static void u32(struct cursor *c, uint32_t *v, uint32_t max, const char *what) {
    bytes(c, v, sizeof *v, what);
    if (!c->bad && *v > max) fail_field(c, what);
}

static void u64(struct cursor *c, uint64_t *v, const char *what) {
    bytes(c, v, sizeof *v, what);
}

static void i64(struct cursor *c, int64_t *v, int64_t min, int64_t max, const char *what) {
    bytes(c, v, sizeof *v, what);
    if (!c->bad && (*v < min || *v > max)) fail_field(c, what);
}

static void text(struct cursor *c, char *s, size_t cap, const char *what) {
    uint16_t n = c->to ? (uint16_t)strnlen(s, cap) : 0;
    u16(c, &n, what);
    if (!c->bad && n >= cap) fail_field(c, what);
    bytes(c, s, n, what);
    if (c->bad || c->to) return;
    s[n] = 0;
    if (strlen(s) != n) fail_field(c, what); /* a zero inside */
}

static void model(struct cursor *c, struct wire_model *m) {
    text(c, m->path, sizeof m->path, "model path");
    u32(c, &m->kind, 8, "model kind");
    u64(c, &m->stamp.lo, "model stamp");
    u64(c, &m->stamp.hi, "model stamp");
}

static void job(struct cursor *c, struct wire_job *j) {
    text(c, j->version, sizeof j->version, "version");
    text(c, j->backend, sizeof j->backend, "backend");
    text(c, j->name, sizeof j->name, "name");
    i64(c, &j->host_pid, 1, INT32_MAX, "host pid");
    u32(c, &j->precision, 16, "precision");
    u32(c, &j->is_emulation, 1, "emulation");
    u32(c, &j->idx_device, 4096, "device");
    u32(c, &j->n_threads, 65536, "threads");
    u32(c, &j->pool, 16, "pooling");
    u32(c, &j->log_level, VNP_LOG_TRACE, "log level");
    u32(c, &j->n_starts, UINT32_MAX, "starts");
    i64(c, &j->layer, -1, 1 << 20, "layer");
    i64(c, &j->budget_tokens, 0, INT32_MAX, "budget");
    i64(c, &j->max_seqs, 0, INT32_MAX, "sequences");
    text(c, j->cache_dir, sizeof j->cache_dir, "cache");
    for (int i = 0; i < WIRE_N_MODELS; i++) model(c, &j->models[i]);
}

static void ready(struct cursor *c, struct wire_ready *r) {
    text(c, r->device, sizeof r->device, "device name");
    u32(c, &r->n_sessions, WIRE_MAX_SLOTS - 1, "sessions");
    i64(c, &r->budget_tokens, 0, INT32_MAX, "budget");
    for (int i = 0; i < WIRE_N_MODELS; i++) i64(c, &r->n_cols[i], 0, 1 << 24, "columns");
}

static void slot(struct cursor *c, uint32_t *s, bool may_be_none) {
    bytes(c, s, sizeof *s, "slot");
    if (!c->bad && *s >= WIRE_MAX_SLOTS && !(may_be_none && *s == WIRE_NO_SLOT))
        fail_field(c, "slot");
}

static void map(struct cursor *c, struct wire_map *m) {
    slot(c, &m->slot, false);
    u64(c, &m->n_bytes, "bytes");
    if (!c->bad && (m->n_bytes < 1 || m->n_bytes >> MAX_MEMORY_LOG2)) fail_field(c, "bytes");
}

static void pack(struct cursor *c, struct wire_pack *p) {
    slot(c, &p->slot, false);
    u32(c, &p->enc, WIRE_N_MODELS - 1, "encoder");
    u64(c, &p->serial, "serial");
    i64(c, &p->n_tokens, 1, INT32_MAX, "tokens");
    i64(c, &p->n_seqs, 1, p->n_tokens, "sequences");
    i64(c, &p->max_len, 1, p->n_tokens, "longest");
    i64(c, &p->n_floats, 1, (int64_t)1 << (MAX_MEMORY_LOG2 - 2), "answer");
}

static void done(struct cursor *c, struct wire_done *d) {
    slot(c, &d->slot, false);
    u64(c, &d->serial, "serial");
    bytes(c, &d->seconds, sizeof d->seconds, "seconds");
    u32(c, &d->is_judged, 1, "judged");
    u32(c, &d->has_span, 1, "span");
    i64(c, &d->n_rerun, 0, INT32_MAX, "reruns");
    i64(c, &d->n_rerun_tokens, 0, INT32_MAX, "rerun tokens");
    i64(c, &d->n_failed, 0, INT32_MAX, "failures");
    bytes(c, &d->begin_s, sizeof d->begin_s, "begin");
    bytes(c, &d->end_s, sizeof d->end_s, "end");
    if (!c->bad && !(isfinite(d->seconds) && isfinite(d->begin_s) && isfinite(d->end_s)))
        fail_field(c, "times");
}

static void error(struct cursor *c, struct vnp_error *e) {
    int64_t status = e->status, origin = e->origin, os_errno = e->os_errno;
    i64(c, &status, -1000, -1, "status");
    i64(c, &origin, VNP_FROM_NONE, VNP_FROM_DEVICE, "origin");
    i64(c, &os_errno, 0, 1 << 16, "errno");
    i64(c, &e->off_byte, -1, INT64_MAX, "byte");
    i64(c, &e->line, -1, INT64_MAX, "line");
    text(c, e->file, sizeof e->file, "file");
    text(c, e->record, sizeof e->record, "record");
    text(c, e->text, sizeof e->text, "text");
    text(c, e->hint, sizeof e->hint, "hint");
    if (c->to || c->bad) return;
    e->status = (vnp_status)status;
    e->origin = (enum vnp_origin)origin;
    e->os_errno = (int)os_errno;
}

static void fail(struct cursor *c, struct wire_fail *f) {
    slot(c, &f->slot, true);
    u64(c, &f->serial, "serial");
    error(c, &f->error);
}

static void log_line(struct cursor *c, struct wire_log *l) {
    u32(c, &l->level, VNP_LOG_TRACE, "level");
    text(c, l->room, sizeof l->room, "room");
    text(c, l->text, sizeof l->text, "text");
}

static void payload(struct cursor *c, struct wire_message *m) {
    switch (m->type) {
    case WIRE_JOB:
        job(c, &m->job);
        break;
    case WIRE_READY:
        ready(c, &m->ready);
        break;
    case WIRE_MAP:
        map(c, &m->map);
        break;
    case WIRE_PACK:
        pack(c, &m->pack);
        break;
    case WIRE_DONE:
        done(c, &m->done);
        break;
    case WIRE_FAIL:
        fail(c, &m->fail);
        break;
    case WIRE_LOG:
        log_line(c, &m->log);
        break;
    case WIRE_TYPE_END:
        fail_field(c, "type");
        break;
    }
}

size_t vnp_run_wire_encode(const struct wire_message *m, uint8_t *buf, size_t cap) {
    struct cursor c = {.to = buf, .n = HEAD_BYTES, .cap = VNP_MIN(cap, (size_t)WIRE_MAX_BYTES)};
    if (c.cap < HEAD_BYTES) return 0;
    payload(&c, (struct wire_message *)(uintptr_t)m); /* writing leaves the message as it is */
    if (c.bad) return 0;
    uint32_t head[4] = {MAGIC, WIRE_VERSION | (uint32_t)m->type << 16, (uint32_t)c.n - HEAD_BYTES,
                        0};
    memcpy(buf, head, sizeof head);
    return c.n;
}

static vnp_status bad(const char *what) {
    return vnp_fail(VNP_FORMAT, VNP_FROM_DEVICE, "a message makes no sense: %s", what);
}

vnp_status vnp_run_wire_decode(const uint8_t *buf, size_t n, struct wire_message *out) {
    uint32_t head[4];
    if (n < HEAD_BYTES || n > WIRE_MAX_BYTES) return bad("length");
    memcpy(head, buf, sizeof head);
    uint32_t type = head[1] >> 16;
    if (head[0] != MAGIC) return bad("it does not begin with VNPW");
    if ((head[1] & 0xffff) != WIRE_VERSION) return bad("version");
    if (type < WIRE_JOB || type >= WIRE_TYPE_END) return bad("type");
    if (head[2] != n - HEAD_BYTES || head[3] != 0) return bad("length");
    struct cursor c = {.from = buf, .n = HEAD_BYTES, .cap = n};
    memset(out, 0, sizeof *out);
    out->type = (enum wire_type)type;
    payload(&c, out);
    if (!c.bad && c.n != n) fail_field(&c, "more than belongs to it");
    return c.bad ? bad(c.bad) : VNP_OK;
}

vnp_status vnp_run_wire_send(int fd, const struct wire_message *m, int fd_passed) {
    uint8_t buf[WIRE_MAX_BYTES];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    size_t n = vnp_run_wire_encode(m, buf, sizeof buf);
    if (n == 0) return vnp_fail(VNP_BUG, VNP_FROM_NONE, "message %d does not fit", (int)m->type);
    struct iovec part = {.iov_base = buf, .iov_len = n};
    struct msghdr msg = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd_passed >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd_passed, sizeof(int));
    }
    for (;;) {
        if (sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)n) return VNP_OK;
        if (errno != EINTR)
            return vnp_fail_errno(VNP_DEVICE, VNP_FROM_DEVICE, errno, "sending to the other side");
    }
}

/* Takes the descriptors of a message: the first is kept, others are closed. */
static int take_fd(struct msghdr *msg) {
    int kept = -1;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(msg); h; h = CMSG_NXTHDR(msg, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
            if (kept < 0)
                kept = fd;
            else
                close(fd);
        }
    }
    return kept;
}

enum wire_got vnp_run_wire_recv(int fd, double timeout_s, struct wire_message *out,
                                int *fd_passed) {
    uint8_t buf[WIRE_MAX_BYTES];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    *fd_passed = -1;
    int ms = timeout_s < 0 ? -1 : (int)VNP_MIN(timeout_s * 1e3 + 0.999, 1e6);
    int n_ready = poll(&p, 1, ms);
    if (n_ready == 0 || (n_ready < 0 && errno == EINTR)) return WIRE_GOT_NONE;
    struct iovec part = {.iov_base = buf, .iov_len = sizeof buf};
    struct msghdr msg = {.msg_iov = &part,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return WIRE_GOT_NONE;
    if (n <= 0) return WIRE_GOT_END;
    *fd_passed = take_fd(&msg);
    vnp_status status = msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
                            ? bad("longer than any message is")
                            : vnp_run_wire_decode(buf, (size_t)n, out);
    if (status == VNP_OK) return WIRE_GOT_MESSAGE;
    if (*fd_passed >= 0) close(*fd_passed);
    *fd_passed = -1;
    return WIRE_GOT_BAD;
}

bool vnp_run_wire_layout(int64_t n_tokens, int64_t n_seqs, int64_t n_floats,
                         struct wire_layout *out) {
    const int64_t max = (int64_t)1 << MAX_MEMORY_LOG2;
    if (n_tokens < 1 || n_tokens > INT32_MAX || n_seqs < 1 || n_seqs > n_tokens || n_floats < 1 ||
        n_floats > max / 4)
        return false;
    out->off_cu = VNP_ALIGN_UP((size_t)n_tokens * sizeof(uint16_t), (size_t)64);
    out->off_out = VNP_ALIGN_UP(out->off_cu + (size_t)(n_seqs + 1) * sizeof(int32_t), (size_t)64);
    out->n_bytes = out->off_out + (size_t)n_floats * sizeof(float);
    return out->n_bytes < (size_t)max;
}
