// SPDX-License-Identifier: MIT
// Everything the program says while it works: log lines, a progress bar on a terminal or a line a
// minute elsewhere, errors, the closing lines. All of it goes to stderr and, for predict, into
// run.log; stdout belongs to data.
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 4096, SILENT_S = 60 };

/* Lock: `lock` guards all of it; a leaf. */
static struct {
    pthread_mutex_t lock;
    struct vnp_cli_report_options options;
    bool is_terminal, is_bar_shown, has_log_failed;
    char *early; /* lines for run.log from before the folder was ours */
    size_t n_early;
    int log_fd;
    double last_line_s;
} say = {.lock = PTHREAD_MUTEX_INITIALIZER, .log_fd = -1};

static const char *const level_names[] = {"error", "warning", "info", "debug", "trace"};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void json_escape(const char *in, char *out, size_t n) {
    size_t k = 0;
    for (; *in && k + 7 < n; in++) {
        unsigned char c = (unsigned char)*in;
        if (c == '"' || c == '\\') {
            out[k++] = '\\';
            out[k++] = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            k += (size_t)snprintf(out + k, n - k, "\\u%04x", c);
        } else {
            out[k++] = (char)c;
        }
    }
    out[k] = 0;
}

static void stamp(char out[32]) {
    time_t t = time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static void bar_clear(void) {
    if (say.is_bar_shown) fputs("\r\033[K", stderr);
    say.is_bar_shown = false;
}

static void log_append(const char *line) {
    if (!say.options.log_dir) return;
    size_t n = strlen(line);
    if (say.log_fd < 0) { /* kept until the folder is ours; bounded, the head matters most */
        char *p = say.n_early < 1 << 20 ? realloc(say.early, say.n_early + n + 1) : NULL;
        if (!p) return;
        say.early = p;
        memcpy(p + say.n_early, line, n + 1);
        say.n_early += n;
        return;
    }
    while (n > 0) {
        ssize_t w = write(say.log_fd, line, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) {
            if (!say.has_log_failed)
                fprintf(stderr, "virnucpro: warning: run.log cannot be written: %s\n",
                        strerror(errno));
            say.has_log_failed = true;
            return;
        }
        line += w;
        n -= (size_t)w;
    }
}

/* A record's name must not move the cursor of a terminal. */
static void plain(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

static void emit(int level, const char *room, const char *text) {
    char line[2 * LINE], escaped[LINE], when[32];
    bool is_shown = level == 0 || (!say.options.is_quiet && (level <= 2 || say.options.is_verbose));
    stamp(when);
    json_escape(text, escaped, sizeof escaped);
    if (say.options.is_json)
        snprintf(line, sizeof line,
                 "{\"time\":\"%s\",\"level\":\"%s\",\"room\":\"%s\",\"text\":\"%s\"}\n", when,
                 level_names[level], room, escaped);
    else
        snprintf(line, sizeof line, "%s %-7s %-7s %s\n", when, level_names[level], room, text);
    log_append(line);
    if (!is_shown) return;
    bar_clear();
    if (say.options.is_json)
        fputs(line, stderr);
    else
        fprintf(stderr, "virnucpro: %s%s%s\n", level == 2 ? "" : level_names[level],
                level == 2 ? "" : ": ", text);
}

static void on_log(void *ctx, int level, const char *room, const char *text) {
    char copy[LINE];
    (void)ctx;
    snprintf(copy, sizeof copy, "%s", text);
    plain(copy);
    pthread_mutex_lock(&say.lock);
    emit(level < 0 ? 0 : level > 4 ? 4 : level, room, copy);
    pthread_mutex_unlock(&say.lock);
}

void vnp_cli_report_open(const struct vnp_cli_report_options *options) {
    const char *term = getenv("TERM");
    say.options = *options;
    say.is_terminal = isatty(STDERR_FILENO) && !options->is_json && !options->is_quiet && term &&
                      strcmp(term, "dumb") != 0;
    say.last_line_s = now_s();
    vnp_log_callback_set(on_log, NULL, options->is_verbose ? 3 : 2);
}

void vnp_cli_report_own_dir(void) {
    char path[LINE];
    pthread_mutex_lock(&say.lock);
    if (say.options.log_dir && say.log_fd < 0 && !say.has_log_failed) {
        snprintf(path, sizeof path, "%s/run.log", say.options.log_dir);
        say.log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (say.log_fd < 0) say.has_log_failed = true;
        if (say.log_fd >= 0 && say.early) log_append(say.early);
        free(say.early);
        say.early = NULL;
        say.n_early = 0;
    }
    pthread_mutex_unlock(&say.lock);
}

void vnp_cli_report_close(void) {
    vnp_log_callback_set(NULL, NULL, 0);
    pthread_mutex_lock(&say.lock);
    bar_clear();
    if (say.log_fd >= 0) close(say.log_fd);
    say.log_fd = -1;
    free(say.early);
    say.early = NULL;
    say.n_early = 0;
    say.options = (struct vnp_cli_report_options){0};
    pthread_mutex_unlock(&say.lock);
}

void vnp_cli_say(int level, const char *fmt, ...) {
    char text[LINE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    on_log(NULL, level, "cli", text);
}

/* ---- progress ------------------------------------------------------------------------------- */

static void format_count(double v, char out[16]) {
    if (v < 9999.5)
        snprintf(out, 16, "%.0f", v);
    else if (v < 999.95e3)
        snprintf(out, 16, "%.1fk", v / 1e3);
    else if (v < 999.95e6)
        snprintf(out, 16, "%.1fM", v / 1e6);
    else
        snprintf(out, 16, "%.1fG", v / 1e9);
}

static void format_time(double s, char out[32]) {
    long t = (long)(s + 0.5);
    if (t >= 86400)
        snprintf(out, 32, "%ldd%02ldh", t / 86400, t % 86400 / 3600);
    else if (t >= 3600)
        snprintf(out, 32, "%ld:%02ld:%02ld", t / 3600, t % 3600 / 60, t % 60);
    else
        snprintf(out, 32, "%ld:%02ld", t / 60, t % 60);
}

/* "running  45.1%  1.2k records, 3.4k frames, 5.6k tokens/s, 0:10, 0:12 left" */
static void format_progress(const vnp_progress *p, double share, char *out, size_t n) {
    char records[16], frames[16], rate[16], elapsed[32], left[48] = "", percent[16] = "";
    format_count((double)p->n_records, records);
    format_count((double)p->n_frames, frames);
    format_count(p->tokens_per_s, rate);
    format_time(p->elapsed_s, elapsed);
    if (share >= 0) snprintf(percent, sizeof percent, " %5.1f%%", 100 * share);
    if (share > 0.002 && share < 1 && p->elapsed_s > 1) {
        char t[32];
        format_time(p->elapsed_s * (1 - share) / share, t);
        snprintf(left, sizeof left, ", %s left", t);
    }
    snprintf(out, n, "%s%s  %s records, %s frames, %s tokens/s, %s%s",
             p->stage ? p->stage : "running", percent, records, frames, rate, elapsed, left);
}

static void bar_draw(const char *text, double share) {
    struct winsize w;
    int columns = ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
    int width = columns - (int)strlen(text) - 4;
    if (width > 30) width = 30;
    fputs("\r\033[K", stderr);
    if (share >= 0 && width >= 8) {
        int full = (int)(share * width + 0.5);
        fputc('[', stderr);
        for (int i = 0; i < width; i++) fputc(i < full ? '#' : '.', stderr);
        fputs("] ", stderr);
        columns -= width + 3;
    }
    fprintf(stderr, "%.*s", columns - 1, text);
    fflush(stderr);
    say.is_bar_shown = true;
}

int vnp_cli_progress(void *ctx, const vnp_progress *p) {
    char text[512];
    (void)ctx;
    if (p->stage && strcmp(p->stage, "loading") != 0) vnp_cli_report_own_dir();
    double share = p->n_bytes_total > 0 ? (double)p->n_bytes_read / (double)p->n_bytes_total : -1;
    /* The reader is ahead of the devices: once all is read, what is left cannot be told from it. */
    if (share >= 0.9995) share = -1;
    pthread_mutex_lock(&say.lock);
    format_progress(p, share, text, sizeof text);
    if (say.is_terminal) {
        bar_draw(text, share);
    } else if (now_s() - say.last_line_s >= SILENT_S) {
        say.last_line_s = now_s();
        emit(2, "cli", text);
    }
    pthread_mutex_unlock(&say.lock);
    return 1;
}

/* ---- the end -------------------------------------------------------------------------------- */

int vnp_cli_fail(void) {
    vnp_error_detail d = {.size = sizeof d};
    if (vnp_last_error_get(&d) != VNP_OK || d.status == VNP_OK) {
        vnp_cli_say(0, "something failed without saying what; please report this");
        return VNP_EXIT_INTERNAL;
    }
    if (d.status == VNP_CANCELED)
        vnp_cli_say(1, "interrupted; what is done is kept: repeat the command to go on");
    else
        vnp_cli_say(0, "%s", vnp_last_error());
    return d.exit_code;
}

void vnp_cli_closing_lines(const char *command, double wall_s, int64_t n_tokens) {
    struct rusage self, children;
    char rate[48] = "";
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    double cpu = 0;
    const struct timeval *t[] = {&self.ru_utime, &self.ru_stime, &children.ru_utime,
                                 &children.ru_stime};
    for (int i = 0; i < 4; i++) cpu += (double)t[i]->tv_sec + 1e-6 * (double)t[i]->tv_usec;
    if (n_tokens > 0 && wall_s > 0) {
        char v[16];
        format_count((double)n_tokens / wall_s, v);
        snprintf(rate, sizeof rate, "; %s tokens/s", v);
    }
    vnp_cli_say(2, "version: %s", vnp_version());
    vnp_cli_say(2, "command: %s", command);
    vnp_cli_say(2, "real time: %.3f s; CPU: %.3f s (%.2fx); peak RSS: %.3f GB%s", wall_s, cpu,
                wall_s > 0 ? cpu / wall_s : 0, (double)self.ru_maxrss / 1048576, rate);
}
