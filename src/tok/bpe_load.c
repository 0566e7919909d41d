// SPDX-License-Identifier: MIT
// tokenizer.json to a BPE model. Strict: every key must be known, every feature that would change
// ids and is not done here is refused by name, so that a file either means the same as in the
// `tokenizers` library or does not load.
#include "tok/bpe.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- refusals ------------------------------------------------------------------------------ */

static vnp_status refuse(vnp_status s, const char *fmt, ...) VNP_PRINTF(2, 3);
static vnp_status refuse(vnp_status s, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    (void)vnp_fail(s, VNP_FROM_MODEL, "%s", text);
    if (s == VNP_UNSUPPORTED)
        vnp_error_hint("only BPE with a white-space pre-tokenizer and a template is read");
    if (s == VNP_FORMAT) vnp_error_hint("download or save the tokenizer.json again");
    return s;
}

static vnp_status no_memory(void) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for the tokenizer");
}

/* Every key of `o` must be in the NULL-terminated list. */
static vnp_status check_keys(json_t *o, const char *where, const char *const *known) {
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0) i++;
        if (!known[i]) return refuse(VNP_UNSUPPORTED, "%s has the unknown key '%s'", where, key);
    }
    return VNP_OK;
}

static bool is_absent(const json_t *v) {
    return !v || json_is_null(v);
}

