/* SPDX-License-Identifier: MIT
 * Status codes of the library. Zero is success, negatives are stable and never renumbered. */
#ifndef VIRNUCPRO_STATUS_H
#define VIRNUCPRO_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define VNP_WARN_UNUSED __attribute__((warn_unused_result))
#define VNP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define VNP_WARN_UNUSED
#define VNP_PRINTF(fmt, args)
#endif
#if defined(_WIN32)
#define VNP_API
#else
#define VNP_API __attribute__((visibility("default")))
#endif

/* X(name, value, text) */
#define VNP_STATUS_LIST(X)                                                                         \
    X(OK, 0, "ok")                                                                                 \
    X(INVAL, -1, "invalid argument")                                                               \
    X(NOMEM, -2, "out of host memory")                                                             \
    X(IO, -3, "input/output error")                                                                \
    X(FORMAT, -4, "malformed data")                                                                \
    X(TRUNCATED, -5, "data ends too early")                                                        \
    X(UNSUPPORTED, -6, "not supported")                                                            \
    X(DEVICE, -7, "device failed")                                                                 \
    X(DEVICE_NOMEM, -8, "out of device memory")                                                    \
    X(MISMATCH, -9, "does not belong together")                                                    \
    X(CANCELED, -10, "canceled")                                                                   \
    X(BUG, -11, "internal error")                                                                  \
    X(NOT_FOUND, -12, "not found")

typedef enum vnp_status {
#define VNP_STATUS_ENUM(name, value, text) VNP_##name = value,
    VNP_STATUS_LIST(VNP_STATUS_ENUM)
#undef VNP_STATUS_ENUM
} vnp_status;

/** Name of a status, e.g. "VNP_FORMAT"; "VNP_?" for a number that is none.
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    a static string; never freed.
 *  Threads  any.
 *  Returns  never NULL.
 *  Since    0.1        Source  none
 */
VNP_API const char *vnp_status_name(vnp_status status);

/** One line of English for a status, e.g. "malformed data".
 *
 *  Shapes   none.
 *  Units    none.
 *  Owner    a static string; never freed.
 *  Threads  any.
 *  Returns  never NULL.
 *  Since    0.1        Source  none
 */
VNP_API const char *vnp_status_text(vnp_status status);

#ifdef __cplusplus
}
#endif
#endif
