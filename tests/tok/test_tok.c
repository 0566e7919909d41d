// SPDX-License-Identifier: MIT
// tok: ids equal to those of fair-esm and of the `tokenizers` library; refusals by name.
#include "tok/bpe.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <jansson.h>

#include "support.h"

static const char data_folder[] = VNP_TEST_SOURCE_DIR "/tests/tok/data";

struct record {
    char *seq;
    size_t len;
};

/* The records of a FASTA text, joined over lines; edits the text. */
static size_t read_fasta(char *text, struct record *out, size_t n_max) {
    size_t n = 0;
    char *to = NULL;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        size_t len = end ? (size_t)(end - line) : strlen(line);
        if (*line == '>') {
            assert_true(n < n_max);
            to = line;
            out[n++] = (struct record){to, 0};
        } else if (n) {
            memmove(to, line, len);
            to += len;
            out[n - 1].len += len;
        }
        line = end ? end + 1 : NULL;
    }
    return n;
}

/* ---- ESM-2 --------------------------------------------------------------------------------- */

static void esm_small(void **state) {
    (void)state;
    static const char text[] = "LAGVSERTIDPKQNFYMHWCXBUZO.-l a\tj*9<mask><mas";
    static const uint16_t ids[] = {0,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                   16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
                                   29, 30, 4,  5,  3,  3,  3,  32, 3,  20, 5,  8,  2};
    uint16_t out[64];
    size_t n, unknown;
    vnp_tok_esm_encode(text, strlen(text), out, &n, &unknown);
    assert_int_equal(n, VNP_COUNT(ids));
    assert_memory_equal(out, ids, sizeof ids);
    assert_int_equal(unknown, 4);
    vnp_tok_esm_encode("", 0, out, &n, NULL);
    assert_int_equal(n, 2);
    assert_int_equal(out[1], VNP_ESM_EOS);
}

static void check_golden(const char *folder, const struct record *records, size_t n_records,
                         const struct vnp_bpe *bpe) {
    char path[4300];
    snprintf(path, sizeof path, "%s/tokens.npy", folder);
    struct support_npy ids = support_npy_load(path);
    snprintf(path, sizeof path, "%s/cu_seqlens.npy", folder);
    struct support_npy cu = support_npy_load(path);
    assert_string_equal(ids.descr, "<i4");
    assert_string_equal(cu.descr, "<i4");
    assert_int_equal(cu.n, n_records + 1);
    for (size_t i = 0; i < n_records; i++) {
        const struct record *r = &records[i];
        size_t n, n_unknown, start = (size_t)((const int32_t *)cu.data)[i];
        size_t n_due = (size_t)((const int32_t *)cu.data)[i + 1] - start;
        uint16_t *out = malloc(2 * (r->len + 64));
        if (bpe) {
            void *scratch = malloc(vnp_bpe_scratch_bytes(bpe, r->len));
            assert_int_equal(vnp_bpe_encode(bpe, r->seq, r->len, scratch, out, &n, &n_unknown), 0);
            free(scratch);
        } else {
            vnp_tok_esm_encode(r->seq, r->len, out, &n, &n_unknown);
        }
        assert_int_equal(n, n_due);
        for (size_t k = 0; k < n; k++)
            assert_int_equal(out[k], ((const int32_t *)ids.data)[start + k]);
        free(out);
    }
    support_npy_free(&ids);
    support_npy_free(&cu);
}

static void esm_goldens(void **state) {
    (void)state;
    static const char *const models[] = {"t1_d256_h2_hd128", "t2_d64_h1_nodropout",
                                         "t2_d80_h5",        "t2_d96_h4_fp16",
                                         "t3_d128_h2",       "t4_d128_h4_outlier"};
    const char *goldens = support_goldens();
    for (size_t i = 0; i < VNP_COUNT(models); i++) {
        char folder[4200], path[4300];
        struct record records[500];
        snprintf(folder, sizeof folder, "%s/esm2/%s", goldens, models[i]);
        snprintf(path, sizeof path, "%s/proteins.faa", folder);
        char *text = support_read_file(path, NULL);
        size_t n = read_fasta(text, records, VNP_COUNT(records));
        assert_true(n > 10);
        check_golden(folder, records, n, NULL);
        free(text);
    }
}

