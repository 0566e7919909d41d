// SPDX-License-Identifier: MIT
// The tables of predict and FASTA. The two upstream files follow the original scripts to the byte
// (TAB separated, whatever their suffix says; labels and booleans as pandas and numpy print them).
#include "out/out.h"

#include <string.h>

vnp_status vnp_out_frames_header(struct vnp_outfile *f) {
    return vnp_outfile_printf(f, "Sequence_ID\tPrediction\tscore1\tscore2\n");
}

vnp_status vnp_out_frames_row(struct vnp_outfile *f, const char *frame_id, float score1,
                              float score2) {
    char a[VNP_F32_TEXT], b[VNP_F32_TEXT];
    vnp_format_f32(score1, a);
    vnp_format_f32(score2, b);
    return vnp_outfile_printf(f, "%s\t%s\t%s\t%s\n", frame_id, score2 > score1 ? "virus" : "others",
                              a, b);
}

vnp_status vnp_out_windows_header(struct vnp_outfile *f) {
    return vnp_outfile_printf(f, "Modified_ID\tIs_Virus\n");
}

vnp_status vnp_out_windows_row(struct vnp_outfile *f, const char *window_id, bool is_virus) {
    return vnp_outfile_printf(f, "%s\t%s\n", window_id, is_virus ? "True" : "False");
}

vnp_status vnp_out_contigs_header(struct vnp_outfile *f) {
    return vnp_outfile_printf(f, "seq_id\tlength\tn_windows\tn_scored\tn_frames\tn_virus\t"
                                 "virus_score\tcall\tstatus\treason\n");
}

/* Text as one table cell: tabs and line ends become spaces. */
static vnp_status put_cell(struct vnp_outfile *f, const char *text) {
    while (*text) {
        size_t n = strcspn(text, "\t\r\n\v\f");
        VNP_TRY(vnp_outfile_write(f, text, n));
        text += n;
        if (!*text) break;
        VNP_TRY(vnp_outfile_write(f, " ", 1));
        text++;
    }
    return VNP_OK;
}

vnp_status vnp_out_contigs_row(struct vnp_outfile *f, const struct vnp_contig_row *row) {
    char score[VNP_F32_TEXT];
    vnp_format_f32((float)row->virus_score, score);
    VNP_TRY(put_cell(f, row->seq_id));
    VNP_TRY(vnp_outfile_printf(f, "\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\t%s\t%s\t",
                               (long long)row->length, (long long)row->n_windows,
                               (long long)row->n_scored, (long long)row->n_frames,
                               (long long)row->n_virus, score, row->call, row->status));
    VNP_TRY(put_cell(f, row->reason ? row->reason : ""));
    return vnp_outfile_write(f, "\n", 1);
}

vnp_status vnp_out_fasta(struct vnp_outfile *f, const char *header, const char *seq, size_t len,
                         int line_width) {
    VNP_TRY(vnp_outfile_write(f, ">", 1));
    VNP_TRY(vnp_outfile_write(f, header, strlen(header)));
    VNP_TRY(vnp_outfile_write(f, "\n", 1));
    size_t width = line_width > 0 ? (size_t)line_width : VNP_MAX(len, 1);
    for (size_t i = 0; i < len; i += width) {
        VNP_TRY(vnp_outfile_write(f, seq + i, VNP_MIN(width, len - i)));
        VNP_TRY(vnp_outfile_write(f, "\n", 1));
    }
    return VNP_OK;
}
