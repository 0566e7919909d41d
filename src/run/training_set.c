// SPDX-License-Identifier: MIT
// Labelled vectors for training: each class's files through the engine into a folder of their own,
// the vectors mapped from there, the records split into a training and a validation part. A record
// is in one part with all its windows. Which part depends on the seed, the class and the record's
// place in the input, not on its text, so a split can be repeated on other encoders' vectors.
#include "run/training.h"
#include "seq/seq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const class_names[2] = {"other", "virus"};

/* ---- inputs --------------------------------------------------------------------------------- */

static vnp_status bad_input(vnp_status status, const char *path, const char *hint,
                            const char *text) {
    vnp_fail(status, VNP_FROM_INPUT, "%s", text);
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("%s", hint);
    return status;
}

static vnp_status check_inputs(const struct vnp_run_training_options *o) {
    struct stat st;
    for (int c = 0; c < 2; c++)
        for (size_t i = 0; i < o->n_inputs[c]; i++) {
            const char *path = o->inputs[c][i];
            if (strcmp(path, "-") == 0)
                return bad_input(VNP_INVAL, path, "name files",
                                 "standard input cannot be read twice, as training does");
            if (stat(path, &st) != 0)
                return bad_input(VNP_NOT_FOUND, path, "name FASTA or FASTQ files",
                                 "cannot open the input: there is no such file");
            for (size_t j = 0; c == 1 && j < o->n_inputs[0]; j++)
                if (vnp_run_is_same_file(o->inputs[0][j], path))
                    return bad_input(VNP_MISMATCH, path, "a record is either virus or other",
                                     "this file is named on both sides");
        }
    return VNP_OK;
}

static const char *const too_few_hint = "training needs two records of each class, better hundreds";

/* The records of one file, counted up to two; it is opened and begun as the engine will. */
static vnp_status count_records(const char *path, int *n) {
    struct vnp_seq_reader *reader;
    struct vnp_seq_record record;
    bool has_record = true;
    VNP_TRY(vnp_seq_reader_open(&path, 1, NULL, &reader));
    vnp_status status = VNP_OK;
    for (int i = 0; i < 2 && has_record && status == VNP_OK; i++) {
        status = vnp_seq_reader_next(reader, &record, &has_record);
        *n += status == VNP_OK && has_record;
    }
    vnp_seq_reader_close(reader);
    return status;
}

/* What can be known before the first class is embedded, which may take hours: every file begins
 * well and each class has two records. Pipes can be read once only and are left alone. */
static vnp_status check_records(const struct vnp_run_training_options *o) {
    for (int c = 0; c < 2; c++) {
        struct stat st;
        int n = 0;
        for (size_t i = 0; i < o->n_inputs[c]; i++) {
            if (stat(o->inputs[c][i], &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
                VNP_TRY(count_records(o->inputs[c][i], &n));
            else
                n = 2;
        }
        if (n >= 2) continue;
        vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT,
                 n == 0 ? "there is no record of class %s"
                        : "there is only one record of class %s: nothing would be left to judge on",
                 class_names[c]);
        vnp_error_at(o->inputs[c][0], -1, -1, NULL);
        vnp_error_hint("%s", too_few_hint);
        return VNP_MISMATCH;
    }
    return VNP_OK;
}

/* ---- vectors of a class --------------------------------------------------------------------- */

static vnp_status map_vectors(struct training_side *side) {
    const char *path = side->setup.path_data;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    vnp_status status = VNP_OK;
    if (fd < 0 || fstat(fd, &st) != 0) {
        status = vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, errno, "the saved vectors");
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            status = vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, errno, "the saved vectors");
        else
            side->vectors = p, side->n_map_bytes = (size_t)st.st_size;
    }
    if (fd >= 0) close(fd);
    if (status != VNP_OK) vnp_error_at(path, -1, -1, NULL);
    return status;
}

static vnp_status embed_once(struct training_side *side) {
    side->setup = (struct run_setup){.opt = &side->opt, .e = {.opt = &side->opt}};
    return vnp_run_vectors(&side->setup);
}

