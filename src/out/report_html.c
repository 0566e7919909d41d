// SPDX-License-Identifier: MIT
// The page that `report` writes: what was found, where along each record, and what did it. One
// file that can be mailed and opened anywhere: no scripts, no fonts, no pictures from elsewhere,
// light and dark. The same data give the same bytes.
#include "out/out.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_SHADES = 11 }; /* of a virus score, 0 to 1 */

/* The file keeps its first failure, and its commit returns it. */
#define PUT(f, ...) (void)vnp_outfile_printf(f, __VA_ARGS__)

/* ---- text ----------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 character at s; 0: it is none that HTML may hold. */
static size_t utf8_length(const unsigned char *s) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (s[0] < 0x80) return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = (s[0] & 0xe0) == 0xc0   ? 2
               : (s[0] & 0xf0) == 0xe0 ? 3
               : (s[0] & 0xf8) == 0xf0 ? 4
                                       : 0;
    if (n == 0) return 0;
    uint32_t c = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    bool is_odd = c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || c < 0xa0;
    return is_odd ? 0 : n;
}

static void put_text(struct vnp_outfile *f, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        size_t n = utf8_length(s);
        const char *as = n == 0      ? "&#xFFFD;"
                         : *s == '&' ? "&amp;"
                         : *s == '<' ? "&lt;"
                         : *s == '>' ? "&gt;"
                         : *s == '"' ? "&quot;"
                                     : NULL;
        if (as)
            PUT(f, "%s", as);
        else
            PUT(f, "%.*s", (int)n, (const char *)s);
        s += n ? n : 1;
    }
}

/* 12345678 as "12,345,678". */
static const char *number(int64_t v, char buf[32]) {
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)v), k = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && digits[i - 1] != '-' && (n - i) % 3 == 0) buf[k++] = ',';
        buf[k++] = digits[i];
    }
    buf[k] = 0;
    return buf;
}

static void put_number(struct vnp_outfile *f, int64_t v) {
    char buf[32];
    PUT(f, "%s", number(v, buf));
}

static void put_share(struct vnp_outfile *f, int64_t part, int64_t whole) {
    if (whole > 0) PUT(f, " <small>%.1f %%</small>", 100.0 * (double)part / (double)whole);
}

/* ---- head ----------------------------------------------------------------------------------- */

/* Blue (other) over grey to orange (virus): told apart by the colour-blind too. */
static void put_shades(struct vnp_outfile *f) {
    static const double ends[3][3] = {{47, 111, 179}, {224, 226, 230}, {213, 77, 14}};
    for (int i = 0; i < N_SHADES; i++) {
        double t = (double)i / (N_SHADES - 1) * 2;
        const double *a = ends[t < 1 ? 0 : 1], *b = ends[t < 1 ? 1 : 2];
        double k = t < 1 ? t : t - 1;
        PUT(f, ".s%d{background:#%02x%02x%02x}", i, (unsigned)lrint(a[0] + k * (b[0] - a[0])),
            (unsigned)lrint(a[1] + k * (b[1] - a[1])), (unsigned)lrint(a[2] + k * (b[2] - a[2])));
    }
}

