// SPDX-License-Identifier: MIT
// The log callback. Formats; never prints: where text goes is the program's business.
#include "base/base.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

/* Written by vnp_log_set before threads start, read by all afterwards. */
static struct {
    vnp_log_fn *fn;
    void *ctx;
    enum vnp_log_level max_level;
} sink;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER; /* a leaf: nothing is taken under it */

void vnp_log_set(vnp_log_fn *fn, void *ctx, enum vnp_log_level max_level) {
    sink.fn = fn;
    sink.ctx = ctx;
    sink.max_level = max_level;
}

bool vnp_log_is_on(enum vnp_log_level level) {
    return sink.fn && level <= sink.max_level;
}

void vnp_log(enum vnp_log_level level, const char *room, const char *fmt, ...) {
    if (!vnp_log_is_on(level)) return;
    char text[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    pthread_mutex_lock(&log_lock);
    sink.fn(sink.ctx, level, room, text);
    pthread_mutex_unlock(&log_lock);
}
