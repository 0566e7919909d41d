// SPDX-License-Identifier: MIT
// The bytes between a host and its worker process: every message comes back as it was, and nothing
// that a peer may send (cut, changed, too long, garbage) is more than an error.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "run/wire.h"
#include "support.h"

static void copy(char *to, size_t n, const char *from) {
    snprintf(to, n, "%s", from);
}

/* One of each type, every field set. */
static struct wire_message example(enum wire_type type) {
    struct wire_message m;
    memset(&m, 0, sizeof m);
    m.type = type;
    switch (type) {
    case WIRE_JOB:
        copy(m.job.version, sizeof m.job.version, "1.2.3");
        copy(m.job.backend, sizeof m.job.backend, "cuda");
        copy(m.job.name, sizeof m.job.name, "cuda:3");
        copy(m.job.cache_dir, sizeof m.job.cache_dir, "/some/where");
        m.job.host_pid = 4711;
        m.job.precision = 2;
        m.job.is_emulation = 1;
        m.job.idx_device = 3;
        m.job.n_threads = 12;
        m.job.pool = 1;
        m.job.log_level = VNP_LOG_DEBUG;
        m.job.n_starts = 9;
        m.job.layer = -1;
        m.job.budget_tokens = 16896;
        m.job.max_seqs = 2113;
        for (int i = 0; i < WIRE_N_MODELS; i++) {
            memset(m.job.models[i].path, 'p', sizeof m.job.models[i].path - 1);
            m.job.models[i].kind = 1;
            m.job.models[i].stamp = (struct vnp_hash128){1, 2};
        }
        break;
    case WIRE_READY:
        copy(m.ready.device, sizeof m.ready.device, "a device");
        m.ready.n_sessions = 2;
        m.ready.budget_tokens = 8448;
        m.ready.n_cols[0] = 768;
        m.ready.n_cols[1] = 2560;
        break;
    case WIRE_MAP:
        m.map = (struct wire_map){.slot = 2, .n_bytes = 1 << 20};
        break;
    case WIRE_PACK:
        m.pack = (struct wire_pack){.slot = 1,
                                    .enc = 1,
                                    .serial = 99,
                                    .n_tokens = 300,
                                    .n_seqs = 3,
                                    .max_len = 120,
                                    .n_floats = 3 * 64};
        break;
    case WIRE_DONE:
        m.done = (struct wire_done){.slot = 1,
                                    .serial = 99,
                                    .seconds = 0.25,
                                    .is_judged = 1,
                                    .has_span = 1,
                                    .n_rerun = 3,
                                    .n_rerun_tokens = 33,
                                    .n_failed = 1,
                                    .begin_s = 1,
                                    .end_s = 2};
        break;
    case WIRE_FAIL:
        m.fail.slot = WIRE_NO_SLOT;
        m.fail.serial = 7;
        m.fail.error = (struct vnp_error){.status = VNP_DEVICE_NOMEM,
                                          .origin = VNP_FROM_DEVICE,
                                          .os_errno = 12,
                                          .off_byte = -1,
                                          .line = 5};
        copy(m.fail.error.file, sizeof m.fail.error.file, "a file");
        copy(m.fail.error.record, sizeof m.fail.error.record, "a record");
        memset(m.fail.error.text, 't', sizeof m.fail.error.text - 1);
        copy(m.fail.error.hint, sizeof m.fail.error.hint, "a hint");
        break;
    case WIRE_LOG:
        m.log.level = VNP_LOG_WARN;
        copy(m.log.room, sizeof m.log.room, "run");
        memset(m.log.text, 'l', sizeof m.log.text - 1);
        break;
    case WIRE_TYPE_END:
        break;
    }
    return m;
}

static void test_round_trip(void **state) {
    (void)state;
    for (int t = WIRE_JOB; t < WIRE_TYPE_END; t++) {
        struct wire_message m = example((enum wire_type)t), back;
        uint8_t buf[WIRE_MAX_BYTES];
        size_t n = vnp_run_wire_encode(&m, buf, sizeof buf);
        assert_true(n >= 16);
        assert_int_equal(vnp_run_wire_decode(buf, n, &back), VNP_OK);
        uint8_t again[WIRE_MAX_BYTES];
        assert_int_equal(vnp_run_wire_encode(&back, again, sizeof again), n);
        assert_memory_equal(buf, again, n);
        assert_int_equal(back.type, m.type);
        assert_int_equal(vnp_run_wire_encode(&m, buf, n - 1), 0); /* no room */
    }
    struct wire_message m = example(WIRE_FAIL), back;
    uint8_t buf[WIRE_MAX_BYTES];
    size_t n = vnp_run_wire_encode(&m, buf, sizeof buf);
    assert_int_equal(vnp_run_wire_decode(buf, n, &back), VNP_OK);
    assert_string_equal(back.fail.error.text, m.fail.error.text);
    assert_string_equal(back.fail.error.hint, "a hint");
    assert_int_equal(back.fail.error.status, VNP_DEVICE_NOMEM);
    assert_int_equal(back.fail.error.line, 5);
}

