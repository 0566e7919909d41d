// SPDX-License-Identifier: MIT
// translate: windows and open frames alone, in the three files of the original (chunked.fa,
// nucleotide.fa, protein.faa). One thread, one record in memory; the files appear together at the
// end. A record without bases makes no window (the original divides by zero there) and is counted.
#include "run/engine.h"

#include "out/out.h"
#include "seq/seq.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEFAULT_WINDOW = 500, CHUNK_COLUMNS = 60, ID_TAIL_BYTES = 40 };
enum { CHUNKED, NUCLEOTIDE, PROTEIN, N_FILES };
static const char *const file_names[N_FILES] = {"chunked.fa", "nucleotide.fa", "protein.faa"};

struct translation {
    const struct vnp_run_options *opt;
    struct vnp_seq_reader *reader;
    struct vnp_outfile *files[N_FILES];
    int64_t window;
    char *id; /* [cap_id] of a window or frame */
    size_t cap_id;
    void *scratch; /* frames of windows of up to max_len bases */
    int64_t max_len;
    bool is_kind_told;
    double started_s, told_s; /* of the clock; told_s 0: not yet */
    struct vnp_run_counts counts;
};

/* Makes the folder and those above it. */
static vnp_status make_out_folder(const char *path) {
    struct stat st;
    char *part = strdup(path);
    if (!part) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a path");
    for (char *p = part + 1; part[0] && *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        (void)mkdir(part, 0777); /* the last one tells */
        *p = '/';
    }
    int err = mkdir(part, 0777) == 0 ? 0 : errno;
    free(part);
    if (err == 0 || (stat(path, &st) == 0 && S_ISDIR(st.st_mode))) return VNP_OK;
    vnp_status status =
        vnp_fail_errno(VNP_IO, VNP_FROM_OUTPUT, err, "cannot make the output folder");
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("name a folder that can be written");
    return status;
}

static vnp_status files_open(struct translation *t) {
    size_t cap = strlen(t->opt->out) + 32;
    char *path = malloc(cap);
    vnp_status status = path ? VNP_OK : vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a path");
    for (int i = 0; i < N_FILES && status == VNP_OK; i++) {
        snprintf(path, cap, "%s/%s", t->opt->out, file_names[i]);
        status = vnp_outfile_open(path, &t->files[i]);
    }
    free(path);
    return status;
}

/* All of them or none: a file that stood alone would make the repeated command refuse the folder.
 */
static vnp_status files_commit(struct translation *t) {
    vnp_status status = VNP_OK;
    int n_done = 0;
    for (; n_done < N_FILES && status == VNP_OK; n_done += status == VNP_OK) {
        struct vnp_outfile *f = t->files[n_done];
        t->files[n_done] = NULL; /* commit frees it in every case */
        status = vnp_outfile_commit(f);
    }
    if (status == VNP_OK) return VNP_OK;
    for (int i = 0; i < n_done; i++) {
        char path[4096]; /* as files_open made it: the file exists, so the name is short enough */
        if ((size_t)snprintf(path, sizeof path, "%s/%s", t->opt->out, file_names[i]) < sizeof path)
            (void)unlink(path);
    }
    return status;
}

/* Room for the ids of a record and for the frames of its windows. */
static vnp_status prepare(struct translation *t, const struct vnp_seq_record *rec) {
    int64_t len = VNP_MIN(t->window, (int64_t)rec->len);
    if (rec->id_len + ID_TAIL_BYTES > t->cap_id) {
        char *id = realloc(t->id, 2 * rec->id_len + ID_TAIL_BYTES);
        if (!id) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for an id");
        t->id = id;
        t->cap_id = 2 * rec->id_len + ID_TAIL_BYTES;
    }
    if (len > t->max_len) {
        void *scratch = realloc(t->scratch, vnp_frames_scratch_bytes(len));
        if (!scratch)
            return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for windows of %lld bases",
                            (long long)len);
        t->scratch = scratch;
        t->max_len = len;
    }
    memcpy(t->id, rec->id, rec->id_len);
    return VNP_OK;
}

