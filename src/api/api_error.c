// SPDX-License-Identifier: MIT
// Version, last error, log and option bounds of the public interface. The exit codes of the program
// are decided here, from a failure's origin and status, so that every front end agrees.
#include "api_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[4096];

const char *vnp_version(void) {
    return VNP_VERSION_STRING;
}

static int exit_code_of_input(const struct vnp_error *e) {
    bool is_missing = e->status == VNP_NOT_FOUND || e->os_errno == ENOENT ||
                      e->os_errno == ENOTDIR || e->os_errno == EACCES || e->os_errno == EPERM ||
                      e->os_errno == EISDIR;
    if (is_missing) return 66;
    return e->status == VNP_IO ? 74 : 65;
}

static int exit_code_of_output(const struct vnp_error *e) {
    if (e->status == VNP_NOT_FOUND) return 66; /* a run to read that is not there */
    bool is_foreign = e->status == VNP_MISMATCH || e->os_errno == EEXIST ||
                      e->os_errno == ENOTEMPTY || e->status == VNP_INVAL;
    return is_foreign ? 73 : 74;
}

/* design/cli.md: 65 data, 66 input missing, 69 device, 70 internal, 73 output, 74 I/O, 75, 78. */
static int exit_code_of(const struct vnp_error *e) {
    if (e->status == VNP_OK) return 0;
    if (e->status == VNP_CANCELED) return 75;
    if (e->status == VNP_BUG || e->status == VNP_NOMEM) return 70;
    if (e->origin == VNP_FROM_INPUT) return exit_code_of_input(e);
    if (e->origin == VNP_FROM_MODEL) return 78;
    if (e->origin == VNP_FROM_OUTPUT) return exit_code_of_output(e);
    if (e->origin == VNP_FROM_DEVICE) return 69;
    if (e->status == VNP_DEVICE || e->status == VNP_DEVICE_NOMEM) return 69;
    if (e->status == VNP_INVAL || e->status == VNP_UNSUPPORTED) return 2;
    return e->status == VNP_IO ? 74 : 70;
}

const char *vnp_last_error(void) {
    const struct vnp_error *e = vnp_error_last();
    if (e->status == VNP_OK) return "";
    vnp_error_format(e, message, sizeof message);
    return message;
}

vnp_status vnp_last_error_get(vnp_error_detail *out) {
    if (!out || out->size != sizeof *out) return VNP_INVAL;
    const struct vnp_error *e = vnp_error_last();
    *out = (vnp_error_detail){.size = sizeof *out,
                              .status = e->status,
                              .exit_code = exit_code_of(e),
                              .line = e->line,
                              .off_byte = e->off_byte,
                              .file = e->file,
                              .record = e->record,
                              .text = e->text[0] ? e->text : vnp_status_text(e->status),
                              .hint = e->hint};
    return VNP_OK;
}

/* Written by vnp_log_callback_set before threads start. */
static struct {
    vnp_log_callback *fn;
    void *ctx;
} user_log;

static void forward_log(void *ctx, enum vnp_log_level level, const char *room, const char *text) {
    (void)ctx;
    if (user_log.fn) user_log.fn(user_log.ctx, (int)level, room, text);
}

void vnp_log_callback_set(vnp_log_callback *fn, void *ctx, int max_level) {
    user_log.fn = fn;
    user_log.ctx = ctx;
    vnp_log_set(fn ? forward_log : NULL, NULL, (enum vnp_log_level)max_level);
}

vnp_status vnp_option_bounds(const char *name, int64_t *min, int64_t *max) {
    static const struct {
        const char *name;
        int64_t min, max;
    } bounds[] = {{"n_threads", 1, 4096},  {"n_tokens", 64, 16777216},
                  {"window_bp", 1, 60000}, {"n_shards", 1, 1000000},
                  {"grace_s", 0, 86400},   {"n_workers", -1, VNP_API_MAX_DEVICES}};
    for (size_t i = 0; name && min && max && i < VNP_COUNT(bounds); i++)
        if (strcmp(bounds[i].name, name) == 0) {
            *min = bounds[i].min;
            *max = bounds[i].max;
            return VNP_OK;
        }
    return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "there is no numeric option '%s'",
                    name ? name : "(null)");
}

vnp_status vnp_api_check_struct(const char *what, const void *p, size_t size, size_t size_known,
                                uint32_t version) {
    if (!p) return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%s: no options given", what);
    if (size == size_known && version == VNP_API_VERSION) return VNP_OK;
    vnp_status s = vnp_fail(VNP_INVAL, VNP_FROM_NONE,
                            "%s: options of size %zu, version %u are unknown to this library", what,
                            size, (unsigned)version);
    vnp_error_hint("fill the struct with its _INIT macro, from the header of this library");
    return s;
}

vnp_status vnp_api_check_paths(const char *what, const char *const *paths, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!paths[i])
            return vnp_fail(VNP_INVAL, VNP_FROM_NONE, "%s: path %zu of the list is NULL", what, i);
    return VNP_OK;
}