/* Cut anywhere and lengthened: an error. Any byte changed: an error or another sound message. */
static void test_damaged(void **state) {
    (void)state;
    int64_t n_accepted = 0, n_all = 0;
    for (int t = WIRE_JOB; t < WIRE_TYPE_END; t++) {
        struct wire_message m = example((enum wire_type)t), back;
        static uint8_t buf[WIRE_MAX_BYTES + 64];
        size_t n = vnp_run_wire_encode(&m, buf, WIRE_MAX_BYTES);
        for (size_t k = 0; k < n; k++) {
            uint8_t *cut = malloc(k ? k : 1); /* exactly as long: a sanitizer sees any step over */
            assert_non_null(cut);
            memcpy(cut, buf, k);
            assert_int_equal(vnp_run_wire_decode(cut, k, &back), VNP_FORMAT);
            if (k >= 16) { /* a length that agrees */
                uint32_t n_payload = (uint32_t)k - 16;
                memcpy(cut + 8, &n_payload, sizeof n_payload);
                assert_int_equal(vnp_run_wire_decode(cut, k, &back), VNP_FORMAT);
            }
            free(cut);
        }
        uint32_t longer = (uint32_t)n - 16 + 3;
        uint8_t head[16];
        memcpy(head, buf, sizeof head);
        memcpy(buf + 8, &longer, sizeof longer);
        memset(buf + n, 0, 3);
        assert_int_equal(vnp_run_wire_decode(buf, n + 3, &back), VNP_FORMAT);
        memcpy(buf, head, sizeof head);
        for (size_t k = 0; k < n; k++)
            for (int bit = 0; bit < 8; bit++) {
                buf[k] ^= (uint8_t)(1 << bit);
                vnp_status status = vnp_run_wire_decode(buf, n, &back);
                assert_true(status == VNP_OK || status == VNP_FORMAT);
                n_accepted += status == VNP_OK;
                n_all++;
                buf[k] ^= (uint8_t)(1 << bit);
            }
    }
    print_message("# %lld flipped bits, %lld of them in free fields\n", (long long)n_all,
                  (long long)n_accepted);
}

static void test_ranges(void **state) {
    (void)state;
    uint8_t buf[WIRE_MAX_BYTES];
    struct wire_message m = example(WIRE_PACK);
    m.pack.slot = WIRE_MAX_SLOTS;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_PACK);
    m.pack.n_seqs = m.pack.n_tokens + 1;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_PACK);
    m.pack.enc = WIRE_N_MODELS;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_DONE);
    m.done.end_s = (double)NAN;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_DONE);
    m.done.slot = WIRE_NO_SLOT;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_FAIL);
    m.fail.error.status = VNP_OK; /* a failure without a failure */
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m = example(WIRE_MAP);
    m.map.n_bytes = 0;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    m.map.n_bytes = UINT64_MAX;
    assert_int_equal(vnp_run_wire_encode(&m, buf, sizeof buf), 0);
    struct wire_layout at;
    assert_true(vnp_run_wire_layout(1, 1, 1, &at));
    assert_true(vnp_run_wire_layout(300, 3, 192, &at));
    assert_true(at.off_cu >= 600 && at.off_out >= at.off_cu + 16);
    assert_int_equal(at.n_bytes, at.off_out + 192 * sizeof(float));
    assert_false(vnp_run_wire_layout(0, 1, 1, &at));
    assert_false(vnp_run_wire_layout(10, 11, 1, &at));
    assert_false(vnp_run_wire_layout(10, 1, INT64_MAX, &at));
    assert_false(vnp_run_wire_layout(INT64_MAX, 1, 1, &at));
}

static void test_socket(void **state) {
    (void)state;
    static uint8_t noise[WIRE_MAX_BYTES + 1000];
    struct wire_message m = example(WIRE_MAP), back;
    int pair[2], fd;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(vnp_run_wire_recv(pair[1], 0.01, &back, &fd), WIRE_GOT_NONE);
    int memory = memfd_create("test", MFD_CLOEXEC);
    assert_true(memory >= 0);
    assert_int_equal(vnp_run_wire_send(pair[0], &m, memory), VNP_OK);
    assert_int_equal(vnp_run_wire_recv(pair[1], -1, &back, &fd), WIRE_GOT_MESSAGE);
    assert_int_equal(back.map.n_bytes, m.map.n_bytes);
    assert_true(fd >= 0 && fd != memory);
    close(fd);
    close(memory);
    m = example(WIRE_JOB); /* the largest */
    assert_int_equal(vnp_run_wire_send(pair[0], &m, -1), VNP_OK);
    assert_int_equal(vnp_run_wire_recv(pair[1], 1, &back, &fd), WIRE_GOT_MESSAGE);
    assert_int_equal(fd, -1);
    assert_int_equal(send(pair[0], noise, 100, 0), 100);
    assert_int_equal(vnp_run_wire_recv(pair[1], 1, &back, &fd), WIRE_GOT_BAD);
    assert_int_equal(send(pair[0], noise, sizeof noise, 0), sizeof noise);
    assert_int_equal(vnp_run_wire_recv(pair[1], 1, &back, &fd), WIRE_GOT_BAD);
    close(pair[0]);
    assert_int_equal(vnp_run_wire_recv(pair[1], 1, &back, &fd), WIRE_GOT_END);
    assert_int_equal(vnp_run_wire_send(pair[1], &m, -1), VNP_DEVICE); /* and no SIGPIPE */
    close(pair[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
