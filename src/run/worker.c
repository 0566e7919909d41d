// SPDX-License-Identifier: MIT
// The child's side of a worker process: takes a job, maps the same model files as the host, then
// encodes batches that lie in shared memory. It owns nothing that outlives it: whatever happens to
// it, the host gives its batches to another. It ends when the host's end of the socket closes or
// the thread that started it dies.
//
// For tests, VNP_TEST_WORKER_FAULT makes it fail to order: "KIND[,KIND...]:N" fails at every N-th
// batch, the kinds in turn over all starts of a device; "KIND@T" fails at each batch that holds
// three tokens T in a row. Kinds: kill, segv, exit (the process ends), hang, stop (it answers no
// more), garbage (on the socket), device (a device error), nan, nomem, and start (ends before it
// is ready; only with N), slow (0.2 s more). nomem spares batches below half of the budget.
#include "run/engine.h"
#include "run/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum fault {
    FAULT_NONE,
    FAULT_KILL,
    FAULT_SEGV,
    FAULT_EXIT,
    FAULT_HANG,
    FAULT_STOP,
    FAULT_GARBAGE,
    FAULT_DEVICE,
    FAULT_NAN,
    FAULT_NOMEM,
    FAULT_START,
    FAULT_SLOW
};

struct faults {
    enum fault kinds[16];
    int n_kinds;
    int64_t every, token; /* 0, -1: not so */
    int64_t n_packs, idx; /* seen; of the next kind */
    int64_t budget_tokens;
};

struct memory {
    uint8_t *data;
    size_t n_bytes;
};

struct task {
    struct wire_pack pack;
    int session;
    double t_begin;
    enum fault fault;
    struct run_pack batch; /* points into the slot */
    float *out;
};

struct served {
    int fd;
    struct run_inproc plan;
    struct vnp_checkpoint *checkpoints[N_ENC];
    struct run_encoders *encoders;
    struct memory slots[WIRE_MAX_SLOTS];
    struct task tasks[WIRE_MAX_SLOTS]; /* ring: first running ones, then waiting ones */
    int first, n_running, n_waiting, n_sessions, next_session;
    struct faults faults;
    char cache_dir[1024];
};

/* ---- faults to order ----------------------------------------------------------------------------
 */

static void faults_read(struct faults *f, const struct wire_job *job) {
    static const char *const names[] = {"",        "kill",   "segv", "exit",  "hang",  "stop",
                                        "garbage", "device", "nan",  "nomem", "start", "slow"};
    const char *p = getenv("VNP_TEST_WORKER_FAULT");
    f->token = -1;
    f->budget_tokens = job->budget_tokens;
    f->idx = job->n_starts + job->idx_device;
    while (p && *p && *p != ':' && *p != '@') {
        size_t n = strcspn(p, ",:@");
        for (size_t k = 1; k < VNP_COUNT(names); k++)
            if (strlen(names[k]) == n && strncmp(p, names[k], n) == 0 &&
                f->n_kinds < (int)VNP_COUNT(f->kinds))
                f->kinds[f->n_kinds++] = (enum fault)k;
        p += n;
        if (*p == ',') p++;
    }
    if (f->n_kinds && p && *p == ':') f->every = strtoll(p + 1, NULL, 10);
    if (f->n_kinds && p && *p == '@') f->token = strtoll(p + 1, NULL, 10);
}

static enum fault faults_next(struct faults *f, const struct vnp_pack *v) {
    if (f->n_kinds == 0 || v->n_tokens <= 3) return FAULT_NONE; /* a probe */
    for (int64_t i = 0; f->token >= 0 && i + 2 < v->n_tokens; i++)
        if (v->tokens[i] == f->token && v->tokens[i + 1] == f->token &&
            v->tokens[i + 2] == f->token)
            return f->kinds[f->idx % f->n_kinds];
    if (f->every < 1 || ++f->n_packs % f->every) return FAULT_NONE;
    enum fault fault = f->kinds[f->idx++ % f->n_kinds];
    bool is_small = 2 * v->n_tokens <= f->budget_tokens; /* small ones would fit */
    return fault == FAULT_NOMEM && is_small ? FAULT_NONE : fault;
}

static bool faults_at_start(const struct faults *f) {
    return f->every > 0 && f->n_kinds > 0 && f->kinds[f->idx % f->n_kinds] == FAULT_START;
}