static void put_style(struct vnp_outfile *f) {
    PUT(f, "<style>\n"
           ":root{--bg:#fff;--fg:#1c2128;--mut:#636c76;--line:#dde1e6;--card:#f6f7f9;"
           "--virus:#d54d0e;--other:#2f6fb3;--none:#c3c8cf}\n"
           "@media(prefers-color-scheme:dark){:root{--bg:#15191e;--fg:#e4e7eb;--mut:#98a1ac;"
           "--line:#323a43;--card:#1d232a;--virus:#f0783c;--other:#5b98dc;--none:#4a525c}}\n"
           "body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,"
           "sans-serif;-webkit-print-color-adjust:exact;print-color-adjust:exact}\n"
           "main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}\n"
           "h1{font-size:26px;margin:0}h2{font-size:18px;margin:36px 0 8px}"
           "h3{font-size:14px;margin:0 0 8px;font-weight:600}\n"
           "p{margin:6px 0;max-width:78ch}.mut,small{color:var(--mut)}small{font-size:12px}\n");
    PUT(f, ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;"
           "margin:20px 0}.tile{background:var(--card);border:1px solid var(--line);"
           "border-radius:8px;padding:12px 14px}.tile b{display:block;font-size:24px;"
           "line-height:1.2;font-variant-numeric:tabular-nums}\n"
           ".virus b,.v{color:var(--virus)}.other b,.o{color:var(--other)}.v,.o{font-weight:600}\n"
           ".bar{display:flex;height:14px;border-radius:4px;overflow:hidden;background:"
           "var(--card)}.bar i{display:block}.bv{background:var(--virus)}.bo{background:"
           "var(--other)}.bn{background:var(--none)}\n"
           ".two{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:20px}"
           "figure{margin:0;background:var(--card);border:1px solid var(--line);"
           "border-radius:8px;padding:14px}svg{width:100%%;height:auto;display:block}"
           "svg text{font:11px system-ui,sans-serif;fill:var(--mut)}.fv{fill:var(--virus)}"
           ".fo{fill:var(--other)}.ax{stroke:var(--line)}\n");
    PUT(f, ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%%;font-size:13.5px}"
           "th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);"
           "vertical-align:top}th{color:var(--mut);font-weight:600;white-space:nowrap}"
           ".n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
           "td.id{word-break:break-all;min-width:130px;max-width:270px}td.strip{min-width:260px;"
           "width:40%%}"
           ".map{display:flex;height:18px;border-radius:3px;overflow:hidden;background:"
           "var(--card)}.map i{flex:1}.sx{background:var(--bg)}\n"
           ".at{position:relative;height:5px;margin-top:2px}.at i{position:absolute;height:3px;"
           "background:var(--fg);border-radius:2px}\n"
           ".key{display:flex;align-items:center;gap:8px;margin:8px 0;font-size:12.5px;color:"
           "var(--mut)}.key .map{width:160px;height:12px;flex:none}code{font-size:12.5px;"
           "word-break:break-all}@media print{figure,.tile,tr{break-inside:avoid}}\n");
    put_shades(f);
    PUT(f, "\n</style>\n");
}

static void put_tile(struct vnp_outfile *f, const char *class, const char *name, int64_t v,
                     int64_t whole) {
    PUT(f, "<div class=\"tile%s\"><b>", class);
    put_number(f, v);
    PUT(f, "</b>%s", name);
    put_share(f, v, whole);
    PUT(f, "</div>\n");
}