/* --force keeps vectors that belong to these files and models; only others are made anew. */
static vnp_status embed_side(const struct vnp_run_training_options *o, struct training_set *set,
                             int c) {
    struct training_side *side = &set->side[c];
    struct vnp_ledger_counts n;
    side->opt = o->run;
    side->opt.inputs = o->inputs[c];
    side->opt.n_inputs = o->n_inputs[c];
    side->opt.out = side->dir;
    side->opt.is_forced = false;
    if (snprintf(side->dir, sizeof side->dir, "%s.train/%s", o->out, class_names[c]) >= 4000)
        return vnp_fail(VNP_INVAL, VNP_FROM_OUTPUT, "the output path is too long");
    vnp_log(VNP_LOG_INFO, "train", "vectors of class %s: %s", class_names[c], side->dir);
    vnp_status status = embed_once(side);
    if (status == VNP_MISMATCH && o->run.is_forced && vnp_error_last()->origin == VNP_FROM_OUTPUT) {
        vnp_run_setup_fini(&side->setup);
        side->opt.is_forced = true;
        status = embed_once(side);
    }
    VNP_TRY(status);
    VNP_TRY(vnp_ledger_meta_get(side->setup.e.ledger, "input", side->input, sizeof side->input));
    VNP_TRY(vnp_ledger_count(side->setup.e.ledger, &n));
    side->n_windows = n.n_windows;
    side->n_tokens = n.n_tokens_dna + n.n_tokens_protein;
    set->n_cols = side->setup.e.n_row_cols;
    return map_vectors(side);
}

/* ---- records and their rows ----------------------------------------------------------------- */

/* A record that has frames: its rows stand together in `rows`. */
struct unit {
    int64_t first, n;
    uint64_t draw;
    int part;
};
struct listing {
    struct run_buffer extents, rows, units, ids; /* off_row, n_rows pairs; pointers; units; text */
    int64_t i_extent, i_row;                     /* the next frame's place */
    int64_t n_rows, n_units;
    struct run_buffer wanted; /* sorted ids of the validation part: char * */
    int64_t n_wanted;
};

static vnp_status add_extent(void *ctx, int64_t off_row, int64_t n_rows) {
    const int64_t pair[2] = {off_row, n_rows};
    return vnp_run_buffer_append(ctx, pair, sizeof pair);
}

static const float *next_row(struct listing *l, const struct training_side *side, int64_t n_cols) {
    const int64_t *e = l->extents.data;
    size_t n = l->extents.n_bytes / (2 * sizeof *e);
    while ((size_t)l->i_extent < n && l->i_row >= e[2 * l->i_extent + 1])
        l->i_extent++, l->i_row = 0;
    if ((size_t)l->i_extent >= n) return NULL;
    int64_t row = e[2 * l->i_extent] + l->i_row++;
    size_t end = (size_t)(row + 1) * (size_t)n_cols * sizeof(float);
    return end <= side->n_map_bytes ? side->vectors + row * n_cols : NULL;
}