/* Faults of the process itself; false: the process is to end. */
static bool faults_strike(const struct served *s, enum fault fault) {
    static const char noise[] = "this is no message of ours";
    if (fault == FAULT_KILL) raise(SIGKILL);
    if (fault == FAULT_SEGV) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (fault == FAULT_STOP) raise(SIGSTOP);
    if (fault == FAULT_SLOW) usleep(200000);
    if (fault == FAULT_GARBAGE) (void)!send(s->fd, noise, sizeof noise, MSG_NOSIGNAL);
    while (fault == FAULT_HANG || fault == FAULT_STOP) pause();
    return fault != FAULT_EXIT;
}

/* ---- beginning ----------------------------------------------------------------------------------
 */

/* Signals of the group are for the host to judge; they came blocked from it. */
static void signals_ignore(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, SIGPIPE};
    struct sigaction a = {.sa_handler = SIG_IGN};
    sigset_t none;
    sigemptyset(&a.sa_mask);
    sigemptyset(&none);
    for (size_t i = 0; i < VNP_COUNT(numbers); i++) sigaction(numbers[i], &a, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void log_send(void *ctx, enum vnp_log_level level, const char *room, const char *text) {
    const struct served *s = ctx;
    struct wire_message m = {.type = WIRE_LOG, .log = {.level = (uint32_t)level}};
    struct vnp_error kept = *vnp_error_last(); /* a log line changes no error record */
    snprintf(m.log.room, sizeof m.log.room, "%s", room);
    snprintf(m.log.text, sizeof m.log.text, "%s", text);
    (void)!vnp_run_wire_send(s->fd, &m, -1);
    vnp_error_set(&kept);
}

static vnp_status open_models(struct served *s, const struct wire_job *job) {
    for (int enc = 0; enc < N_ENC; enc++) {
        const struct wire_model *m = &job->models[enc];
        if (!m->path[0]) continue;
        VNP_TRY(vnp_checkpoint_open(m->path, (enum vnp_model_kind)m->kind, &s->checkpoints[enc]));
        struct vnp_hash128 stamp = vnp_checkpoint_stamp(s->checkpoints[enc]);
        if (stamp.lo != m->stamp.lo || stamp.hi != m->stamp.hi) {
            vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "the model was replaced while a run used it");
            vnp_error_at(m->path, -1, -1, NULL);
            vnp_error_hint("put the old one back and repeat the command, or use --force");
            return VNP_MISMATCH;
        }
        s->plan.checkpoint[enc] = s->checkpoints[enc];
    }
    return VNP_OK;
}

static vnp_status take_job(struct served *s, const struct wire_job *job, vnp_run_backend_fn *find) {
    if (strcmp(job->version, VNP_VERSION_STRING) != 0)
        return vnp_fail(VNP_MISMATCH, VNP_FROM_DEVICE,
                        "the worker program is version %s, its host %s", VNP_VERSION_STRING,
                        job->version);
    const struct vnp_backend *b = find(job->backend);
    if (!b)
        return vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "the worker finds no backend '%s'",
                        job->backend);
    if (job->precision >= VNP_PREC_COUNT || job->pool > VNP_POOL_CLS)
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "precision %u, pooling %u", job->precision,
                        job->pool);
    memcpy(s->cache_dir, job->cache_dir, sizeof s->cache_dir);
    s->plan =
        (struct run_inproc){.device = {.backend = b, .is_emulation = job->is_emulation},
                            .precision = (enum vnp_precision)job->precision,
                            .n_threads = (int)job->n_threads,
                            .budget_tokens = job->budget_tokens,
                            .max_seqs = job->max_seqs,
                            .cache_dir = s->cache_dir[0] ? s->cache_dir : NULL,
                            .want = {.layer = job->layer, .pool = (enum vnp_pool_kind)job->pool}};
    if (!b->is_host) s->plan.device.idx_device = (int)job->idx_device;
    VNP_TRY(open_models(s, job));
    VNP_TRY(vnp_run_encoders_open(&s->plan, &s->encoders));
    s->n_sessions = vnp_run_encoders_n_sessions(s->encoders);
    return VNP_OK;
}

static vnp_status say_ready(struct served *s) {
    struct wire_message m = {.type = WIRE_READY, .ready = {.n_sessions = (uint32_t)s->n_sessions}};
    struct vnp_device_info info = {0};
    VNP_TRY(s->plan.device.backend->device_info(vnp_run_encoders_device(s->encoders), &info));
    snprintf(m.ready.device, sizeof m.ready.device, "%s", info.name);
    m.ready.budget_tokens = VNP_MAX(0, VNP_MIN(INT32_MAX, info.budget_tokens));
    for (int enc = 0; enc < N_ENC; enc++)
        if (s->checkpoints[enc])
            m.ready.n_cols[enc] = vnp_checkpoint_spec(s->checkpoints[enc])->n_hidden;
    return vnp_run_wire_send(s->fd, &m, -1);
}