static vnp_status write_window(struct translation *t, const struct vnp_seq_record *rec, int64_t k,
                               const char *window, int64_t len) {
    struct vnp_frames frames;
    char *tail = t->id + rec->id_len;
    int n = snprintf(tail, ID_TAIL_BYTES, "_chunk_%lld", (long long)(k + 1));
    VNP_TRY(vnp_out_fasta(t->files[CHUNKED], t->id, window, (size_t)len, CHUNK_COLUMNS));
    vnp_frames_find(window, len, t->scratch, &frames);
    t->counts.n_windows++;
    t->counts.n_windows_scored += frames.kept != 0;
    for (int f = 0; f < VNP_N_FRAMES; f++) {
        if (!(frames.kept >> f & 1)) continue;
        memcpy(tail + n, vnp_frame_names[f], sizeof vnp_frame_names[f]);
        VNP_TRY(
            vnp_out_fasta(t->files[NUCLEOTIDE], t->id, frames.nt[f], (size_t)frames.nt_len[f], 0));
        VNP_TRY(vnp_out_fasta(t->files[PROTEIN], t->id, frames.aa[f], (size_t)frames.aa_len[f], 0));
        t->counts.n_frames++;
    }
    return VNP_OK;
}

static vnp_status write_record(struct translation *t, const struct vnp_seq_record *rec) {
    struct vnp_windows w;
    if (!t->is_kind_told) t->is_kind_told = vnp_run_kind_warn(rec, true);
    t->counts.n_records++;
    t->counts.n_empty += rec->len == 0;
    VNP_TRY(prepare(t, rec));
    VNP_TRY(vnp_windows_init((int64_t)rec->len, t->window, &w));
    for (int64_t k = 0; k < w.n; k++) {
        int64_t start, end;
        vnp_windows_at(&w, k, &start, &end);
        VNP_TRY(write_window(t, rec, k, rec->seq + start, end - start));
    }
    return VNP_OK;
}

/* Ends an interrupted run; tells the caller at most twice a second, who may end it, too. */
static vnp_status tell(struct translation *t) {
    if (vnp_run_is_stop_requested())
        return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted; nothing was written");
    double now = vnp_now_s();
    if (!t->opt->progress || now - t->told_s < 0.5) return VNP_OK;
    t->told_s = now;
    struct vnp_seq_reader_stats stats;
    vnp_seq_reader_stats(t->reader, &stats);
    struct vnp_run_progress p = {.n_records = t->counts.n_records,
                                 .n_windows = t->counts.n_windows,
                                 .n_frames = t->counts.n_frames,
                                 .n_bytes_read = stats.n_bytes_stored,
                                 .n_bytes_total = vnp_seq_reader_total_bytes(t->reader),
                                 .elapsed_s = now - t->started_s,
                                 .stage = "running"};
    if (t->opt->progress(t->opt->progress_ctx, &p)) return VNP_OK;
    return vnp_fail(VNP_CANCELED, VNP_FROM_NONE, "interrupted; nothing was written");
}

static vnp_status run_translation(struct translation *t) {
    for (;;) {
        struct vnp_seq_record rec;
        bool has;
        VNP_TRY(vnp_seq_reader_next(t->reader, &rec, &has));
        if (!has) break;
        VNP_TRY(write_record(t, &rec));
        VNP_TRY(tell(t));
    }
    if (t->counts.n_records == 0) vnp_log(VNP_LOG_WARN, "run", "the input holds no record");
    return files_commit(t);
}

vnp_status vnp_run_translate(const struct vnp_run_options *opt, struct vnp_run_counts *out) {
    struct translation t = {.opt = opt, .started_s = vnp_now_s()};
    t.window = opt->window_bp < 1 ? DEFAULT_WINDOW : opt->window_bp;
    memset(out, 0, sizeof *out);
    if (!opt->out || !opt->out[0])
        return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "no output folder is named");
    struct vnp_seq_reader_options reader_opt = {.is_canceled = vnp_run_is_stopping};
    VNP_TRY(vnp_seq_reader_open(opt->inputs, opt->n_inputs, &reader_opt, &t.reader));
    vnp_status status = make_out_folder(opt->out);
    if (status == VNP_OK) status = files_open(&t);
    if (status == VNP_OK) status = run_translation(&t);
    *out = t.counts;
    for (int i = 0; i < N_FILES; i++) vnp_outfile_abort(t.files[i]);
    vnp_seq_reader_close(t.reader);
    free(t.scratch);
    free(t.id);
    return status;
}
