// SPDX-License-Identifier: MIT
// The per-thread error record. Owns the texts of the status list; does not print.
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local struct vnp_error last_error = {.off_byte = -1, .line = -1};

const char *vnp_status_name(vnp_status status) {
#define VNP_STATUS_NAME(name, value, text)                                                         \
    if ((int)status == (value)) return "VNP_" #name;
    VNP_STATUS_LIST(VNP_STATUS_NAME)
    return "VNP_?";
}

const char *vnp_status_text(vnp_status status) {
#define VNP_STATUS_TEXT(name, value, text)                                                         \
    if ((int)status == (value)) return text;
    VNP_STATUS_LIST(VNP_STATUS_TEXT)
    return "unknown status";
}

void vnp_error_clear(void) {
    memset(&last_error, 0, sizeof last_error);
    last_error.off_byte = last_error.line = -1;
}

vnp_status vnp_fail(vnp_status status, enum vnp_origin origin, const char *fmt, ...) {
    va_list args;
    vnp_error_clear();
    last_error.status = status;
    last_error.origin = origin;
    va_start(args, fmt);
    vsnprintf(last_error.text, sizeof last_error.text, fmt, args);
    va_end(args);
    return status;
}

vnp_status vnp_fail_errno(vnp_status status, enum vnp_origin origin, int os_errno, const char *fmt,
                          ...) {
    va_list args;
    vnp_error_clear();
    last_error.status = status;
    last_error.origin = origin;
    last_error.os_errno = os_errno;
    va_start(args, fmt);
    vsnprintf(last_error.text, sizeof last_error.text, fmt, args);
    va_end(args);
    size_t n = strlen(last_error.text);
    snprintf(last_error.text + n, sizeof last_error.text - n, ": %s", strerror(os_errno));
    return status;
}

static void copy_if_empty(char *dst, size_t n, const char *src) {
    if (src && !dst[0]) snprintf(dst, n, "%s", src);
}

void vnp_error_at(const char *file, int64_t line, int64_t off_byte, const char *record) {
    copy_if_empty(last_error.file, sizeof last_error.file, file);
    copy_if_empty(last_error.record, sizeof last_error.record, record);
    if (last_error.line < 0) last_error.line = line;
    if (last_error.off_byte < 0) last_error.off_byte = off_byte;
}

void vnp_error_hint(const char *fmt, ...) {
    va_list args;
    if (last_error.hint[0]) return;
    va_start(args, fmt);
    vsnprintf(last_error.hint, sizeof last_error.hint, fmt, args);
    va_end(args);
}

const struct vnp_error *vnp_error_last(void) {
    return &last_error;
}

void vnp_error_set(const struct vnp_error *e) {
    last_error = *e;
}

static void append(char *buf, size_t n, const char *fmt, ...) VNP_PRINTF(3, 4);
static void append(char *buf, size_t n, const char *fmt, ...) {
    size_t used = strlen(buf);
    va_list args;
    va_start(args, fmt);
    vsnprintf(buf + used, n - used, fmt, args);
    va_end(args);
}

void vnp_error_format(const struct vnp_error *e, char *buf, size_t n) {
    if (n == 0) return;
    buf[0] = 0;
    if (e->file[0]) append(buf, n, "%s", e->file);
    if (e->line >= 0) append(buf, n, "%sline %lld", e->file[0] ? ": " : "", (long long)e->line);
    if (e->off_byte >= 0)
        append(buf, n, "%sbyte %lld",
               e->line >= 0 ? ", "
               : e->file[0] ? ": "
                            : "",
               (long long)e->off_byte);
    if (e->record[0]) append(buf, n, "%srecord '%s'", buf[0] ? ", " : "", e->record);
    append(buf, n, "%s%s", buf[0] ? ": " : "", e->text[0] ? e->text : vnp_status_text(e->status));
    if (e->hint[0]) append(buf, n, "; %s", e->hint);
}

#ifdef VNP_VERIFY
void vnp_assert_failed(const char *expr, const char *file, int line) {
    dprintf(2, "%s:%d: invariant broken: %s\n", file, line, expr);
    __builtin_trap();
}
#endif