static vnp_status say_failure(struct served *s, uint32_t slot, uint64_t serial) {
    struct wire_message m = {.type = WIRE_FAIL, .fail = {.slot = slot, .serial = serial}};
    m.fail.error = *vnp_error_last();
    return vnp_run_wire_send(s->fd, &m, -1);
}

/* ---- batches ------------------------------------------------------------------------------------
 */

static vnp_status take_memory(struct served *s, const struct wire_map *map, int fd) {
    struct memory *m = &s->slots[map->slot];
    struct stat st;
    if (m->data) munmap(m->data, m->n_bytes);
    *m = (struct memory){0};
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size < 0 || (uint64_t)st.st_size < map->n_bytes)
        return vnp_fail(VNP_FORMAT, VNP_FROM_DEVICE, "a slot's memory is smaller than was said");
    void *p = mmap(NULL, map->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return vnp_fail_errno(VNP_DEVICE, VNP_FROM_DEVICE, errno, "mapping a slot");
    *m = (struct memory){.data = p, .n_bytes = map->n_bytes};
    return VNP_OK;
}

static bool is_increasing(const int32_t *cu, int64_t n_seqs, int64_t n_tokens) {
    if (cu[0] != 0 || cu[n_seqs] != n_tokens) return false;
    for (int64_t i = 0; i < n_seqs; i++)
        if (cu[i + 1] <= cu[i]) return false;
    return true;
}

/* Finds the batch of a task in its slot. */
static vnp_status find_batch(const struct served *s, struct task *t) {
    const struct memory *m = &s->slots[t->pack.slot];
    const struct wire_pack *p = &t->pack;
    struct wire_layout at;
    bool is_good = vnp_run_wire_layout(p->n_tokens, p->n_seqs, p->n_floats, &at) && m->data &&
                   at.n_bytes <= m->n_bytes;
    if (is_good) {
        struct run_pack *b = &t->batch;
        *b = (struct run_pack){.enc = (int)p->enc,
                               .tokens = (uint16_t *)(void *)m->data,
                               .cu = (int32_t *)(void *)(m->data + at.off_cu)};
        b->view = (struct vnp_pack){p->n_tokens, p->n_seqs, p->max_len, b->tokens, b->cu};
        t->out = (float *)(void *)(m->data + at.off_out);
        is_good = is_increasing(b->cu, p->n_seqs, p->n_tokens) &&
                  vnp_run_encoders_n_floats(s->encoders, b) == p->n_floats;
    }
    return is_good
               ? VNP_OK
               : vnp_fail(VNP_BUG, VNP_FROM_NONE, "slot %u holds no batch as announced", p->slot);
}

/* Submits the oldest waiting task; a failure is the batch's, and told. */
static vnp_status begin(struct served *s) {
    int at = (s->first + s->n_running) % WIRE_MAX_SLOTS;
    struct task *t = &s->tasks[at];
    vnp_status status = find_batch(s, t);
    if (status == VNP_OK) {
        t->fault = faults_next(&s->faults, &t->batch.view);
        if (!faults_strike(s, t->fault))
            return vnp_fail(VNP_BUG, VNP_FROM_NONE, "ended as a test wants");
        t->t_begin = vnp_now_s();
        t->session = s->next_session;
        status = t->fault == FAULT_NOMEM
                     ? vnp_fail(VNP_DEVICE_NOMEM, VNP_FROM_DEVICE, "out of memory, to order")
                 : t->fault == FAULT_DEVICE
                     ? vnp_fail(VNP_DEVICE, VNP_FROM_DEVICE, "a device error, to order")
                     : vnp_run_encoders_submit(s->encoders, t->session, &t->batch, t->out);
    }
    s->n_waiting--;
    if (status == VNP_OK) {
        s->n_running++;
        s->next_session = (s->next_session + 1) % s->n_sessions;
        return VNP_OK;
    }
    struct task failed = *t;
    for (int i = 0; i < s->n_waiting; i++) /* the ring closes over the gap */
        s->tasks[(at + i) % WIRE_MAX_SLOTS] = s->tasks[(at + i + 1) % WIRE_MAX_SLOTS];
    return say_failure(s, failed.pack.slot, failed.pack.serial);
}

