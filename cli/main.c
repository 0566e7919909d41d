// SPDX-License-Identifier: MIT
// virnucpro: the command's name to its function, signals to a request to stop.
#include "cli.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Set by the handler only. */
static volatile sig_atomic_t n_signals;

/* The first signal lets the batches in flight finish, the second one ends the program as the
 * signal would have: exit 128 + n. */
static void on_signal(int signal_number) {
    if (n_signals++ == 0) {
        vnp_stop_request();
        return;
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* What looks at requests to stop, or has a file half written that only it can remove. The other
 * commands have nothing to finish: a signal ends them. */
static bool has_to_finish(const char *command, const char *what) {
    static const char *const names[] = {"predict", "embed", "translate",
                                        "train",   "merge", "report"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(command, names[i]) == 0) return true;
    return strcmp(command, "model") == 0 && what && strcmp(what, "convert") == 0;
}

static void signals_install(bool is_stop) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
    struct sigaction a = {0};
    sigemptyset(&a.sa_mask);
    a.sa_flags = SA_RESTART;
    a.sa_handler = on_signal;
    for (size_t i = 0; is_stop && i < sizeof numbers / sizeof numbers[0]; i++)
        sigaction(numbers[i], &a, NULL);
    a.sa_handler =
        SIG_IGN; /* a closed stderr or pipe is an error where it is written, not a kill */
    sigaction(SIGPIPE, &a, NULL);
    sigaction(SIGXFSZ, &a, NULL);
}

/* The command as typed, for the log and the summary; words with odd letters in quotes. */
static char *join(int argc, char **argv) {
    size_t n = 1;
    for (int i = 0; i < argc; i++) n += 4 * strlen(argv[i]) + 3;
    char *line = calloc(n, 1);
    if (!line) return NULL;
    char *p = line;
    for (int i = 0; i < argc; i++) {
        const char *word = i ? argv[i] : "virnucpro";
        bool is_plain = word[0] && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
                                                      "RSTUVWXYZ0123456789_-./:=,+@%")];
        if (i) *p++ = ' ';
        if (!is_plain) *p++ = '\'';
        for (; *word; word++) {
            if (*word == '\'') {
                memcpy(p, "'\\'", 3);
                p += 3;
            }
            *p++ = *word;
        }
        if (!is_plain) *p++ = '\'';
    }
    return line;
}

static const char *const commands[] = {"predict", "embed", "translate", "train",    "model",
                                       "status",  "merge", "report",    "evaluate", "doctor",
                                       "bench",   "help",  NULL};
static const char *const later[] = {"serve", NULL};

/* `virnucpro __worker FD`: this process computes for the one that started it, and says whatever it
 * has to say to that one. */
static int run_worker(int argc, char **argv) {
    char *end = NULL;
    long fd = argc == 3 ? strtol(argv[2], &end, 10) : -1;
    if (fd < 3 || fd > 1000000 || *end)
        return vnp_cli_usage(NULL, "__worker is for the program's own use");
    return vnp_worker_run((int)fd) == VNP_OK ? VNP_EXIT_OK : VNP_EXIT_INTERNAL;
}

static int dispatch(int argc, char **argv, const char *line) {
    const char *name = argv[1];
    if (strcmp(name, "predict") == 0) return vnp_cli_predict(argc - 2, argv + 2, line);
    if (strcmp(name, "embed") == 0) return vnp_cli_embed(argc - 2, argv + 2, line);
    if (strcmp(name, "translate") == 0) return vnp_cli_translate(argc - 2, argv + 2, line);
    if (strcmp(name, "train") == 0) return vnp_cli_train(argc - 2, argv + 2, line);
    if (strcmp(name, "model") == 0) return vnp_cli_model(argc - 2, argv + 2);
    if (strcmp(name, "status") == 0) return vnp_cli_status(argc - 2, argv + 2);
    if (strcmp(name, "merge") == 0) return vnp_cli_merge(argc - 2, argv + 2, line);
    if (strcmp(name, "report") == 0) return vnp_cli_report(argc - 2, argv + 2);
    if (strcmp(name, "evaluate") == 0) return vnp_cli_evaluate(argc - 2, argv + 2);
    if (strcmp(name, "doctor") == 0) return vnp_cli_doctor(argc - 2, argv + 2);
    if (strcmp(name, "bench") == 0) return vnp_cli_bench(argc - 2, argv + 2);
    for (int i = 0; later[i]; i++)
        if (strcmp(name, later[i]) == 0)
            return vnp_cli_usage(NULL, "'%s' is not in version %s yet", name, vnp_version());
    const char *near = vnp_cli_nearest(name, commands);
    return vnp_cli_usage(NULL, "there is no command '%s'%s%s%s", name,
                         near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: virnucpro COMMAND ...   (predict, embed, translate, model, status, "
                        "merge, doctor, ...)\n"
                        "Try 'virnucpro --help'.\n");
        return VNP_EXIT_USAGE;
    }
    if (strcmp(argv[1], "__worker") == 0) return run_worker(argc, argv);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("virnucpro %s\n", vnp_version());
        return fflush(stdout) == 0 ? 0 : VNP_EXIT_IO;
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0) {
            printf("virnucpro %s\n", vnp_version());
            return fflush(stdout) == 0 ? 0 : VNP_EXIT_IO;
        }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return vnp_cli_help(NULL);
    if (strcmp(argv[1], "help") == 0) return vnp_cli_help(argc > 2 ? argv[2] : NULL);
    if (argv[1][0] == '-') return vnp_cli_usage(NULL, "unknown option '%s'", argv[1]);
    char *line = join(argc, argv);
    if (!line) return VNP_EXIT_INTERNAL;
    signals_install(has_to_finish(argv[1], argv[2]));
    int rc = dispatch(argc, argv, line);
    free(line);
    return rc;
}
