// SPDX-License-Identifier: MIT
// Finds the parts of a model (two encoders, a classifier) in what the user names: a bundle, a
// folder with the published files, or single paths that override. Content decides, not names; a
// name matters only where a folder holds several classifiers.
#include "api_internal.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FOUND = 32 };

/* What a folder holds of one kind. */
struct found {
    char path[MAX_FOUND][VNP_API_PATH];
    int n;
};
struct folder {
    struct found of[4]; /* by enum vnp_model_kind */
};

bool vnp_api_bundled_path(char *out, size_t n) {
    static const char *const names[] = {"virnucpro-mini.safetensors",
                                        "virnucpro-random-tiny.safetensors"};
    static const char *const places[] = {"/../share/virnucpro/models", "/../../models",
                                         "/../../../models", "/models"};
    char dir[PATH_MAX];
    if (!vnp_api_own_dir(dir, sizeof dir)) return false;
    for (size_t i = 0; i < VNP_COUNT(names); i++)
        for (size_t j = 0; j < VNP_COUNT(places); j++) {
            char path[PATH_MAX + 128], real[PATH_MAX];
            snprintf(path, sizeof path, "%s%s/%s", dir, places[j], names[i]);
            if (access(path, R_OK) == 0 && realpath(path, real))
                return (size_t)snprintf(out, n, "%s", real) < n;
        }
    return false;
}

static vnp_status missing_path(const char *path) {
    vnp_status s = vnp_fail(VNP_NOT_FOUND, VNP_FROM_MODEL, "no such model file or folder");
    vnp_error_at(path, -1, -1, NULL);
    vnp_error_hint("check --models, --esm, --dnabert, --classifier and --model");
    return s;
}

static void folder_add(struct folder *f, unsigned kinds, const char *path) {
    for (int k = VNP_MODEL_ESM2; k <= VNP_MODEL_CLASSIFIER; k++)
        if ((kinds & (1u << k)) && f->of[k].n < MAX_FOUND)
            snprintf(f->of[k].path[f->of[k].n++], VNP_API_PATH, "%s", path);
}

static int skip_hidden(const struct dirent *e) {
    return e->d_name[0] != '.';
}

/* Looks at every entry of a folder, in the order of names. Entries that are no model are passed
 * over: a models folder may hold anything beside. */
static vnp_status folder_scan(const char *path, struct folder *f) {
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, skip_hidden, alphasort);
    if (n < 0) return missing_path(path);
    for (int i = 0; i < n; i++) {
        char entry[VNP_API_PATH], format[64];
        unsigned kinds = 0;
        struct stat st;
        int len = snprintf(entry, sizeof entry, "%s/%s", path, entries[i]->d_name);
        free(entries[i]);
        if (len >= (int)sizeof entry || stat(entry, &st) != 0) continue;
        const char *dot = strrchr(entry, '.');
        bool is_weights = dot && (strcmp(dot, ".pt") == 0 || strcmp(dot, ".pth") == 0 ||
                                  strcmp(dot, ".bin") == 0 || strcmp(dot, ".safetensors") == 0);
        if (!S_ISDIR(st.st_mode) && !(S_ISREG(st.st_mode) && is_weights)) continue;
        if (vnp_model_probe(entry, &kinds, format, sizeof format) == VNP_OK)
            folder_add(f, kinds, entry);
    }
    free(entries);
    vnp_error_clear();
    return VNP_OK;
}

/* The classifiers of a folder are told apart as published: 300_model.pth, 500_model.pth. */
static bool is_for_window(const char *path, int64_t window_bp) {
    char want[32];
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    snprintf(want, sizeof want, "%lld", (long long)(window_bp > 0 ? window_bp : 500));
    const char *at = strstr(base, want);
    return at && (at == base || at[-1] < '0' || at[-1] > '9') &&
           (at[strlen(want)] < '0' || at[strlen(want)] > '9');
}