static uint64_t draw_of(uint64_t seed, int c, int64_t record) {
    const uint64_t what[3] = {0x5350, (uint64_t)c, (uint64_t)record};
    return vnp_hash_seeded(what, sizeof what, seed).lo;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_wanted(const struct listing *l, const char *id) {
    return l->n_wanted &&
           bsearch(&id, l->wanted.data, (size_t)l->n_wanted, sizeof(char *), by_text);
}

static vnp_status list_record(struct listing *l, struct training_set *set, int c, uint64_t seed,
                              const struct vnp_ledger_record *r, struct vnp_ledger_cursor *cursor) {
    struct unit u = {.first = l->n_rows,
                     .draw = draw_of(seed, c, r->idx),
                     .part = is_wanted(l, r->id) ? PART_VALID : PART_TRAIN};
    for (;;) {
        struct vnp_ledger_frame f;
        bool has;
        VNP_TRY(vnp_ledger_cursor_frame(cursor, &f, &has));
        if (!has) break;
        const float *row = next_row(l, &set->side[c], set->n_cols);
        if (!row) return vnp_fail(VNP_BUG, VNP_FROM_OUTPUT, "a frame without a vector");
        if (f.reason) continue; /* it failed: its vector is no number */
        VNP_TRY(vnp_run_buffer_append(&l->rows, &row, sizeof row));
        l->n_rows++;
        u.n++;
    }
    if (u.n == 0) return VNP_OK;
    l->n_units++;
    return vnp_run_buffer_append(&l->units, &u, sizeof u);
}

static vnp_status list_side(struct listing *l, struct training_set *set, int c, uint64_t seed) {
    struct vnp_ledger *ledger = set->side[c].setup.e.ledger;
    struct vnp_ledger_cursor *cursor;
    bool has = true;
    VNP_TRY(vnp_ledger_extents_walk(ledger, add_extent, &l->extents));
    VNP_TRY(vnp_ledger_cursor_open(ledger, &cursor));
    vnp_status status = VNP_OK;
    while (status == VNP_OK && has) {
        struct vnp_ledger_record r;
        status = vnp_ledger_cursor_record(cursor, &r, &has);
        if (status == VNP_OK && has) status = list_record(l, set, c, seed, &r, cursor);
    }
    vnp_ledger_cursor_close(cursor);
    return status;
}

/* ---- the split ------------------------------------------------------------------------------ */

static int by_draw(const void *a, const void *b) {
    const struct unit *x = *(const struct unit *const *)a, *y = *(const struct unit *const *)b;
    if (x->draw != y->draw) return x->draw < y->draw ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

/* Records in drawn order go to the validation part as long as its share is not passed; at least
 * one goes there and one stays. */
static vnp_status split_by_share(struct listing *l, double share) {
    struct unit *units = l->units.data, **order = malloc((size_t)l->n_units * sizeof *order);
    if (!order) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "records");
    for (int64_t i = 0; i < l->n_units; i++) order[i] = &units[i];
    qsort(order, (size_t)l->n_units, sizeof *order, by_draw);
    double room = share * (double)l->n_rows;
    int64_t n_valid = 0, smallest = 0;
    for (int64_t i = 0; i < l->n_units; i++) {
        if (order[i]->n < order[smallest]->n) smallest = i;
        if ((double)order[i]->n > room || n_valid + 1 >= l->n_units) continue;
        order[i]->part = PART_VALID;
        room -= (double)order[i]->n;
        n_valid++;
    }
    if (n_valid == 0) order[smallest]->part = PART_VALID;
    free(order);
    return VNP_OK;
}

static vnp_status too_few(const struct listing *l, int c, const char *input) {
    vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT,
             l->n_units == 0
                 ? "no record of class %s has an open frame in a window without ambiguous letters"
                 : "only one record of class %s has an open frame: nothing is left to judge on",
             class_names[c]);
    vnp_error_at(input, -1, -1, NULL);
    vnp_error_hint("%s; a shorter --window has an open frame more often", too_few_hint);
    return VNP_MISMATCH;
}

static vnp_status add_rows(struct training_set *set, int part, int c, const float *const *rows,
                           int64_t n) {
    if (set->n[part] + n > set->cap[part]) {
        int64_t cap = 2 * (set->n[part] + n);
        const float **grown = realloc((void *)set->rows[part], (size_t)cap * sizeof *grown);
        if (!grown) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "rows");
        set->rows[part] = grown;
        uint8_t *labels = realloc(set->labels[part], (size_t)cap);
        if (!labels) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "rows");
        set->labels[part] = labels;
        set->cap[part] = cap;
    }
    memcpy((void *)(set->rows[part] + set->n[part]), (const void *)rows, (size_t)n * sizeof *rows);
    memset(set->labels[part] + set->n[part], c, (size_t)n);
    set->n[part] += n;
    return VNP_OK;
}

