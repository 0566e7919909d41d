// SPDX-License-Identifier: MIT
// The host's side of a worker process: exec of the worker program, a socket for control, a memfd a
// slot for batches and vectors, a pipe for what the child prints. A child that dies, hangs or talks
// nonsense costs status DEVICE here and nothing else: it is killed and reaped, its memory is
// sealed against shrinking, and every index it sends is checked.
//
// Only the thread that opened a worker uses it, and it must live as long as the worker does:
// PR_SET_PDEATHSIG kills the child when that thread ends.
#include "run/engine.h"
#include "run/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHILD_FD = 3, LINE = 512, MANY = 64 };
static const double slice_s = 0.05; /* between two looks at is_abandoned */

struct slot {
    uint8_t *data;
    size_t n_bytes;
    uint64_t serial; /* of the batch in it */
    struct wire_layout at;
    bool is_busy, is_done;
    vnp_status status; /* once done: this, and one of the two that follow */
    struct vnp_error error;
    struct run_outcome outcome;
};

struct process {
    const struct run_process *plan;
    pid_t pid;      /* 0: none, or reaped */
    int fd, log_fd; /* -1: closed */
    int n_slots;
    struct slot slots[WIRE_MAX_SLOTS];
    uint64_t serial;
    char line[LINE]; /* what the child printed, up to a newline */
    size_t n_line;
    char last_line[LINE];
};

/* ---- what the child prints ----------------------------------------------------------------------
 */

static void line_end(struct process *w) {
    w->line[w->n_line] = 0;
    if (w->n_line > 0) {
        memcpy(w->last_line, w->line, w->n_line + 1);
        vnp_log(VNP_LOG_INFO, "worker", "%s: %s", w->plan->name, w->line);
    }
    w->n_line = 0;
}

static void log_drain(struct process *w) {
    char buf[4096];
    for (int k = 0; k < MANY && w->log_fd >= 0; k++) {
        ssize_t n = read(w->log_fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            close(w->log_fd);
            w->log_fd = -1;
            line_end(w);
            return;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] == '\n' || w->n_line + 1 == sizeof w->line) line_end(w);
            if (buf[i] != '\n') w->line[w->n_line++] = buf[i];
        }
    }
}

/* ---- birth and death ----------------------------------------------------------------------------
 */

static void nap_ms(long ms) {
    struct timespec t = {.tv_nsec = ms * 1000000};
    nanosleep(&t, NULL);
}

/* How a child that closed its end came to die. */
static vnp_status tell_death(struct process *w) {
    char how[160] = "closed its end";
    int status = 0;
    for (int i = 0; i < 200 && w->pid > 0; i++) {
        pid_t got = waitpid(w->pid, &status, WNOHANG);
        if (got == 0) {
            nap_ms(5);
            continue;
        }
        w->pid = 0;
        if (got < 0) break; /* somebody else reaped it */
        if (WIFSIGNALED(status))
            snprintf(how, sizeof how, "was killed by signal %d (%s)", WTERMSIG(status),
                     strsignal(WTERMSIG(status)));
        else
            snprintf(how, sizeof how, "ended with exit code %d", WEXITSTATUS(status));
    }
    log_drain(w);
    return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the worker process of %s %s%s%s", w->plan->name,
                    how, w->last_line[0] ? "; its last words: " : "", w->last_line);
}

static void slot_unmap(struct slot *s) {
    if (s->data) munmap(s->data, s->n_bytes);
    *s = (struct slot){0};
}

static void process_close(void *worker) {
    struct process *w = worker;
    if (w->pid > 0) {
        kill(w->pid, SIGKILL); /* it holds nothing that would have to be put away */
        while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR) continue;
    }
    if (w->fd >= 0) close(w->fd);
    log_drain(w);
    if (w->log_fd >= 0) close(w->log_fd);
    for (int i = 0; i < WIRE_MAX_SLOTS; i++) slot_unmap(&w->slots[i]);
    free(w);
}

/* The child gets the socket as CHILD_FD, the pipe as its output, no input, and the signals that a
 * terminal or a scheduler sends to the whole group blocked until it ignores them. */