static void put_head(struct vnp_outfile *f, const struct vnp_report *r) {
    char bases[32], viral[32], scored[32], windows[32];
    PUT(f, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
           "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
    put_text(f, r->title);
    PUT(f, "</title>\n");
    put_style(f);
    PUT(f, "</head><body><main>\n<h1>");
    put_text(f, r->title);
    PUT(f, "</h1>\n<p class=\"mut\">");
    put_text(f, r->subtitle);
    PUT(f, "</p>\n<div class=\"tiles\">\n");
    put_tile(f, "", "records", r->n_records, 0);
    put_tile(f, " virus", "called virus", r->n_virus, r->n_records);
    put_tile(f, " other", "called other", r->n_other, r->n_records);
    put_tile(f, "", "not scored", r->n_unscored, r->n_records);
    if (r->n_failed > 0) put_tile(f, " virus", "failed", r->n_failed, r->n_records);
    PUT(f,
        "</div>\n<p>%s of %s bases are in records called virus. %s of %s windows have an open "
        "frame and so a score; ",
        number(r->n_virus_bases, viral), number(r->n_bases, bases),
        number(r->n_windows_scored, scored), number(r->n_windows, windows));
    put_number(f, r->n_windows_virus);
    PUT(f, " of these look viral.</p>\n");
    for (int64_t i = 0; i < r->n_notes; i++) {
        PUT(f, "<p><b>Note.</b> ");
        put_text(f, r->notes[i]);
        PUT(f, "</p>\n");
    }
}

/* ---- charts --------------------------------------------------------------------------------- */

/* Stacked columns by score, other below and virus on top. */
static void put_histogram(struct vnp_outfile *f, const char *title,
                          const int64_t n[2][VNP_REPORT_BINS]) {
    enum { LEFT = 44, TOP = 8, WIDTH = 400, HEIGHT = 130 };
    char a[32], b[32];
    int64_t top = 1;
    for (int i = 0; i < VNP_REPORT_BINS; i++) top = VNP_MAX(top, n[0][i] + n[1][i]);
    PUT(f, "<figure><h3>%s</h3><svg viewBox=\"0 0 %d %d\" role=\"img\">", title, LEFT + WIDTH + 10,
        TOP + HEIGHT + 36);
    PUT(f, "<line class=\"ax\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>", LEFT, LEFT + WIDTH,
        TOP + HEIGHT, TOP + HEIGHT);
    PUT(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", LEFT - 6, TOP + 10,
        number(top, a));
    PUT(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">0</text>", LEFT - 6, TOP + HEIGHT + 3);
    for (int i = 0; i < VNP_REPORT_BINS; i++) {
        double w = (double)WIDTH / VNP_REPORT_BINS, x = LEFT + i * w;
        double scale = (double)HEIGHT / (double)top, y = TOP + HEIGHT;
        if (n[0][i] + n[1][i] == 0) continue;
        PUT(f, "<g><title>%.2f to %.2f: %s virus, %s other</title>", (double)i / VNP_REPORT_BINS,
            (double)(i + 1) / VNP_REPORT_BINS, number(n[1][i], a), number(n[0][i], b));
        for (int k = 0; k < 2; k++) {
            double h = (double)n[k][i] * scale;
            y -= h;
            if (n[k][i] > 0)
                PUT(f, "<rect class=\"%s\" x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\"/>",
                    k ? "fv" : "fo", x + 1, y, w - 2, h);
        }
        PUT(f, "</g>");
    }
    for (int i = 0; i <= 4; i++)
        PUT(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%.2g</text>", LEFT + i * WIDTH / 4,
            TOP + HEIGHT + 16, 0.25 * i);
    PUT(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">virus score</text></svg></figure>\n",
        LEFT + WIDTH / 2, TOP + HEIGHT + 32);
}

static void put_bar(struct vnp_outfile *f, const int64_t n[3]) {
    static const char *const classes[] = {"bv", "bo", "bn"};
    PUT(f, "<div class=\"bar\">");
    for (int k = 0; k < 3; k++)
        if (n[k] > 0)
            PUT(f, "<i class=\"%s\" style=\"flex:%lld\"></i>", classes[k], (long long)n[k]);
    PUT(f, "</div>");
}

static void put_classes(struct vnp_outfile *f, const struct vnp_report *r) {
    static const char *const names[VNP_REPORT_CLASSES] = {"below 1 kb", "1 to 3 kb", "3 to 10 kb",
                                                          "10 to 30 kb", "30 kb and more"};
    PUT(f, "<h2>By length</h2>\n<div class=\"scroll\"><table><tr><th>length</th><th class=\"n\">"
           "records</th><th class=\"n\">virus</th><th class=\"n\">other</th><th class=\"n\">not "
           "scored</th><th></th></tr>\n");
    for (int i = 0; i < VNP_REPORT_CLASSES; i++) {
        const int64_t *n = r->classes[i], all = n[0] + n[1] + n[2];
        if (all == 0) continue;
        PUT(f, "<tr><td>%s</td><td class=\"n\">", names[i]);
        put_number(f, all);
        for (int k = 0; k < 3; k++) {
            PUT(f, "</td><td class=\"n\">");
            put_number(f, n[k]);
        }
        PUT(f, "</td><td class=\"strip\">");
        put_bar(f, n);
        PUT(f, "</td></tr>\n");
    }
    PUT(f, "</table></div>\n");
}

/* ---- records -------------------------------------------------------------------------------- */

static void put_map(struct vnp_outfile *f, const struct vnp_report_record *x) {
    PUT(f, "<div class=\"map\">");
    for (int i = 0; i < x->n_cells; i++) {
        if (isnan(x->cells[i]))
            PUT(f, "<i class=\"sx\"></i>");
        else
            PUT(f, "<i class=\"s%d\" title=\"%.2f\"></i>",
                (int)lrintf(fminf(fmaxf(x->cells[i], 0), 1) * (N_SHADES - 1)), (double)x->cells[i]);
    }
    PUT(f, "</div>");
    if (x->stretch_virus > 0 && x->row.length > 0)
        PUT(f, "<div class=\"at\"><i style=\"left:%.2f%%;width:%.2f%%\"></i></div>",
            100.0 * (double)x->stretch_begin / (double)x->row.length,
            100.0 * (double)(x->stretch_end - x->stretch_begin) / (double)x->row.length);
}

static void put_stretch(struct vnp_outfile *f, const struct vnp_report_record *x) {
    if (x->stretch_virus == 0) return;
    put_number(f, x->stretch_begin + 1);
    PUT(f, "&#8202;&ndash;&#8202;");
    put_number(f, x->stretch_end);
    PUT(f, "<br><small>%lld of %lld scored windows</small>", (long long)x->stretch_virus,
        (long long)x->stretch_scored);
}

static void put_record(struct vnp_outfile *f, const struct vnp_report_record *x) {
    PUT(f, "<tr><td class=\"id\">");
    put_text(f, x->id);
    PUT(f, "</td><td class=\"n\">");
    put_number(f, x->row.length);
    PUT(f, "</td><td class=\"n\">%lld / %lld</td><td class=\"n %s\">%.3f</td>",
        (long long)x->row.n_virus, (long long)x->row.n_scored, x->row.call[0] == 'v' ? "v" : "o",
        x->row.virus_score);
    PUT(f, "<td class=\"strip\">");
    put_map(f, x);
    PUT(f, "</td><td class=\"n\">");
    put_stretch(f, x);
    PUT(f, "</td></tr>\n");
}

static void put_shown(struct vnp_outfile *f, const struct vnp_report_list *l, const char *where) {
    if (l->n == l->n_all) return;
    PUT(f, "<p class=\"mut\">The first ");
    put_number(f, l->n);
    PUT(f, " of ");
    put_number(f, l->n_all);
    PUT(f, "; all of them are in %s.</p>\n", where);
}

static void put_list(struct vnp_outfile *f, const struct vnp_report_list *l, const char *where) {
    PUT(f, "<div class=\"key\"><span>virus score 0</span><div class=\"map\">");
    for (int i = 0; i < N_SHADES; i++) PUT(f, "<i class=\"s%d\"></i>", i);
    PUT(f, "</div><span>1; blank: no open frame; the line below a map: the most viral "
           "stretch</span></div>\n<div class=\"scroll\"><table><tr><th>record</th><th class=\"n\">"
           "bases</th><th class=\"n\">viral / scored</th><th class=\"n\">score</th><th>along the "
           "record</th><th class=\"n\">most viral stretch</th></tr>\n");
    for (int64_t i = 0; i < l->n; i++) put_record(f, &l->records[i]);
    PUT(f, "</table></div>\n");
    put_shown(f, l, where);
}

static void put_records(struct vnp_outfile *f, const struct vnp_report *r) {
    PUT(f, "<h2>Called virus</h2>\n");
    if (r->virus.n > 0) {
        PUT(f, "<p>Most evidence first: by the sum of (score &minus; &frac12;) over a record's "
               "windows.</p>\n");
        put_list(f, &r->virus, "contigs.tsv and virus.fna");
    } else {
        PUT(f, "<p>No record was called virus.</p>\n");
    }
    if (r->stretches.n > 0) {
        PUT(f, "<h2>Viral stretches in records called other</h2>\n<p>Three or more viral windows "
               "outweigh their neighbours there: a provirus perhaps, or a chimera, or chance. "
               "Worth a look with another method.</p>\n");
        put_list(f, &r->stretches, "prediction_results_highestscore.csv, window by window");
    }
    if (r->other.n > 0) {
        PUT(f, "<h2>Called other</h2>\n<p>Highest virus score first.</p>\n");
        put_list(f, &r->other, "contigs.tsv");
    }
    if (r->unscored.n == 0) return;
    PUT(f, "<h2>Not scored or failed</h2>\n<div class=\"scroll\"><table><tr><th>record</th>"
           "<th class=\"n\">bases</th><th>status</th><th>reason</th></tr>\n");
    for (int64_t i = 0; i < r->unscored.n; i++) {
        const struct vnp_report_record *x = &r->unscored.records[i];
        PUT(f, "<tr><td class=\"id\">");
        put_text(f, x->id);
        PUT(f, "</td><td class=\"n\">");
        put_number(f, x->row.length);
        PUT(f, "</td><td>%s</td><td>", x->row.status);
        put_text(f, x->reason);
        PUT(f, "</td></tr>\n");
    }
    PUT(f, "</table></div>\n");
    put_shown(f, &r->unscored, "contigs.tsv");
}

/* ---- the run -------------------------------------------------------------------------------- */

static void put_table(struct vnp_outfile *f, const struct vnp_report_table *t) {
    if (t->n_rows == 0) return;
    PUT(f, "<div class=\"scroll\"><table><tr>");
    for (int64_t k = 0; k < t->n_cols; k++) {
        PUT(f, "<th>");
        put_text(f, t->head[k]);
        PUT(f, "</th>");
    }
    PUT(f, "</tr>\n");
    for (int64_t i = 0; i < t->n_rows; i++) {
        PUT(f, "<tr>");
        for (int64_t k = 0; k < t->n_cols; k++) {
            PUT(f, "<td>");
            put_text(f, t->cells[i * t->n_cols + k]);
            PUT(f, "</td>");
        }
        PUT(f, "</tr>\n");
    }
    PUT(f, "</table></div>\n");
}

static void put_run(struct vnp_outfile *f, const struct vnp_report *r) {
    PUT(f, "<h2>The run</h2>\n<div class=\"scroll\"><table>\n");
    for (int64_t i = 0; i < r->n_lines; i++) {
        PUT(f, "<tr><th>");
        put_text(f, r->lines[i].key);
        PUT(f, "</th><td><code>");
        put_text(f, r->lines[i].value);
        PUT(f, "</code></td></tr>\n");
    }
    PUT(f, "</table></div>\n");
    if (r->devices.n_rows > 0) PUT(f, "<h2>Devices</h2>\n");
    put_table(f, &r->devices);
    if (r->incidents.n_rows > 0) PUT(f, "<h2>Incidents</h2>\n");
    put_table(f, &r->incidents);
    PUT(f, "<h2>How to read this</h2>\n"
           "<p>A record is cut into windows. A window is scored when at least one of its six "
           "reading frames has no stop codon; its score is the largest virus score of these "
           "frames, and it is viral when that is at least their largest other score. A record's "
           "score is the mean over its scored windows; it is called virus when more than half of "
           "them are viral, and other when not.</p>\n"
           "<p>Short records rest on few windows: one wrong window decides a record of one. "
           "Windows without an open frame say nothing either way.</p>\n"
           "</main></body></html>\n");
}

vnp_status vnp_out_report(const char *path, const struct vnp_report *r) {
    struct vnp_outfile *f;
    VNP_TRY(vnp_outfile_open(path, &f));
    put_head(f, r);
    PUT(f, "<div class=\"two\">\n");
    put_histogram(f, "Windows by score", r->windows);
    put_histogram(f, "Records by score", r->records);
    PUT(f, "</div>\n");
    put_records(f, r);
    put_classes(f, r);
    put_run(f, r);
    return vnp_outfile_commit(f);
}
