// SPDX-License-Identifier: MIT
// A strict reader of options: nothing is guessed, everything wrong is named. --name VALUE,
// --name=VALUE, -x VALUE; options and inputs in any order; -- ends the options.
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vnp_cli_usage(const char *command, const char *fmt, ...) {
    va_list args;
    fprintf(stderr, "virnucpro%s%s: ", command ? " " : "", command ? command : "");
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fprintf(stderr, "\nTry 'virnucpro%s%s --help'.\n", command ? " " : "", command ? command : "");
    return VNP_EXIT_USAGE;
}

/* Edit distance of two short words. */
static int distance(const char *a, const char *b) {
    int row[64];
    int n = (int)strlen(b);
    if (strlen(a) > 60 || n > 60) return 99;
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *vnp_cli_nearest(const char *text, const char *const *names) {
    const char *best = NULL;
    int least = 3;
    for (; *names; names++) {
        int d = distance(text, *names);
        if (strlen(text) > 1 && strncmp(text, *names, strlen(text)) == 0) d = 1;
        if (d < least) {
            least = d;
            best = *names;
        }
    }
    return best;
}

static int unknown_option(const char *command, const char *arg,
                          const struct vnp_cli_option *options) {
    const char *names[64];
    char name[64];
    int n = 0;
    for (; options[n].name && n < 60; n++) names[n] = options[n].name;
    names[n++] = "help";
    names[n] = NULL;
    size_t len = strcspn(arg, "=");
    snprintf(name, sizeof name, "%.*s", (int)(len < 60 ? len : 60), arg);
    const char *near = strncmp(name, "--", 2) == 0 ? vnp_cli_nearest(name + 2, names) : NULL;
    if (near) return vnp_cli_usage(command, "unknown option '%s'; did you mean --%s?", name, near);
    return vnp_cli_usage(command, "unknown option '%s'", name);
}

static int parse_int(const char *text, int64_t *out) {
    char *end;
    errno = 0;
    if (!((text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1]))) return -1;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end) return -1;
    *out = v;
    return 0;
}

static int set_int(const char *command, const struct vnp_cli_option *o, const char *text) {
    int64_t v, min = o->min, max = o->max;
    if (o->bounds && vnp_option_bounds(o->bounds, &min, &max) != VNP_OK) return VNP_EXIT_INTERNAL;
    if (parse_int(text, &v) != 0)
        return vnp_cli_usage(command, "--%s takes a whole number, not '%s'", o->name, text);
    if (v < min || v > max)
        return vnp_cli_usage(command, "--%s %s is out of range; it goes from %lld to %lld", o->name,
                             text, (long long)min, (long long)max);
    *(int64_t *)o->value = v;
    return 0;
}

/* "I/N", I from 0 */
static int set_shard(const char *command, const struct vnp_cli_option *o, const char *text) {
    int64_t v[2], *out = o->value;
    char left[32];
    const char *slash = strchr(text, '/');
    if (slash && (size_t)(slash - text) < sizeof left) {
        snprintf(left, sizeof left, "%.*s", (int)(slash - text), text);
        if (parse_int(left, &v[0]) == 0 && parse_int(slash + 1, &v[1]) == 0 && v[0] >= 0 &&
            v[1] >= 1 && v[1] <= 1000000 && v[0] < v[1]) {
            out[0] = v[0];
            out[1] = v[1];
            return 0;
        }
    }
    return vnp_cli_usage(command, "--%s takes I/N with I from 0 to N-1, not '%s'", o->name, text);
}

static int set_real(const char *command, const struct vnp_cli_option *o, const char *text) {
    char *end;
    double v = strtod(text, &end);
    bool is_number = end != text && !*end && v - v < 1; /* no infinity, no NaN */
    if (!is_number || text[0] == ' ')
        return vnp_cli_usage(command, "--%s takes a number, not '%s'", o->name, text);
    if (v < (double)o->min || v > (double)o->max)
        return vnp_cli_usage(command, "--%s %s is out of range; it goes from %lld to %lld", o->name,
                             text, (long long)o->min, (long long)o->max);
    *(double *)o->value = v;
    return 0;
}

static void list_add(struct vnp_cli_list *list, const char *text) {
    list->items[list->n++] = text;
}

static int set_value(const char *command, const struct vnp_cli_option *o, const char *text) {
    if (o->kind == VNP_OPT_REAL) return set_real(command, o, text);
    if (o->kind == VNP_OPT_INT) return set_int(command, o, text);
    if (o->kind == VNP_OPT_SHARD) return set_shard(command, o, text);
    if (!text[0]) return vnp_cli_usage(command, "--%s is empty", o->name);
    if (strcmp(o->name, "output") == 0 && strcmp(text, "-") == 0)
        return vnp_cli_usage(command,
                             "results do not go to standard output; name a place, ./- too");
    if (o->kind == VNP_OPT_LIST) {
        list_add(o->value, text);
        return 0;
    }
    *(const char **)o->value = text;
    return 0;
}

static int find_option(const struct vnp_cli_option *options, const char *arg) {
    for (int i = 0; options[i].name; i++) {
        size_t n = strlen(options[i].name);
        if (arg[1] != '-') {
            if (options[i].letter && arg[1] == options[i].letter && !arg[2]) return i;
        } else if (strncmp(arg + 2, options[i].name, n) == 0 &&
                   (arg[2 + n] == 0 || arg[2 + n] == '=')) {
            return i;
        }
    }
    return -1;
}

int vnp_cli_parse(int argc, char **argv, const struct vnp_cli_option *options,
                  struct vnp_cli_args *args) {
    uint64_t seen = 0;
    bool is_ended = false;
    struct vnp_cli_list *list = NULL; /* that plain words belong to */
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *value = NULL;
        if (list && !is_ended && arg[0] != '-' && arg[0]) {
            list_add(list, arg);
            continue;
        }
        if (is_ended || arg[0] != '-' || !arg[1]) {
            args->positional[args->n_positional++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            is_ended = true;
            continue;
        }
        if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
            args->is_help = true;
            return 0;
        }
        int k = find_option(options, arg);
        if (k < 0) return unknown_option(args->command, arg, options);
        const struct vnp_cli_option *o = &options[k];
        list = o->kind == VNP_OPT_LIST ? o->value : NULL;
        if (!list && seen & (uint64_t)1 << k)
            return vnp_cli_usage(args->command, "--%s is given twice", o->name);
        seen |= (uint64_t)1 << k;
        if (arg[1] == '-' && strchr(arg, '=')) value = strchr(arg, '=') + 1;
        if (o->kind == VNP_OPT_FLAG) {
            if (value) return vnp_cli_usage(args->command, "--%s takes no value", o->name);
            *(bool *)o->value = true;
            continue;
        }
        if (!value && ++i >= argc) return vnp_cli_usage(args->command, "%s needs a value", arg);
        int rc = set_value(args->command, o, value ? value : argv[i]);
        if (rc) return rc;
    }
    return 0;
}