static int spawn(struct process *w, int child_fd, int log_fd) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t blocked;
    char fd_text[16];
    char name[] = "virnucpro", verb[] = "__worker";
    char *argv[] = {name, verb, fd_text, NULL};
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};
    snprintf(fd_text, sizeof fd_text, "%d", CHILD_FD);
    sigemptyset(&blocked);
    for (size_t i = 0; i < VNP_COUNT(numbers); i++) sigaddset(&blocked, numbers[i]);
    int err = posix_spawn_file_actions_init(&files);
    if (err) return err;
    err = posix_spawnattr_init(&attr);
    if (!err) {
        posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
        posix_spawnattr_setsigmask(&attr, &blocked);
        err = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
        if (!err) err = posix_spawn_file_actions_adddup2(&files, log_fd, 1);
        if (!err) err = posix_spawn_file_actions_adddup2(&files, log_fd, 2);
        if (!err) err = posix_spawn_file_actions_adddup2(&files, child_fd, CHILD_FD);
        if (!err) err = posix_spawn(&w->pid, w->plan->program, &files, &attr, argv, environ);
        posix_spawnattr_destroy(&attr);
    }
    posix_spawn_file_actions_destroy(&files);
    if (err) w->pid = 0;
    return err;
}

static vnp_status start_child(struct process *w) {
    int pair[2] = {-1, -1}, out[2] = {-1, -1};
    int err = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0 ||
        pipe2(out, O_CLOEXEC) != 0)
        err = errno;
    /* dup2 onto itself would leave close-on-exec set, and onto another end would lose it */
    for (int i = 0; i < 2 && !err; i++) {
        int *fds[] = {&pair[1], &out[1]};
        if (*fds[i] > CHILD_FD) continue;
        int moved = fcntl(*fds[i], F_DUPFD_CLOEXEC, CHILD_FD + 1);
        if (moved < 0) err = errno;
        close(*fds[i]);
        *fds[i] = moved;
    }
    if (!err && fcntl(out[0], F_SETFL, O_NONBLOCK) != 0) err = errno;
    if (!err) err = spawn(w, pair[1], out[1]);
    if (pair[1] >= 0) close(pair[1]);
    if (out[1] >= 0) close(out[1]);
    w->fd = pair[0];
    w->log_fd = out[0];
    if (!err) return VNP_OK;
    vnp_fail_errno(VNP_DEVICE, VNP_FROM_DEVICE, err, "starting a worker process for %s",
                   w->plan->name);
    vnp_error_at(w->plan->program, -1, -1, NULL);
    return VNP_DEVICE;
}

/* ---- messages -----------------------------------------------------------------------------------
 */

static vnp_status is_odd(struct process *w, const char *what) {
    return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the worker process of %s talks nonsense: %s",
                    w->plan->name, what);
}

static vnp_status take(struct process *w, const struct wire_message *m) {
    uint32_t idx = m->type == WIRE_DONE ? m->done.slot : m->fail.slot;
    uint64_t serial = m->type == WIRE_DONE ? m->done.serial : m->fail.serial;
    if (m->type == WIRE_LOG) {
        vnp_log((enum vnp_log_level)m->log.level, m->log.room, "%s: %s", w->plan->name,
                m->log.text);
        return VNP_OK;
    }
    if (m->type != WIRE_DONE && m->type != WIRE_FAIL) return is_odd(w, "a message out of place");
    if (idx >= (uint32_t)w->n_slots) return is_odd(w, "an answer for no slot");
    struct slot *s = &w->slots[idx];
    if (!s->is_busy || s->is_done || s->serial != serial)
        return is_odd(w, "an answer that nobody waits for");
    s->is_done = true;
    s->status = VNP_OK;
    if (m->type == WIRE_DONE) {
        s->outcome = (struct run_outcome){.is_judged = m->done.is_judged != 0,
                                          .n_rerun = m->done.n_rerun,
                                          .n_rerun_tokens = m->done.n_rerun_tokens,
                                          .n_failed = m->done.n_failed,
                                          .has_span = m->done.has_span != 0,
                                          .begin_s = m->done.begin_s,
                                          .end_s = m->done.end_s};
        return VNP_OK;
    }
    s->status = m->fail.error.status;
    s->error = m->fail.error;
    return VNP_OK;
}