/* ---- BPE ----------------------------------------------------------------------------------- */

static struct vnp_bpe *load(const char *path) {
    size_t n;
    struct vnp_bpe *bpe;
    char *json = support_read_file(path, &n);
    vnp_status s = vnp_bpe_load(json, n, path, &bpe);
    if (s != VNP_OK) fail_msg("%s: %s", path, vnp_error_last()->text);
    free(json);
    return bpe;
}

static void bpe_goldens(void **state) {
    (void)state;
    static const char *const models[] = {"l2_d96_h6_prefixed", "l3_d192_h3"};
    const char *goldens = support_goldens();
    for (size_t i = 0; i < VNP_COUNT(models); i++) {
        char folder[4200], path[4300];
        struct record records[500];
        snprintf(folder, sizeof folder, "%s/dnabert_s/%s", goldens, models[i]);
        snprintf(path, sizeof path, "%s/tokenizer.json", folder);
        struct vnp_bpe *bpe = load(path);
        assert_int_equal(vnp_bpe_vocab_size(bpe), 4096);
        snprintf(path, sizeof path, "%s/dna.fna", folder);
        char *text = support_read_file(path, NULL);
        size_t n = read_fasta(text, records, VNP_COUNT(records));
        assert_true(n > 10);
        check_golden(folder, records, n, bpe);
        free(text);
        vnp_bpe_destroy(bpe);
    }
}

/* Each of our small tokenizers against the ids stored beside it (tools/make-bpe-fixtures). */
static void bpe_fixtures(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t n_vocab;
    } fixtures[] = {{"dna400", 400}, {"odd400", 404}, {"bare400", 400}};
    for (size_t i = 0; i < VNP_COUNT(fixtures); i++) {
        char path[4300];
        size_t k, n_json;
        snprintf(path, sizeof path, "%s/%s.json", data_folder, fixtures[i].name);
        struct vnp_bpe *bpe = load(path);
        assert_int_equal(vnp_bpe_vocab_size(bpe), fixtures[i].n_vocab);
        snprintf(path, sizeof path, "%s/%s.cases.json", data_folder, fixtures[i].name);
        char *json = support_read_file(path, &n_json);
        json_t *cases = json_loadb(json, n_json, 0, NULL), *one;
        assert_true(json_array_size(cases) > 100);
        json_array_foreach(cases, k, one) {
            const char *text = json_string_value(json_object_get(one, "text"));
            json_t *ids = json_object_get(one, "ids");
            size_t len = strlen(text), n, n_unknown, n_max = vnp_bpe_max_tokens(bpe, len);
            void *scratch = malloc(vnp_bpe_scratch_bytes(bpe, len));
            uint16_t *out = malloc(2 * n_max + 2);
            assert_int_equal(vnp_bpe_encode(bpe, text, len, scratch, out, &n, &n_unknown), VNP_OK);
            if (n != json_array_size(ids)) fail_msg("%s: '%s': %zu ids", fixtures[i].name, text, n);
            assert_true(n <= n_max);
            for (size_t j = 0; j < n; j++)
                if (out[j] != json_integer_value(json_array_get(ids, j)))
                    fail_msg("%s: '%s': id %zu is %d", fixtures[i].name, text, j, out[j]);
            free(out);
            free(scratch);
        }
        json_decref(cases);
        free(json);
        vnp_bpe_destroy(bpe);
    }
}

