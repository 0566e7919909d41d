/* SPDX-License-Identifier: MIT
 * cli: what the files of the program share. The program is a thin client of the public interface:
 * it reads options, shows progress and turns failures into exit codes. */
#ifndef VNP_CLI_H
#define VNP_CLI_H

#include <virnucpro/virnucpro.h>

#include <stdbool.h>

enum vnp_cli_exit {
    VNP_EXIT_OK = 0,
    VNP_EXIT_SOME_FAILED = 1,
    VNP_EXIT_USAGE = 2,
    VNP_EXIT_INTERNAL = 70,
    VNP_EXIT_IO = 74,
};

/* ---- options (cli_options.c) ---------------------------------------------------------------- */

enum vnp_cli_kind {
    VNP_OPT_FLAG,
    VNP_OPT_TEXT,
    VNP_OPT_INT,
    VNP_OPT_SHARD,
    VNP_OPT_REAL, /* double within min..max */
    VNP_OPT_LIST  /* its value and every plain word after it, until the next option; repeatable */
};
struct vnp_cli_list {
    const char **items; /* the caller's, room for argc */
    int n;
};

/* One option of a command; arrays end with name NULL. */
struct vnp_cli_option {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    enum vnp_cli_kind kind;
    void *value;        /* bool, const char *, int64_t, int64_t[2], double, struct vnp_cli_list */
    const char *bounds; /* INT: name for vnp_option_bounds, or NULL */
    int64_t min, max;   /* INT without bounds, REAL */
};

struct vnp_cli_args {
    const char *command; /* "predict", for messages */
    const char **positional;
    int n_positional;
    bool is_help;
};
/* Reads argv[0..argc-1] (after the command's name). 0, or an exit code with the message printed.
 * positional must hold argc pointers. */
int vnp_cli_parse(int argc, char **argv, const struct vnp_cli_option *options,
                  struct vnp_cli_args *args);
/* "virnucpro COMMAND: message" and where help is; returns VNP_EXIT_USAGE. */
int vnp_cli_usage(const char *command, const char *fmt, ...) VNP_PRINTF(2, 3);
/* The nearest of `names` (ends with NULL) when it is near enough, else NULL. */
const char *vnp_cli_nearest(const char *text, const char *const *names);

/* ---- help (cli_help.c) ---------------------------------------------------------------------- */

/* Prints the help of a command (NULL: the program's) to stdout; returns an exit code. */
int vnp_cli_help(const char *command);

/* ---- log, progress, closing lines (cli_report.c) -------------------------------------------- */

struct vnp_cli_report_options {
    bool is_quiet, is_verbose, is_json;
    const char *log_dir; /* run.log goes there once the folder is ours; NULL: none */
};
void vnp_cli_report_open(const struct vnp_cli_report_options *options);
void vnp_cli_report_close(void);
void vnp_cli_say(int level, const char *fmt, ...) VNP_PRINTF(2, 3);
int vnp_cli_progress(void *ctx, const vnp_progress *p);
/* From now on run.log may be written: the run owns its folder. */
void vnp_cli_report_own_dir(void);
/* Prints this thread's last failure; returns the exit code that belongs to it. */
int vnp_cli_fail(void);
/* Version, command, wall, CPU ratio, peak RSS, tokens/s. */
void vnp_cli_closing_lines(const char *command, double wall_s, int64_t n_tokens);

/* ---- answers on stdout (cli_tools.c) -------------------------------------------------------- */

void vnp_cli_json_text(const char *s); /* a quoted JSON string */
/* All of stdout, or exit 74: a full disk behind a pipe must not pass for success. */
int vnp_cli_flush(int rc);

/* ---- commands ------------------------------------------------------------------------------- */

int vnp_cli_predict(int argc, char **argv, const char *command_line);
int vnp_cli_embed(int argc, char **argv, const char *command_line);
int vnp_cli_translate(int argc, char **argv, const char *command_line);
int vnp_cli_model(int argc, char **argv);
int vnp_cli_validate(int argc, char **argv); /* after "model validate" */
int vnp_cli_merge(int argc, char **argv, const char *command_line);
int vnp_cli_status(int argc, char **argv);
int vnp_cli_evaluate(int argc, char **argv);
int vnp_cli_report(int argc, char **argv);
int vnp_cli_train(int argc, char **argv, const char *command_line);
int vnp_cli_doctor(int argc, char **argv);
int vnp_cli_bench(int argc, char **argv);

#endif