/* Whatever comes within timeout_s, until the socket is empty (or very full: then the caller looks
 * at its patience first). */
static vnp_status listen_once(struct process *w, double timeout_s, struct wire_message *first,
                              bool *has_first) {
    struct pollfd fds[] = {{.fd = w->fd, .events = POLLIN}, {.fd = w->log_fd, .events = POLLIN}};
    (void)poll(fds, 2, (int)(timeout_s * 1e3 + 0.999));
    log_drain(w);
    for (int i = 0; i < MANY; i++) {
        struct wire_message m;
        int fd;
        enum wire_got got = vnp_run_wire_recv(w->fd, 0, &m, &fd);
        if (fd >= 0) close(fd);
        if (got == WIRE_GOT_NONE) return VNP_OK;
        if (got == WIRE_GOT_END) return tell_death(w);
        if (got == WIRE_GOT_BAD) {
            struct vnp_error e = *vnp_error_last();
            return is_odd(w, e.text);
        }
        if (first && m.type != WIRE_LOG) {
            *first = m;
            *has_first = true;
            return VNP_OK;
        }
        VNP_TRY(take(w, &m));
    }
    return VNP_OK;
}

static bool is_abandoned(const struct run_patience *p) {
    return p->is_abandoned && atomic_load(p->is_abandoned);
}

/* Time that this process was stopped or asleep does not count as the child's. */
static double slice_end(double t_begin) {
    return VNP_MIN(vnp_now_s() - t_begin, 10 * slice_s);
}

static vnp_status gave_up(const struct process *w, double waited_s) {
    return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE,
                    "the worker process of %s has not answered for %.1f s", w->plan->name,
                    waited_s);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static vnp_status text_copy(char *to, size_t n, const char *from) {
    if ((size_t)snprintf(to, n, "%s", from) < n) return VNP_OK;
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "too long for a worker: %.200s", from);
}

static vnp_status send_job(struct process *w, bool has_models) {
    const struct run_inproc *plan = &w->plan->plan;
    struct wire_message m = {.type = WIRE_JOB,
                             .job = {.host_pid = getpid(),
                                     .precision = (uint32_t)plan->precision,
                                     .is_emulation = plan->device.is_emulation,
                                     .idx_device = w->plan->idx_device,
                                     .n_threads = (uint32_t)VNP_MAX(0, plan->n_threads),
                                     .pool = (uint32_t)plan->want.pool,
                                     .n_starts = w->plan->n_starts,
                                     .layer = plan->want.layer,
                                     .budget_tokens = plan->budget_tokens,
                                     .max_seqs = plan->max_seqs}};
    while (m.job.log_level < VNP_LOG_TRACE && vnp_log_is_on(m.job.log_level + 1)) m.job.log_level++;
    VNP_TRY(text_copy(m.job.version, sizeof m.job.version, VNP_VERSION_STRING));
    VNP_TRY(text_copy(m.job.backend, sizeof m.job.backend, plan->device.backend->name));
    VNP_TRY(text_copy(m.job.name, sizeof m.job.name, w->plan->name));
    if (plan->cache_dir)
        VNP_TRY(text_copy(m.job.cache_dir, sizeof m.job.cache_dir, plan->cache_dir));
    for (int enc = 0; has_models && enc < N_ENC; enc++) {
        const struct vnp_checkpoint *c = plan->checkpoint[enc];
        if (!c) continue;
        VNP_TRY(text_copy(m.job.models[enc].path, sizeof m.job.models[enc].path,
                          vnp_checkpoint_path(c)));
        m.job.models[enc].kind = (uint32_t)vnp_checkpoint_spec(c)->kind;
        m.job.models[enc].stamp = vnp_checkpoint_stamp(c);
    }
    return vnp_run_wire_send(w->fd, &m, -1);
}