static void bpe_counts_unknown_and_refuses_bytes(void **state) {
    (void)state;
    struct vnp_bpe *bpe = load(VNP_TEST_SOURCE_DIR "/tests/tok/data/dna400.json");
    void *scratch = malloc(vnp_bpe_scratch_bytes(bpe, 100));
    uint16_t out[110];
    size_t n, n_unknown;
    assert_int_equal(vnp_bpe_encode(bpe, "ANNacC!", 7, scratch, out, &n, &n_unknown), VNP_OK);
    assert_int_equal(n_unknown, 5);
    assert_int_equal(n, 9);
    assert_int_equal(vnp_bpe_encode(bpe, "AC\xc3\xa9GT", 6, scratch, out, &n, NULL), VNP_FORMAT);
    assert_int_equal(vnp_error_last()->origin, VNP_FROM_INPUT);
    assert_non_null(strstr(vnp_error_last()->text, "0xc3 at position 3"));
    assert_int_equal(vnp_bpe_encode(bpe, "AC\0GT", 5, scratch, out, &n, &n_unknown), VNP_OK);
    assert_int_equal(n_unknown, 1);
    free(scratch);
    vnp_bpe_destroy(bpe);
}

/* The fast way gives what merging gives: all words of few letters, and long random ones. */
static void check_both_ways(const struct vnp_bpe *bpe, const char *text, size_t len) {
    struct vnp_bpe merging = *bpe;
    merging.path = NULL;
    void *scratch = malloc(vnp_bpe_scratch_bytes(&merging, len) + vnp_bpe_scratch_bytes(bpe, len));
    uint16_t *ids = malloc(4 * (len + 64)), *due = ids + len + 64;
    size_t n, n_due, n_unknown, n_unknown_due;
    assert_int_equal(vnp_bpe_encode(bpe, text, len, scratch, ids, &n, &n_unknown), VNP_OK);
    assert_int_equal(vnp_bpe_encode(&merging, text, len, scratch, due, &n_due, &n_unknown_due), 0);
    if (n != n_due || memcmp(ids, due, 2 * n) != 0) fail_msg("'%.*s'", (int)len, text);
    assert_int_equal(n_unknown, n_unknown_due);
    free(ids);
    free(scratch);
}

static void bpe_fast_way_is_exact(void **state) {
    (void)state;
    struct vnp_bpe *bpe = load(VNP_TEST_SOURCE_DIR "/tests/tok/data/dna400.json");
    assert_non_null(bpe->path);
    char text[3000];
    for (size_t len = 0; len <= 8; len++)
        for (unsigned code = 0; code < 1U << (2 * len); code++) {
            for (size_t i = 0; i < len; i++) text[i] = "ACGT"[code >> (2 * i) & 3];
            check_both_ways(bpe, text, len);
        }
    uint64_t seed = 3;
    print_message("# seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        size_t len = support_random(&seed) % sizeof text, unit = 1 + support_random(&seed) % 9;
        uint64_t mix = support_random(&seed) % 4; /* how often a letter repeats the one before */
        for (size_t i = 0; i < len; i++)
            text[i] = i >= unit && support_random(&seed) % 64 < mix * 20
                          ? text[i - unit]
                          : "ACGTACGTACGTACGTACGTACGTACGTACGN"[support_random(&seed) % 32];
        check_both_ways(bpe, text, len);
    }
    vnp_bpe_destroy(bpe);
    bpe = load(VNP_TEST_SOURCE_DIR "/tests/tok/data/odd400.json");
    assert_null(bpe->path); /* merges in no building order */
    vnp_bpe_destroy(bpe);
}

/* A tokenizer.json trained as the library does it: the pair that is most frequent is merged next.
 * Caller frees. */
enum { N_TRAINING = 4000, MAX_TRAINED = 200 };
static const char few_letters[] = "ACGTNRYKMSWBDHVX";