/* Waits for the oldest running task and tells its end. */
static vnp_status finish(struct served *s) {
    struct task *t = &s->tasks[s->first];
    struct run_outcome o;
    vnp_status status = vnp_run_encoders_wait(s->encoders, t->session, &o);
    s->first = (s->first + 1) % WIRE_MAX_SLOTS;
    s->n_running--;
    if (status != VNP_OK) return say_failure(s, t->pack.slot, t->pack.serial);
    if (t->fault == FAULT_NAN) t->out[t->pack.n_floats / 2] = (float)NAN;
    struct wire_message m = {.type = WIRE_DONE,
                             .done = {.slot = t->pack.slot,
                                      .serial = t->pack.serial,
                                      .seconds = vnp_now_s() - t->t_begin,
                                      .is_judged = o.is_judged,
                                      .has_span = o.has_span,
                                      .n_rerun = o.n_rerun,
                                      .n_rerun_tokens = o.n_rerun_tokens,
                                      .n_failed = o.n_failed,
                                      .begin_s = o.begin_s,
                                      .end_s = o.end_s}};
    return vnp_run_wire_send(s->fd, &m, -1);
}

static vnp_status take(struct served *s, const struct wire_message *m, int fd) {
    if (m->type == WIRE_MAP) return take_memory(s, &m->map, fd);
    if (m->type != WIRE_PACK)
        return vnp_fail(VNP_FORMAT, VNP_FROM_DEVICE, "message %d has no place here", (int)m->type);
    int n = s->n_running + s->n_waiting;
    if (n == WIRE_MAX_SLOTS) return vnp_fail(VNP_FORMAT, VNP_FROM_DEVICE, "too many batches");
    s->tasks[(s->first + n) % WIRE_MAX_SLOTS] = (struct task){.pack = m->pack};
    s->n_waiting++;
    return VNP_OK;
}

/* Everything that has come; blocks only when there is nothing to do. *is_over at the host's end. */
static vnp_status take_all(struct served *s, bool *is_over) {
    for (;;) {
        struct wire_message m;
        int fd;
        bool is_idle = s->n_running + s->n_waiting == 0;
        enum wire_got got = vnp_run_wire_recv(s->fd, is_idle ? -1 : 0, &m, &fd);
        *is_over = got == WIRE_GOT_END;
        if (got == WIRE_GOT_BAD) return vnp_error_last()->status;
        if (got == WIRE_GOT_END || (got == WIRE_GOT_NONE && !is_idle)) return VNP_OK;
        if (got == WIRE_GOT_NONE) continue;
        vnp_status status = take(s, &m, fd);
        if (fd >= 0) close(fd);
        VNP_TRY(status);
    }
}

static vnp_status serve(struct served *s) {
    for (;;) {
        bool is_over;
        VNP_TRY(take_all(s, &is_over));
        if (is_over) return VNP_OK;
        while (s->n_running < s->n_sessions && s->n_waiting > 0) VNP_TRY(begin(s));
        if (s->n_running > 0) VNP_TRY(finish(s));
    }
}

static vnp_status start(struct served *s, vnp_run_backend_fn *find) {
    struct wire_message m;
    int fd;
    enum wire_got got;
    do got = vnp_run_wire_recv(s->fd, -1, &m, &fd);
    while (got == WIRE_GOT_NONE);
    if (got == WIRE_GOT_END) return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "the host is gone");
    if (fd >= 0) close(fd);
    if (got == WIRE_GOT_BAD || m.type != WIRE_JOB)
        return vnp_fail(VNP_FORMAT, VNP_FROM_DEVICE, "no job came");
    /* a host that died before PR_SET_PDEATHSIG was in force would not be missed */
    if ((int64_t)getppid() != m.job.host_pid)
        return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "the host is gone");
    vnp_log_set(log_send, s, (enum vnp_log_level)m.job.log_level);
    faults_read(&s->faults, &m.job);
    if (faults_at_start(&s->faults))
        return vnp_fail(VNP_BUG, VNP_FROM_NONE, "ended as a test wants");
    vnp_status status = take_job(s, &m.job, find);
    if (status == VNP_OK) status = say_ready(s);
    if (status != VNP_OK) (void)!say_failure(s, WIRE_NO_SLOT, 0);
    return status;
}

vnp_status vnp_run_worker_serve(int fd, vnp_run_backend_fn *find) {
    struct served *s = calloc(1, sizeof *s);
    if (!s) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "worker");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signals_ignore();
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    s->fd = fd;
    vnp_status status = start(s, find);
    if (status == VNP_OK) status = serve(s);
    struct vnp_error kept = *vnp_error_last();
    vnp_log_set(NULL, NULL, VNP_LOG_ERROR);
    vnp_run_encoders_close(s->encoders);
    for (int i = 0; i < WIRE_MAX_SLOTS; i++)
        if (s->slots[i].data) munmap(s->slots[i].data, s->slots[i].n_bytes);
    for (int enc = 0; enc < N_ENC; enc++) vnp_checkpoint_close(s->checkpoints[enc]);
    free(s);
    vnp_error_set(&kept);
    return status;
}