static vnp_status split_side(struct listing *l, struct training_set *set, int c,
                             const struct vnp_run_training_options *o) {
    const struct unit *units = l->units.data;
    const float *const *rows = l->rows.data;
    if (l->n_units < 2) return too_few(l, c, o->inputs[c][0]);
    if (!o->valid_ids) VNP_TRY(split_by_share(l, o->valid_share));
    for (int64_t i = 0; i < l->n_units; i++) {
        VNP_TRY(add_rows(set, units[i].part, c, rows + units[i].first, units[i].n));
        set->n_records[units[i].part][c]++;
        set->n_frames[units[i].part][c] += units[i].n;
    }
    for (int part = 0; part < 2; part++) {
        if (set->n_records[part][c]) continue;
        vnp_fail(VNP_MISMATCH, VNP_FROM_INPUT, "%s record of class %s is in the validation part",
                 part == PART_VALID ? "no" : "every", class_names[c]);
        vnp_error_at(o->valid_ids, -1, -1, NULL);
        vnp_error_hint("the list must name some records of both classes and leave some");
        return VNP_MISMATCH;
    }
    return VNP_OK;
}

/* Record ids, one a line, what follows a blank or tab is left alone. */
static vnp_status read_ids(const char *path, struct listing *l, struct vnp_hash128 *hash) {
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    vnp_status status = VNP_OK;
    if (!f) {
        vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "cannot open the list of record ids");
        vnp_error_at(path, -1, -1, NULL);
        return VNP_IO;
    }
    while (status == VNP_OK && (n = getline(&line, &cap, f)) >= 0) {
        line[strcspn(line, " \t\r\n")] = 0;
        if (line[0]) status = vnp_run_buffer_append(&l->ids, line, strlen(line) + 1);
    }
    if (status == VNP_OK && ferror(f))
        status = vnp_fail_errno(VNP_IO, VNP_FROM_INPUT, errno, "reading the list of record ids");
    free(line);
    fclose(f);
    VNP_TRY(status);
    *hash = vnp_hash(l->ids.data, l->ids.n_bytes);
    for (const char *p = l->ids.data; p && p < (char *)l->ids.data + l->ids.n_bytes;
         p += strlen(p) + 1, l->n_wanted++)
        VNP_TRY(vnp_run_buffer_append(&l->wanted, &p, sizeof p));
    if (l->n_wanted) qsort(l->wanted.data, (size_t)l->n_wanted, sizeof(char *), by_text);
    return VNP_OK;
}

static void listing_clear(struct listing *l) {
    l->extents.n_bytes = l->rows.n_bytes = l->units.n_bytes = 0;
    l->i_extent = l->i_row = l->n_rows = l->n_units = 0;
}

/* Both classes one after the other through one listing. */
static vnp_status take_sides(const struct vnp_run_training_options *o, struct training_set *set) {
    struct listing l = {0};
    vnp_status status = VNP_OK;
    if (o->valid_ids) status = read_ids(o->valid_ids, &l, &set->valid_ids);
    for (int c = 0; c < 2 && status == VNP_OK; c++) {
        listing_clear(&l);
        status = list_side(&l, set, c, o->train.seed);
        if (status == VNP_OK) status = split_side(&l, set, c, o);
    }
    vnp_run_buffer_fini(&l.extents);
    vnp_run_buffer_fini(&l.rows);
    vnp_run_buffer_fini(&l.units);
    vnp_run_buffer_fini(&l.ids);
    vnp_run_buffer_fini(&l.wanted);
    return status;
}

vnp_status vnp_training_set_open(const struct vnp_run_training_options *o,
                                 struct training_set *set) {
    memset(set, 0, sizeof *set);
    VNP_TRY(check_inputs(o));
    VNP_TRY(check_records(o));
    for (int c = 1; c >= 0; c--) VNP_TRY(embed_side(o, set, c));
    if (strcmp(set->side[0].input, set->side[1].input) == 0)
        return bad_input(VNP_MISMATCH, o->inputs[0][0], "a record is either virus or other",
                         "the records of both classes are the same");
    return take_sides(o, set);
}

void vnp_training_set_close(struct training_set *set) {
    for (int c = 0; c < 2; c++) {
        struct training_side *side = &set->side[c];
        if (side->n_map_bytes) munmap((void *)(uintptr_t)side->vectors, side->n_map_bytes);
        vnp_run_setup_fini(&side->setup);
    }
    for (int part = 0; part < 2; part++) {
        free((void *)set->rows[part]);
        free(set->labels[part]);
    }
}