static vnp_status ambiguous(const char *models, const char *what, const char *option,
                            const struct found *f) {
    vnp_status s = vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL, "several %s in this folder: %s and %s",
                            what, f->path[0], f->path[1]);
    vnp_error_at(models, -1, -1, NULL);
    vnp_error_hint("name one with %s PATH", option);
    return s;
}

static vnp_status folder_choose(const char *models, const struct folder *f, int kind,
                                int64_t window_bp, char *out) {
    static const char *const what[] = {"", "protein encoders (ESM-2)", "DNA encoders (DNABERT-S)",
                                       "classifiers"};
    static const char *const option[] = {"", "--esm", "--dnabert", "--classifier"};
    const struct found *found = &f->of[kind];
    int best = -1, n = 0;
    if (out[0] || found->n == 0) return VNP_OK;
    if (found->n == 1) {
        snprintf(out, VNP_API_PATH, "%s", found->path[0]);
        return VNP_OK;
    }
    for (int i = 0; kind == VNP_MODEL_CLASSIFIER && i < found->n; i++)
        if (is_for_window(found->path[i], window_bp)) best = i, n++;
    if (n != 1) return ambiguous(models, what[kind], option[kind], found);
    snprintf(out, VNP_API_PATH, "%s", found->path[best]);
    return VNP_OK;
}

/* Fills the paths that are still empty from `models`. */
static vnp_status resolve(const char *models, int64_t window_bp, bool is_headless,
                          struct vnp_api_models *m) {
    struct stat st;
    unsigned kinds = 0;
    char format[64];
    if (stat(models, &st) != 0) return missing_path(models);
    struct folder *f = calloc(1, sizeof *f);
    if (!f) return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for a folder's list");
    vnp_status s = vnp_model_probe(models, &kinds, format, sizeof format);
    if (s == VNP_OK && kinds)
        folder_add(f, kinds, models);
    else if (S_ISDIR(st.st_mode))
        s = folder_scan(models, f);
    if (s == VNP_OK) s = folder_choose(models, f, VNP_MODEL_ESM2, window_bp, m->esm_path);
    if (s == VNP_OK) s = folder_choose(models, f, VNP_MODEL_DNABERT, window_bp, m->dnabert_path);
    if (s == VNP_OK && !is_headless)
        s = folder_choose(models, f, VNP_MODEL_CLASSIFIER, window_bp, m->classifier_path);
    free(f);
    return s;
}

static vnp_status require(const char *path, const char *models, const char *what,
                          const char *option) {
    if (path[0]) return VNP_OK;
    vnp_status s = vnp_fail(VNP_NOT_FOUND, VNP_FROM_MODEL, "no %s here", what);
    vnp_error_at(models, -1, -1, NULL);
    vnp_error_hint("name it with %s PATH", option);
    return s;
}

static vnp_status open_part(const char *path, enum vnp_model_kind kind,
                            struct vnp_checkpoint **out) {
    if (!path[0]) return VNP_OK;
    if (access(path, F_OK) != 0) return missing_path(path);
    return vnp_checkpoint_open(path, kind, out);
}

/* The classifier says how many columns it wants; the encoders must give as many. */
static vnp_status check_fit(const struct vnp_api_models *m) {
    if (!m->esm2 || !m->dnabert || !m->classifier) return VNP_OK;
    const struct vnp_model_spec *c = vnp_checkpoint_spec(m->classifier);
    int64_t n_dna = vnp_checkpoint_spec(m->dnabert)->n_hidden;
    int64_t n_protein = vnp_checkpoint_spec(m->esm2)->n_hidden;
    if (c->n_dna + c->n_protein == n_dna + n_protein && (c->n_dna == 0 || c->n_dna == n_dna))
        return VNP_OK;
    vnp_status s =
        vnp_fail(VNP_MISMATCH, VNP_FROM_MODEL,
                 "the classifier takes %lld columns, but %s gives %lld and %s gives %lld",
                 (long long)(c->n_dna + c->n_protein), m->dnabert_path, (long long)n_dna,
                 m->esm_path, (long long)n_protein);
    vnp_error_at(m->classifier_path, -1, -1, NULL);
    vnp_error_hint("a classifier works only with the encoders that it was trained on");
    return s;
}