static size_t best_pair(const uint8_t *text, size_t n, unsigned n_tokens) {
    static uint16_t count[MAX_TRAINED * MAX_TRAINED];
    size_t best = 0;
    memset(count, 0, sizeof count);
    for (size_t i = 0; i + 1 < n; i++) {
        size_t pair = text[i] * n_tokens + text[i + 1];
        count[pair]++;
        if (count[pair] > count[best]) best = pair;
    }
    return best;
}

static size_t merge_pair(uint8_t *text, size_t n, unsigned left, unsigned right, unsigned product) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_pair = i + 1 < n && text[i] == left && text[i + 1] == right;
        text[k++] = (uint8_t)(is_pair ? product : text[i]);
        i += is_pair;
    }
    return k;
}

static char *train(uint64_t *seed, unsigned n_letters, unsigned n_merges) {
    char(*token)[1024] = calloc(MAX_TRAINED, sizeof *token);
    char *json = malloc(1 << 20), *merges = malloc(1 << 20), *j = json, *m = merges;
    uint8_t text[N_TRAINING];
    size_t n = N_TRAINING, unit = 1 + support_random(seed) % 9;
    for (size_t i = 0; i < n; i++) /* somewhat repetitive */
        text[i] = (uint8_t)(i >= unit && support_random(seed) % 4 == 0
                                ? text[i - unit]
                                : support_random(seed) % n_letters);
    for (unsigned k = 0; k < n_letters; k++) token[k][0] = few_letters[k];
    unsigned n_tokens = n_letters;
    for (unsigned k = 0; k < n_merges && n > 1; k++) {
        size_t pair = best_pair(text, n, n_tokens), a = pair / n_tokens, z = pair % n_tokens;
        if (strlen(token[a]) + strlen(token[z]) > 900) break;
        m += sprintf(m, "%s\"%s %s\"", k ? "," : "", token[a], token[z]);
        size_t len = strlen(token[a]);
        memcpy(token[n_tokens], token[a], len);
        memcpy(token[n_tokens] + len, token[z], strlen(token[z]) + 1);
        n = merge_pair(text, n, (unsigned)a, (unsigned)z, n_tokens++);
    }
    j += sprintf(j, "{\"version\":\"1.0\",\"pre_tokenizer\":{\"type\":\"Whitespace\"},\"model\":{"
                    "\"type\":\"BPE\",\"vocab\":{");
    for (unsigned k = 0; k < n_tokens; k++)
        j += sprintf(j, "%s\"%s\":%u", k ? "," : "", token[k], k);
    sprintf(j, "},\"merges\":[%s]}}", merges);
    free(merges);
    free(token);
    return json;
}

/* Alphabets of 1 to 16 letters, so all sizes of a context; now and then an unknown letter. */
static void bpe_fast_way_on_other_alphabets(void **state) {
    (void)state;
    uint64_t seed = 5;
    unsigned n_fast = 0;
    print_message("# seed %llu\n", (unsigned long long)seed);
    for (unsigned round = 0; round < 64; round++) {
        unsigned n_letters = 1 + round % 16;
        char *json = train(&seed, n_letters, 4 + support_random(&seed) % 120), text[600];
        struct vnp_bpe *bpe;
        assert_int_equal(vnp_bpe_load(json, strlen(json), "trained", &bpe), VNP_OK);
        n_fast += bpe->path != NULL;
        for (unsigned k = 0; k < 200; k++) {
            size_t len = support_random(&seed) % (k % 2 ? 12 : sizeof text);
            size_t unit = 1 + support_random(&seed) % 9, mix = support_random(&seed) % 4;
            for (size_t i = 0; i < len; i++)
                text[i] = i >= unit && support_random(&seed) % 64 < mix * 20 ? text[i - unit]
                          : support_random(&seed) % 200 == 0
                              ? '*'
                              : few_letters[support_random(&seed) % n_letters];
            check_both_ways(bpe, text, len);
        }
        vnp_bpe_destroy(bpe);
        free(json);
    }
    print_message("# %u of 64 have tables\n", n_fast);
    assert_true(n_fast > 50);
}

