// SPDX-License-Identifier: MIT
// What a record's frames add up to: its row of contigs.tsv. A window's score is the largest score2
// of its scored frames, its verdict upstream's rule (largest score2 >= largest score1).
#include "run/engine.h"
#include "out/out.h"

#include <math.h>
#include <stdio.h>

static void close_window(const struct run_tally_watcher *w, struct run_tally *t,
                         const struct run_window_score *v) {
    if (!v->is_scored) return;
    t->n_scored++;
    t->n_virus += v->max2 >= v->max1;
    t->sum += (double)v->max2;
    if (w->window) w->window(w->ctx, v);
}

vnp_status vnp_run_tally_record(struct vnp_ledger_cursor *cursor,
                                const struct run_tally_watcher *watcher, struct run_tally *out) {
    struct run_window_score v = {.idx = -1};
    *out = (struct run_tally){0};
    for (;;) {
        struct vnp_ledger_frame f;
        bool has;
        VNP_TRY(vnp_ledger_cursor_frame(cursor, &f, &has));
        if (!has || f.window != v.idx) {
            close_window(watcher, out, &v);
            v = (struct run_window_score){.idx = has ? f.window : -1, .max1 = -1, .max2 = -1};
        }
        if (!has) return VNP_OK;
        out->n_frames++;
        if (f.reason) {
            if (out->n_failed++ == 0) snprintf(out->reason, sizeof out->reason, "%s", f.reason);
        } else {
            v.is_scored = true;
            v.max1 = fmaxf(v.max1, f.score1);
            v.max2 = fmaxf(v.max2, f.score2);
        }
        if (watcher->frame) VNP_TRY(watcher->frame(watcher->ctx, &f));
    }
}

static const char *status_of(const struct vnp_ledger_record *r, const struct run_tally *t) {
    if (t->n_failed > 0) return "failed";
    if (r->length == 0) return "empty";
    if (r->length < 3) return "too_short";
    return t->n_frames == 0 ? "no_orf" : "ok";
}

void vnp_run_tally_row(const struct vnp_ledger_record *r, const struct run_tally *t,
                       struct vnp_contig_row *row) {
    *row = (struct vnp_contig_row){.seq_id = r->id,
                                   .length = r->length,
                                   .n_windows = r->n_windows,
                                   .n_scored = t->n_scored,
                                   .n_frames = t->n_frames,
                                   .n_virus = t->n_virus,
                                   .virus_score =
                                       t->n_scored ? t->sum / (double)t->n_scored : (double)NAN,
                                   .call = t->n_scored == 0               ? "unscored"
                                           : 2 * t->n_virus > t->n_scored ? "virus"
                                                                          : "other",
                                   .status = status_of(r, t),
                                   .reason = t->reason};
}