static vnp_status wait_ready(struct process *w, const struct run_patience *p,
                             struct wire_ready *out) {
    double waited = 0;
    for (;;) {
        struct wire_message m;
        bool has = false;
        double t = vnp_now_s();
        if (is_abandoned(p)) return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "abandoned");
        if (waited > p->limit_s) return gave_up(w, waited);
        VNP_TRY(listen_once(w, slice_s, &m, &has));
        waited += slice_end(t);
        if (!has) continue;
        if (m.type == WIRE_FAIL) {
            vnp_error_set(&m.fail.error);
            return m.fail.error.status;
        }
        if (m.type != WIRE_READY) return is_odd(w, "not ready, not failed");
        *out = m.ready;
        return VNP_OK;
    }
}

static vnp_status connect_child(struct process *w, bool has_models, const struct run_patience *p,
                                struct wire_ready *ready) {
    VNP_TRY(start_child(w));
    vnp_status status = send_job(w, has_models);
    if (status == VNP_DEVICE) return tell_death(w); /* it died before it heard of its job */
    VNP_TRY(status);
    return wait_ready(w, p, ready);
}

/* The slot's memory is at least n_bytes, and the child has it too. */
static vnp_status slot_map(struct process *w, int idx, size_t n_bytes) {
    struct slot *s = &w->slots[idx];
    struct wire_message m = {.type = WIRE_MAP, .map = {.slot = (uint32_t)idx, .n_bytes = n_bytes}};
    slot_unmap(s);
    int fd = memfd_create("virnucpro slot", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* allocated now: a full memory is an error here and not a SIGBUS later; sealed, so that the
     * child cannot take pages away from under the host */
    int err = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)n_bytes);
    if (!err && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) err = errno;
    void *p = err ? MAP_FAILED : mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (!err && p == MAP_FAILED) err = errno;
    vnp_status status = VNP_OK;
    if (err) {
        status = vnp_fail_errno(VNP_NOMEM, VNP_FROM_NONE, err, "%zu bytes shared with a worker",
                                n_bytes);
    } else {
        s->data = p;
        s->n_bytes = n_bytes;
        status = vnp_run_wire_send(w->fd, &m, fd);
    }
    if (fd >= 0) close(fd);
    return status;
}

/* Bytes of a slot for any pack within the budget. */
static size_t slot_bytes(const struct run_inproc *plan) {
    struct wire_layout at;
    int64_t n_cols = 1;
    int64_t n_rows = plan->want.pool == VNP_POOL_NONE ? plan->budget_tokens : plan->max_seqs;
    for (int enc = 0; enc < N_ENC; enc++)
        if (plan->checkpoint[enc])
            n_cols = VNP_MAX(n_cols, vnp_checkpoint_spec(plan->checkpoint[enc])->n_hidden);
    bool is_good = vnp_run_wire_layout(plan->budget_tokens, plan->max_seqs, n_rows * n_cols, &at);
    return is_good ? at.n_bytes : 0;
}

static vnp_status check_ready(struct process *w, const struct wire_ready *r) {
    const struct run_inproc *plan = &w->plan->plan;
    if (r->n_sessions < 1) return is_odd(w, "no session");
    for (int enc = 0; enc < N_ENC; enc++)
        if (plan->checkpoint[enc] &&
            vnp_checkpoint_spec(plan->checkpoint[enc])->n_hidden != r->n_cols[enc])
            return is_odd(w, "an encoder of another width");
    /* one more than it computes at a time, so that the next batch is there when one ends */
    w->n_slots = (int)r->n_sessions + 1;
    return VNP_OK;
}

static struct process *process_new(const struct run_process *plan) {
    struct process *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->plan = plan;
    w->fd = w->log_fd = -1;
    return w;
}

static vnp_status process_open(void *ctx, const struct run_patience *p, void **worker) {
    struct run_process *plan = ctx;
    struct wire_ready ready;
    struct process *w = process_new(plan);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    vnp_status status = connect_child(w, true, p, &ready);
    plan->n_starts++;
    if (status == VNP_OK) status = check_ready(w, &ready);
    for (int i = 0; status == VNP_OK && i < w->n_slots; i++)
        status = slot_map(w, i, slot_bytes(&plan->plan));
    if (status != VNP_OK) {
        struct vnp_error kept = *vnp_error_last();
        process_close(w);
        vnp_error_set(&kept);
        return status;
    }
    vnp_log(VNP_LOG_DEBUG, "run", "%s: worker process %ld computes on %s", plan->name, (long)w->pid,
            ready.device);
    *worker = w;
    return VNP_OK;
}