/* The published tokenizer on what hurts: long runs of one letter, of short units, of N. */
static void bpe_fast_way_on_runs(void **state) {
    (void)state;
    char path[4300];
    snprintf(path, sizeof path, "%s/dnabert_s/l3_d192_h3/tokenizer.json", support_goldens());
    struct vnp_bpe *bpe = load(path);
    assert_non_null(bpe->path);
    size_t n = getenv("VNP_STRESS") ? 1000000 : 30000;
    char *text = malloc(n);
    uint64_t seed = 7;
    static const char *const units[] = {"A", "C", "G", "T", "AT", "CG", "AAT", "ACG", "ATTT", "N"};
    for (size_t u = 0; u < VNP_COUNT(units); u++) {
        for (size_t i = 0; i < n; i++) text[i] = units[u][i % strlen(units[u])];
        check_both_ways(bpe, text, n);
        for (size_t len = 0; len < 100; len++) check_both_ways(bpe, text, len);
        for (size_t i = 0; i < n; i += 1 + support_random(&seed) % 100) /* now with breaks */
            text[i] = "ACGTN"[support_random(&seed) % 5];
        check_both_ways(bpe, text, n);
    }
    for (size_t i = 0; i < n; i++) text[i] = "ACGT"[support_random(&seed) % 4];
    for (size_t from = 0; from < n;) {
        size_t len = VNP_MIN(support_random(&seed) % 3000, n - from);
        check_both_ways(bpe, text + from, len);
        from += len + 1;
    }
    free(text);
    vnp_bpe_destroy(bpe);
}

/* ---- refusals ------------------------------------------------------------------------------ */