/* Absent, or null, or false, or an empty string, or a number 0: the feature is off. */
static bool is_off(const json_t *v) {
    return is_absent(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

static vnp_status get_id(const json_t *v, const char *what, uint16_t *id) {
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return refuse(VNP_FORMAT, "the id of %s is not a number from 0", what);
    if (json_integer_value(v) > VNP_BPE_MAX_ID)
        return refuse(VNP_UNSUPPORTED, "the id of %s is above %d", what, VNP_BPE_MAX_ID);
    *id = (uint16_t)json_integer_value(v);
    return VNP_OK;
}

static const char *type_of(const json_t *o) {
    const char *type = json_string_value(json_object_get(o, "type"));
    return type ? type : "";
}

/* ---- model --------------------------------------------------------------------------------- */

static vnp_status read_vocab(struct vnp_bpe *b, json_t *vocab) {
    const char *key;
    json_t *value;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return refuse(VNP_FORMAT, "model.vocab is no table of tokens");
    memset(b->id_of_byte, 0xff, sizeof b->id_of_byte);
    uint8_t *is_taken = calloc(1, VNP_BPE_MAX_ID + 1);
    if (!is_taken) return no_memory();
    vnp_status s = VNP_OK;
    json_object_foreach(vocab, key, value) {
        uint16_t id = 0;
        s = get_id(value, key[0] ? key : "the empty token", &id);
        if (s == VNP_OK && is_taken[id])
            s = refuse(VNP_FORMAT, "two tokens of model.vocab have id %d", id);
        if (s != VNP_OK) break;
        is_taken[id] = 1;
        b->n_ids = VNP_MAX(b->n_ids, (int64_t)id + 1);
        if (key[0] && !key[1]) b->id_of_byte[(uint8_t)key[0]] = id;
    }
    free(is_taken);
    return s;
}

/* "left right", or ["left", "right"]; the product's text is their concatenation. */
static vnp_status split_merge(const json_t *merge, size_t n, char **left, const char **right) {
    const char *a = json_string_value(merge), *space = a ? strchr(a, ' ') : NULL;
    if (space && !strchr(space + 1, ' ')) {
        *left = strndup(a, (size_t)(space - a));
        *right = space + 1;
        return *left ? VNP_OK : no_memory();
    }
    a = json_string_value(json_array_get(merge, 0));
    *right = json_string_value(json_array_get(merge, 1));
    if (!a || !*right || json_array_size(merge) != 2)
        return refuse(VNP_FORMAT, "merge %zu is not a pair of tokens", n);
    *left = strdup(a);
    return *left ? VNP_OK : no_memory();
}

static vnp_status read_merge(struct vnp_bpe *b, const json_t *vocab, const json_t *merge,
                             size_t n) {
    char *left = NULL, *product = NULL;
    const char *right = NULL;
    vnp_status s = split_merge(merge, n, &left, &right);
    if (s == VNP_OK && asprintf(&product, "%s%s", left, right) < 0) {
        product = NULL;
        s = no_memory();
    }
    if (s == VNP_OK) {
        const json_t *ids[3] = {json_object_get(vocab, left), json_object_get(vocab, right),
                                json_object_get(vocab, product)};
        if (!ids[0] || !ids[1] || !ids[2]) {
            s = refuse(VNP_FORMAT, "merge %zu uses or makes a token that model.vocab lacks", n);
        } else {
            b->left[n] = (uint16_t)json_integer_value(ids[0]);
            b->right[n] = (uint16_t)json_integer_value(ids[1]);
            b->product[n] = (uint16_t)json_integer_value(ids[2]);
        }
    }
    free(left);
    free(product);
    return s;
}

static void put_pair(struct vnp_bpe *b, size_t rank) {
    uint32_t mask = (UINT32_C(1) << b->pair_bits) - 1;
    uint32_t i = vnp_bpe_pair_slot(b->left[rank], b->right[rank], b->pair_bits);
    while (b->pairs[i].rank != VNP_BPE_NO_RANK &&
           (b->pairs[i].left != b->left[rank] || b->pairs[i].right != b->right[rank]))
        i = (i + 1) & mask;
    /* a pair listed twice has its last rank, as in the library */
    b->pairs[i] = (struct vnp_bpe_pair){b->left[rank], b->right[rank], (uint16_t)rank, 0};
}

/* true when each merge comes after those that make its two parts. */
static vnp_status find_monotone(struct vnp_bpe *b) {
    uint16_t *first_use = malloc(sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    if (!first_use) return no_memory();
    memset(first_use, 0xff, sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    for (size_t r = b->n_merges; r-- > 0;) {
        if (vnp_bpe_rank(b, b->left[r], b->right[r]) != r) continue; /* listed again later */
        first_use[b->left[r]] = first_use[b->right[r]] = (uint16_t)r;
    }
    b->is_monotone = true;
    for (size_t r = 0; r < b->n_merges; r++)
        if (vnp_bpe_rank(b, b->left[r], b->right[r]) == r && first_use[b->product[r]] <= r)
            b->is_monotone = false;
    free(first_use);
    return VNP_OK;
}

static vnp_status read_merges(struct vnp_bpe *b, const json_t *vocab, const json_t *merges) {
    if (!json_is_array(merges)) return refuse(VNP_FORMAT, "model.merges is no list");
    size_t n = json_array_size(merges);
    if (n > VNP_BPE_MAX_MERGES)
        return refuse(VNP_UNSUPPORTED, "more than %d merges", VNP_BPE_MAX_MERGES);
    for (b->pair_bits = 8; (size_t)1 << b->pair_bits < 4 * n; b->pair_bits++) {
    }
    size_t n_slots = (size_t)1 << b->pair_bits;
    b->n_merges = n;
    b->left = calloc(n + 1, sizeof *b->left);
    b->right = calloc(n + 1, sizeof *b->right);
    b->product = calloc(n + 1, sizeof *b->product);
    b->pairs = malloc(n_slots * sizeof *b->pairs);
    if (!b->left || !b->right || !b->product || !b->pairs) return no_memory();
    for (size_t i = 0; i < n_slots; i++)
        b->pairs[i] = (struct vnp_bpe_pair){0, 0, VNP_BPE_NO_RANK, 0};
    for (size_t i = 0; i < n; i++) {
        VNP_TRY(read_merge(b, vocab, json_array_get(merges, i), i));
        put_pair(b, i);
    }
    return find_monotone(b);
}

static vnp_status read_model(struct vnp_bpe *b, json_t *model) {
    static const char *const known[] = {"type",
                                        "dropout",
                                        "unk_token",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "continuing_subword_prefix",
                                        "ignore_merges",
                                        "vocab",
                                        "end_of_word_suffix",
                                        "merges",
                                        NULL};
    static const char *const off[] = {"dropout",       "continuing_subword_prefix",
                                      "fuse_unk",      "end_of_word_suffix",
                                      "byte_fallback", "ignore_merges"};
    if (!json_is_object(model)) return refuse(VNP_FORMAT, "no model in the file");
    if (strcmp(type_of(model), "BPE") != 0)
        return refuse(VNP_UNSUPPORTED, "model type '%s', not BPE", type_of(model));
    VNP_TRY(check_keys(model, "model", known));
    for (size_t i = 0; i < VNP_COUNT(off); i++)
        if (!is_off(json_object_get(model, off[i])))
            return refuse(VNP_UNSUPPORTED, "model.%s is set", off[i]);
    json_t *vocab = json_object_get(model, "vocab"), *unk = json_object_get(model, "unk_token");
    VNP_TRY(read_vocab(b, vocab));
    b->unk_id = -1;
    if (!is_absent(unk)) {
        json_t *id = json_is_string(unk) ? json_object_get(vocab, json_string_value(unk)) : NULL;
        if (!id) return refuse(VNP_FORMAT, "model.unk_token is no token of model.vocab");
        b->unk_id = (int32_t)json_integer_value(id);
    }
    return read_merges(b, vocab, json_object_get(model, "merges"));
}

/* ---- added tokens -------------------------------------------------------------------------- */

static vnp_status read_added_one(struct vnp_bpe *b, const json_t *vocab, json_t *o, size_t n,
                                 int64_t *next_id) {
    static const char *const known[] = {"id",     "content", "single_word", "lstrip",
                                        "rstrip", "special", "normalized",  NULL};
    static const char *const off[] = {"single_word", "lstrip", "rstrip"};
    if (!json_is_object(o)) return refuse(VNP_FORMAT, "added token %zu is no object", n);
    VNP_TRY(check_keys(o, "an added token", known));
    const char *text = json_string_value(json_object_get(o, "content"));
    if (!text || !text[0]) return refuse(VNP_FORMAT, "added token %zu has no content", n);
    for (size_t i = 0; i < VNP_COUNT(off); i++)
        if (!is_off(json_object_get(o, off[i])))
            return refuse(VNP_UNSUPPORTED, "added token '%s' has %s set", text, off[i]);
    for (const char *p = text; *p; p++)
        if ((uint8_t)*p >= 0x80)
            return refuse(VNP_UNSUPPORTED, "added token '%s' is not ASCII", text);
    for (size_t i = 0; i < n; i++)
        if (strcmp(b->added[i].text, text) == 0)
            return refuse(VNP_FORMAT, "added token '%s' is listed twice", text);
    struct vnp_bpe_added *a = &b->added[n];
    VNP_TRY(get_id(json_object_get(o, "id"), text, &a->id));
    /* the library takes the vocabulary's id, else the next free one, whatever the file says */
    const json_t *id = json_object_get(vocab, text);
    int64_t due = id ? json_integer_value(id) : *next_id;
    if (due != a->id)
        return refuse(VNP_FORMAT, "added token '%s' has id %d where %lld is due", text, a->id,
                      (long long)due);
    *next_id = VNP_MAX(*next_id, due + 1);
    a->is_late = json_is_true(json_object_get(o, "normalized"));
    a->text = strdup(text);
    if (!a->text) return no_memory();
    a->len = strlen(text);
    b->n_added = n + 1;
    b->has_late |= a->is_late;
    b->is_added_first[(uint8_t)text[0]] = true;
    b->n_ids = VNP_MAX(b->n_ids, due + 1);
    return VNP_OK;
}

static vnp_status read_added(struct vnp_bpe *b, json_t *list, const json_t *vocab) {
    if (is_absent(list)) return VNP_OK;
    if (!json_is_array(list)) return refuse(VNP_FORMAT, "added_tokens is no list");
    size_t n = json_array_size(list);
    if (n > 1000) return refuse(VNP_UNSUPPORTED, "%zu added tokens", n);
    b->added = calloc(n + 1, sizeof *b->added);
    if (!b->added) return no_memory();
    int64_t next_id = (int64_t)json_object_size(vocab);
    for (size_t i = 0; i < n; i++)
        VNP_TRY(read_added_one(b, vocab, json_array_get(list, i), i, &next_id));
    return VNP_OK;
}

/* ---- around the model ---------------------------------------------------------------------- */

static vnp_status read_split(struct vnp_bpe *b, json_t *o) {
    static const char *const known[] = {"type", NULL};
    b->split = VNP_BPE_SPLIT_NONE;
    if (is_absent(o)) return VNP_OK;
    const char *type = type_of(o);
    if (strcmp(type, "Whitespace") == 0)
        b->split = VNP_BPE_SPLIT_SPACE_PUNCTUATION;
    else if (strcmp(type, "WhitespaceSplit") == 0)
        b->split = VNP_BPE_SPLIT_SPACE;
    else
        return refuse(VNP_UNSUPPORTED, "pre_tokenizer '%s'", type);
    return check_keys(o, "pre_tokenizer", known);
}

/* The ids of a template's special token, behind the n at *out. */
static vnp_status append_special(struct vnp_bpe *b, const json_t *specials, const char *name,
                                 uint16_t **out, size_t *n) {
    const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
    size_t n_more = json_array_size(ids);
    if (n_more == 0 || n_more > 1000 || *n > 1000)
        return refuse(VNP_FORMAT, "the template's token '%s' has no ids", name ? name : "");
    uint16_t *all = realloc(*out, (*n + n_more) * sizeof **out);
    if (!all) return no_memory();
    *out = all;
    for (size_t i = 0; i < n_more; i++) {
        VNP_TRY(get_id(json_array_get(ids, i), name, &all[*n]));
        b->n_ids = VNP_MAX(b->n_ids, (int64_t)all[*n] + 1);
        ++*n;
    }
    return VNP_OK;
}

static vnp_status read_template(struct vnp_bpe *b, json_t *o) {
    static const char *const known[] = {"type", "single", "pair", "special_tokens", NULL};
    if (is_absent(o)) return VNP_OK;
    if (strcmp(type_of(o), "TemplateProcessing") != 0)
        return refuse(VNP_UNSUPPORTED, "post_processor '%s'", type_of(o));
    VNP_TRY(check_keys(o, "post_processor", known));
    const json_t *single = json_object_get(o, "single");
    const json_t *specials = json_object_get(o, "special_tokens");
    size_t n_texts = 0;
    if (!json_is_array(single)) return refuse(VNP_FORMAT, "post_processor.single is no list");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *special = json_object_get(piece, "SpecialToken");
        const json_t *text = json_object_get(piece, "Sequence");
        if (json_object_size(piece) != 1 || (!special && !text))
            return refuse(VNP_FORMAT, "piece %zu of post_processor.single is of no known kind", i);
        if (special) {
            const char *name = json_string_value(json_object_get(special, "id"));
            VNP_TRY(n_texts ? append_special(b, specials, name, &b->suffix, &b->n_suffix)
                            : append_special(b, specials, name, &b->prefix, &b->n_prefix));
            continue;
        }
        const char *which = json_string_value(json_object_get(text, "id"));
        if (!which || strcmp(which, "A") != 0 || ++n_texts > 1)
            return refuse(VNP_UNSUPPORTED, "post_processor.single takes not just one text A");
    }
    return n_texts == 1 ? VNP_OK
                        : refuse(VNP_UNSUPPORTED, "post_processor.single leaves the text out");
}

static vnp_status read_all(struct vnp_bpe *b, json_t *root) {
    static const char *const known[] = {
        "version",       "truncation",     "padding", "added_tokens", "normalizer",
        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const off[] = {"truncation", "padding", "normalizer"};
    if (!json_is_object(root)) return refuse(VNP_FORMAT, "not a tokenizer.json");
    VNP_TRY(check_keys(root, "the file", known));
    const char *version = json_string_value(json_object_get(root, "version"));
    if (!version || strcmp(version, "1.0") != 0)
        return refuse(VNP_UNSUPPORTED, "tokenizer.json of version '%s', not 1.0",
                      version ? version : "");
    for (size_t i = 0; i < VNP_COUNT(off); i++)
        if (!is_absent(json_object_get(root, off[i])))
            return refuse(VNP_UNSUPPORTED, "%s is set", off[i]);
    json_t *model = json_object_get(root, "model");
    VNP_TRY(read_model(b, model));
    VNP_TRY(read_added(b, json_object_get(root, "added_tokens"), json_object_get(model, "vocab")));
    VNP_TRY(read_split(b, json_object_get(root, "pre_tokenizer")));
    VNP_TRY(read_template(b, json_object_get(root, "post_processor")));
    return vnp_bpe_path_create(b, &b->path);
}

/* ---- door ---------------------------------------------------------------------------------- */

vnp_status vnp_bpe_load(const char *json, size_t n_bytes, const char *path, struct vnp_bpe **out) {
    json_error_t at;
    *out = NULL;
    if (!vnp_json_is_modest(json, n_bytes)) {
        (void)refuse(VNP_FORMAT, "JSON of too many values");
        vnp_error_at(path, -1, -1, NULL);
        return VNP_FORMAT;
    }
    json_t *root = json_loadb(json, n_bytes, JSON_REJECT_DUPLICATES, &at);
    if (!root) {
        vnp_status s = refuse(VNP_FORMAT, "not JSON: %s", at.text);
        vnp_error_at(path, at.line, at.position, NULL);
        return s;
    }
    struct vnp_bpe *b = calloc(1, sizeof *b);
    vnp_status s = b ? read_all(b, root) : no_memory();
    json_decref(root);
    if (s != VNP_OK) {
        vnp_error_at(path, -1, -1, NULL);
        vnp_bpe_destroy(b);
        return s;
    }
    *out = b;
    return VNP_OK;
}

void vnp_bpe_destroy(struct vnp_bpe *b) {
    if (!b) return;
    for (size_t i = 0; i < b->n_added; i++) free(b->added[i].text);
    free(b->added);
    vnp_bpe_path_destroy(b->path);
    free(b->left);
    free(b->right);
    free(b->product);
    free(b->pairs);
    free(b->prefix);
    free(b->suffix);
    free(b);
}