vnp_status vnp_run_process_info(struct run_process *plan, const struct run_patience *p,
                                struct vnp_device_info *out) {
    struct wire_ready ready;
    struct process *w = process_new(plan);
    if (!w) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    vnp_status status = connect_child(w, false, p, &ready);
    struct vnp_error kept = *vnp_error_last();
    process_close(w);
    vnp_error_set(&kept);
    memset(out, 0, sizeof *out);
    if (status != VNP_OK) return status;
    snprintf(out->name, sizeof out->name, "%s", ready.device);
    out->budget_tokens = ready.budget_tokens;
    return VNP_OK;
}

/* ---- batches ------------------------------------------------------------------------------------
 */

static int process_n_slots(void *worker) {
    return ((struct process *)worker)->n_slots;
}

static int64_t answer_floats(const struct run_inproc *plan, const struct run_pack *p) {
    int64_t n_rows = plan->want.pool == VNP_POOL_NONE ? p->view.n_tokens : p->view.n_seqs;
    return n_rows * vnp_checkpoint_spec(plan->checkpoint[p->enc])->n_hidden;
}

static vnp_status process_submit(void *worker, int idx, const struct run_pack *p) {
    struct process *w = worker;
    struct slot *s = &w->slots[idx];
    const struct run_inproc *plan = &w->plan->plan;
    struct wire_message m = {.type = WIRE_PACK,
                             .pack = {.slot = (uint32_t)idx,
                                      .enc = (uint32_t)p->enc,
                                      .serial = ++w->serial,
                                      .n_tokens = p->view.n_tokens,
                                      .n_seqs = p->view.n_seqs,
                                      .max_len = p->view.max_len,
                                      .n_floats = answer_floats(plan, p)}};
    struct wire_layout at;
    if (!vnp_run_wire_layout(p->view.n_tokens, p->view.n_seqs, m.pack.n_floats, &at))
        return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "a batch of %lld tokens",
                        (long long)p->view.n_tokens);
    size_t ordinary = slot_bytes(plan);
    /* larger for a long sequence, ordinary again after it */
    if (at.n_bytes > s->n_bytes || (s->n_bytes > ordinary && at.n_bytes <= ordinary))
        VNP_TRY(slot_map(w, idx, VNP_MAX(ordinary, at.n_bytes)));
    memcpy(s->data, p->view.tokens, (size_t)p->view.n_tokens * sizeof(uint16_t));
    memcpy(s->data + at.off_cu, p->view.cu_seqlens, (size_t)(p->view.n_seqs + 1) * sizeof(int32_t));
    s->at = at;
    s->serial = w->serial;
    s->is_busy = true;
    s->is_done = false;
    vnp_status status = vnp_run_wire_send(w->fd, &m, -1);
    return status == VNP_DEVICE ? tell_death(w) : status;
}

static vnp_status process_wait(void *worker, int idx, const struct run_patience *p,
                               const float **out) {
    struct process *w = worker;
    struct slot *s = &w->slots[idx];
    double waited = 0;
    while (!s->is_done) {
        double t = vnp_now_s();
        if (is_abandoned(p)) return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "abandoned");
        if (waited > p->limit_s) return gave_up(w, waited);
        VNP_TRY(listen_once(w, slice_s, NULL, NULL));
        waited += slice_end(t);
    }
    s->is_busy = false;
    *out = (const float *)(const void *)(s->data + s->at.off_out);
    if (s->status != VNP_OK) vnp_error_set(&s->error);
    return s->status;
}

static void process_outcome(void *worker, int idx, struct run_outcome *out) {
    *out = ((struct process *)worker)->slots[idx].outcome;
}

const struct run_worker_ops vnp_run_process_ops = {.kind = "process",
                                                   .open = process_open,
                                                   .close = process_close,
                                                   .n_slots = process_n_slots,
                                                   .submit = process_submit,
                                                   .wait = process_wait,
                                                   .outcome = process_outcome};