static const struct {
    const char *replace, *by; /* first occurrence in dna400.json */
    vnp_status status;
    const char *text;
} changes[] = {
    {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Lowercase\"}", VNP_UNSUPPORTED,
     "normalizer"},
    {"\"truncation\":null", "\"truncation\":{\"max_length\":5}", VNP_UNSUPPORTED, "truncation"},
    {"\"padding\":null", "\"padding\":{}", VNP_UNSUPPORTED, "padding"},
    {"\"type\":\"Whitespace\"", "\"type\":\"ByteLevel\"", VNP_UNSUPPORTED, "'ByteLevel'"},
    {"\"TemplateProcessing\"", "\"BertProcessing\"", VNP_UNSUPPORTED, "'BertProcessing'"},
    {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", VNP_UNSUPPORTED, "'WordPiece'"},
    {"\"dropout\":null", "\"dropout\":0.1", VNP_UNSUPPORTED, "dropout"},
    {"\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", VNP_UNSUPPORTED,
     "continuing_subword_prefix"},
    {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", VNP_UNSUPPORTED,
     "end_of_word_suffix"},
    {"\"fuse_unk\":false", "\"fuse_unk\":true", VNP_UNSUPPORTED, "fuse_unk"},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", VNP_UNSUPPORTED, "byte_fallback"},
    {"\"ignore_merges\":false", "\"ignore_merges\":true", VNP_UNSUPPORTED, "ignore_merges"},
    {"\"ignore_merges\":false", "\"surprise\":1", VNP_UNSUPPORTED, "'surprise'"},
    {"\"decoder\":null", "\"future\":null", VNP_UNSUPPORTED, "'future'"},
    {"\"version\":\"1.0\"", "\"version\":\"2.0\"", VNP_UNSUPPORTED, "'2.0'"},
    {"\"lstrip\":false", "\"lstrip\":true", VNP_UNSUPPORTED, "lstrip"},
    {"\"single_word\":false", "\"single_word\":true", VNP_UNSUPPORTED, "single_word"},
    {"\"id\":1,", "\"id\":7,", VNP_FORMAT, "id 7 where 1 is due"},
    {"\"content\":\"[CLS]\"", "\"content\":\"[UNK]\"", VNP_FORMAT, "twice"},
    {"\"content\":\"[CLS]\"", "\"content\":\"\"", VNP_FORMAT, "no content"},
    {"\"unk_token\":\"[UNK]\"", "\"unk_token\":\"what\"", VNP_FORMAT, "unk_token"},
    {"\"A\":5", "\"A\":6", VNP_FORMAT, "two tokens"},
    {"\"A\":5", "\"A\":-5", VNP_FORMAT, "id of A"},
    {"\"A\":5", "\"A\":5.0", VNP_FORMAT, "id of A"},
    {"\"A\":5", "\"A\":65535", VNP_UNSUPPORTED, "id of A"},
    {"\"A\":5", "\"A\":5,\"A\":5", VNP_FORMAT, "not JSON"},
    {"\"A\":5", "\"Q\":5", VNP_FORMAT, "lacks"},
    {"\"merges\":[", "\"merges\":[[\"A\"],", VNP_FORMAT, "merge 0 is not a pair"},
    {"\"merges\":[", "\"merges\":[\"A C G\",", VNP_FORMAT, "merge 0 is not a pair"},
    {"\"merges\":[", "\"merges\":[[\"A\",\"[UNK]\"],", VNP_FORMAT, "merge 0 uses or makes"},
    {"{\"Sequence\":{\"id\":\"A\"", "{\"Sequence\":{\"id\":\"B\"", VNP_UNSUPPORTED, "one text A"},
    {"{\"SpecialToken\":{\"id\":\"[CLS]\"", "{\"SpecialToken\":{\"id\":\"[X]\"", VNP_FORMAT,
     "'[X]'"},
    {"{\"version\"", "[{\"version\"", VNP_FORMAT, "not JSON"},
};

static vnp_status load_changed(const char *json, size_t i, struct vnp_bpe **bpe) {
    const char *at = strstr(json, changes[i].replace);
    if (!at) fail_msg("the fixture has no %s", changes[i].replace);
    size_t n = strlen(json) + strlen(changes[i].by) + 1;
    char *text = malloc(n);
    int len = snprintf(text, n, "%.*s%s%s", (int)(at - json), json, changes[i].by,
                       at + strlen(changes[i].replace));
    vnp_status s = vnp_bpe_load(text, (size_t)len, "t.json", bpe);
    free(text);
    return s;
}

static void refusals_name_the_cause(void **state) {
    (void)state;
    char *json = support_read_file(VNP_TEST_SOURCE_DIR "/tests/tok/data/dna400.json", NULL);
    struct vnp_bpe *bpe;
    for (size_t i = 0; i < VNP_COUNT(changes); i++) {
        vnp_status s = load_changed(json, i, &bpe);
        const struct vnp_error *e = vnp_error_last();
        if (s != changes[i].status || !strstr(e->text, changes[i].text))
            fail_msg("%s: status %d, '%s'", changes[i].by, s, e->text);
        assert_null(bpe);
        assert_int_equal(e->origin, VNP_FROM_MODEL);
        assert_string_equal(e->file, "t.json");
        assert_true(e->hint[0]);
    }
    size_t n = strlen(json);
    for (size_t cut = 0; cut < n; cut += 1 + n / 300)
        assert_int_equal(vnp_bpe_load(json, cut, "t.json", &bpe), VNP_FORMAT);
    free(json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(esm_small),
        cmocka_unit_test(esm_goldens),
        cmocka_unit_test(bpe_goldens),
        cmocka_unit_test(bpe_fixtures),
        cmocka_unit_test(bpe_counts_unknown_and_refuses_bytes),
        cmocka_unit_test(bpe_fast_way_is_exact),
        cmocka_unit_test(bpe_fast_way_on_other_alphabets),
        cmocka_unit_test(bpe_fast_way_on_runs),
        cmocka_unit_test(refusals_name_the_cause),
    };
    return cmocka_run_group_tests_name("tok", tests, NULL, NULL);
}