static void describe(struct vnp_api_models *m, const char *models) {
    const char *dna = m->dnabert ? vnp_checkpoint_spec(m->dnabert)->name : "none";
    const char *protein = m->esm2 ? vnp_checkpoint_spec(m->esm2)->name : "none";
    const char *head = m->classifier ? vnp_checkpoint_spec(m->classifier)->name : "none";
    bool is_one_file = m->esm_path[0] && strcmp(m->esm_path, m->dnabert_path) == 0 &&
                       strcmp(m->esm_path, m->classifier_path) == 0;
    const char *from = is_one_file ? m->esm_path : models ? models : "";
    const char *base = strrchr(from, '/');
    snprintf(m->what, sizeof m->what, "%.500s%sprotein %s, DNA %s, classifier %s",
             base && base[1] ? base + 1 : from, from[0] ? ": " : "", protein, dna, head);
}

vnp_status vnp_api_models_open(const struct vnp_api_model_paths *p, struct vnp_api_models *m) {
    char bundled[VNP_API_PATH];
    const char *models = p->models;
    vnp_status s = VNP_OK;
    memset(m, 0, sizeof *m);
    if (p->esm) snprintf(m->esm_path, sizeof m->esm_path, "%s", p->esm);
    if (p->dnabert) snprintf(m->dnabert_path, sizeof m->dnabert_path, "%s", p->dnabert);
    if (p->classifier) snprintf(m->classifier_path, sizeof m->classifier_path, "%s", p->classifier);
    if (!models && !p->esm && !p->dnabert) { /* a classifier of one's own goes on top of it */
        if (!vnp_api_bundled_path(bundled, sizeof bundled)) {
            s = vnp_fail(VNP_NOT_FOUND, VNP_FROM_MODEL,
                         "the model shipped with the program is not "
                         "installed");
            vnp_error_hint("name one with --models PATH");
            return s;
        }
        models = bundled;
        m->is_bundled = !p->classifier;
    }
    if (models) VNP_TRY(resolve(models, p->window_bp, p->is_headless, m));
    if (!p->is_partial) {
        VNP_TRY(require(m->esm_path, models, "protein encoder (ESM-2)", "--esm"));
        VNP_TRY(require(m->dnabert_path, models, "DNA encoder (DNABERT-S)", "--dnabert"));
        if (!p->is_headless)
            VNP_TRY(require(m->classifier_path, models, "classifier", "--classifier"));
    }
    s = open_part(m->esm_path, VNP_MODEL_ESM2, &m->esm2);
    if (s == VNP_OK) s = open_part(m->dnabert_path, VNP_MODEL_DNABERT, &m->dnabert);
    if (s == VNP_OK) s = open_part(m->classifier_path, VNP_MODEL_CLASSIFIER, &m->classifier);
    if (s == VNP_OK && !p->is_partial) s = check_fit(m);
    if (s != VNP_OK) {
        vnp_api_models_close(m);
        return s;
    }
    describe(m, models);
    struct vnp_checkpoint *first = m->classifier ? m->classifier : m->esm2 ? m->esm2 : m->dnabert;
    if (first) snprintf(m->note, sizeof m->note, "%s", vnp_checkpoint_note(first));
    return VNP_OK;
}

void vnp_api_models_close(struct vnp_api_models *m) {
    vnp_checkpoint_close(m->esm2);
    vnp_checkpoint_close(m->dnabert);
    vnp_checkpoint_close(m->classifier);
    m->esm2 = m->dnabert = m->classifier = NULL;
}
