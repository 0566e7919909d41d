/* SPDX-License-Identifier: MIT
 * Who computes what at the end of the input. */
#ifndef VNP_RUN_SHARE_H
#define VNP_RUN_SHARE_H

#include "run/engine.h"

/* Under d->lock, d->is_closed, at least two devices alive: how many of the n_tokens of the next
 * waiting pack device idx should take so that all devices end together. 0: none, a faster one will
 * have them done sooner and will ask. */
int64_t vnp_run_share_of(const struct run_dispatch *d, int idx, int enc, int64_t n_tokens);

#endif
