// SPDX-License-Identifier: MIT
// From a path to a raw map: tells formats by content, walks Hugging Face folders (one file, or an
// index and its shards, as safetensors or .bin), and reads config.json. A shard's name may not
// leave its folder.
#include "weights_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { JSON_MAX_BYTES = 64 << 20 };

static vnp_status fail_memory(void) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a model's description");
}

static bool is_there(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static vnp_status join(char *out, size_t n, const char *folder, const char *name) {
    if ((size_t)snprintf(out, n, "%s/%s", folder, name) < n) return VNP_OK;
    return vnp_bad(VNP_INVAL, folder, -1, NULL, "the path is too long");
}

vnp_status vnp_json_parse(const char *text, size_t n, const char *file, int64_t off_base,
                          const char *what, json_t **out) {
    json_error_t e;
    *out = NULL;
    if (!vnp_json_is_modest(text, n))
        return vnp_bad(VNP_UNSUPPORTED, file, -1, NULL, "%s JSON of too many values", what);
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    if (*out) return VNP_OK;
    /* jansson says nothing at all when an allocation fails */
    if (!e.text[0] || json_error_code(&e) == json_error_out_of_memory) return fail_memory();
    (void)vnp_fail(VNP_FORMAT, VNP_FROM_MODEL, "%s no valid JSON: %s", what, e.text);
    vnp_error_at(file, off_base ? -1 : e.line, off_base + e.position, NULL);
    return VNP_FORMAT;
}

static vnp_status load_json(const char *path, json_t **out) {
    struct vnp_mapping *m;
    VNP_TRY(vnp_mapping_open(path, &m));
    vnp_status status = VNP_OK;
    if (m->n_bytes > JSON_MAX_BYTES)
        status = vnp_bad(VNP_UNSUPPORTED, path, -1, NULL, "has %zu bytes", m->n_bytes);
    else
        status =
            vnp_json_parse(m->data ? (const char *)m->data : "", m->n_bytes, path, 0, "is", out);
    if (status == VNP_OK && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        status = vnp_bad(VNP_FORMAT, path, -1, NULL, "is no JSON object");
    }
    vnp_mapping_close(m);
    return status;
}

/* What a file that is no model looks like, for the message. */
static const char *guess(const struct vnp_mapping *m) {
    static const struct {
        const char *magic, *what;
    } known[] = {{"version https://git-lfs", "a Git LFS pointer, not the file itself"},
                 {"\x89HDF", "an HDF5 file"},
                 {"GGUF", "a GGUF file"},
                 {"\x1f\x8b", "compressed with gzip"},
                 {"\x28\xb5\x2f\xfd", "compressed with zstd"},
                 {"<!DOCTYPE", "an HTML page"},
                 {"<html", "an HTML page"},
                 {"\x93NUMPY", "a NumPy array"},
                 {">", "a FASTA file"},
                 {"{", "a JSON file"}};
    for (size_t i = 0; i < VNP_COUNT(known); i++) {
        size_t n = strlen(known[i].magic);
        if (m->n_bytes >= n && memcmp(m->data, known[i].magic, n) == 0) return known[i].what;
    }
    return NULL;
}

/* A header length below 4 GiB, then an object. No text has NUL bytes, no zip or pickle begins so:
 * this goes first, because the length's low bytes may look like any magic. */
static bool is_safetensors(const struct vnp_mapping *m) {
    return m->n_bytes >= 9 && m->data[8] == '{' &&
           (m->data[4] | m->data[5] | m->data[6] | m->data[7]) == 0;
}
/* Half of it: worth a message that tells what is wrong with the header. */
static bool is_almost_safetensors(const struct vnp_mapping *m) {
    return m->n_bytes >= 9 &&
           (m->data[8] == '{' || (m->data[4] | m->data[5] | m->data[6] | m->data[7]) == 0);
}

static vnp_status read_by_content(struct vnp_raw *raw, struct vnp_mapping *m) {
    if (m->n_bytes == 0) return vnp_bad(VNP_TRUNCATED, m->path, 0, NULL, "the file is empty");
    raw->format = "safetensors";
    if (is_safetensors(m)) return vnp_safetensors_read(raw, m);
    if (m->n_bytes >= 4 && memcmp(m->data, "PK\x03\x04", 4) == 0) return vnp_torch_read(raw, m);
    if (m->n_bytes >= 2 && m->data[0] == 0x80 && m->data[1] >= 1 && m->data[1] <= 5)
        return vnp_torch_read(raw, m); /* says why not */
    const char *what = guess(m);
    if (!what && is_almost_safetensors(m)) return vnp_safetensors_read(raw, m);
    (void)vnp_bad(VNP_FORMAT, m->path, 0, NULL, "is no model file%s%s", what ? ": it is " : "",
                  what ? what : "");
    vnp_error_hint("a safetensors file, a zip of torch.save (.pt, .pth, .bin) or a folder with "
                   "config.json is expected");
    return VNP_FORMAT;
}

static vnp_status read_file(struct vnp_raw *raw, const char *path) {
    struct vnp_mapping *m;
    VNP_TRY(vnp_mapping_open(path, &m));
    VNP_TRY(vnp_raw_own(raw, m));
    return read_by_content(raw, m);
}

static bool is_plain_name(const char *name) {
    return name[0] && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Opens each shard that the map names, once. */
static vnp_status read_shards(struct vnp_raw *raw, const char *folder, const char *index_path,
                              json_t *map) {
    const char *name;
    json_t *value;
    char path[4096];
    json_t *seen = json_object();
    if (!seen) return fail_memory();
    vnp_status status = VNP_OK;
    json_object_foreach(map, name, value) {
        const char *shard = json_string_value(value);
        if (!shard || !is_plain_name(shard)) {
            status = vnp_bad(VNP_FORMAT, index_path, -1, name, "its shard '%.100s' is no file name",
                             shard ? shard : "");
            break;
        }
        if (json_object_get(seen, shard)) continue;
        if (json_object_size(seen) >= VNP_RAW_MAX_SHARDS)
            status = vnp_bad(VNP_UNSUPPORTED, index_path, -1, NULL, "names more than %d shards",
                             VNP_RAW_MAX_SHARDS);
        else if (json_object_set_new(seen, shard, json_true()) != 0)
            status = fail_memory();
        else
            status = join(path, sizeof path, folder, shard);
        if (status == VNP_OK && !is_there(path)) {
            status =
                vnp_bad(VNP_NOT_FOUND, index_path, -1, name, "its shard '%s' is missing", shard);
            vnp_error_hint("copy or download all shards");
        }
        if (status == VNP_OK) status = read_file(raw, path);
        if (status != VNP_OK) break;
    }
    json_decref(seen);
    return status;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static vnp_status read_index(struct vnp_raw *raw, const char *folder, const char *index_path) {
    json_t *index = NULL;
    VNP_TRY(load_json(index_path, &index));
    json_t *map = json_object_get(index, "weight_map");
    vnp_status status;
    if (!json_is_object(map) || json_object_size(map) == 0)
        status = vnp_bad(VNP_FORMAT, index_path, -1, NULL, "has no weight_map");
    else
        status = read_shards(raw, folder, index_path, map);
    if (status == VNP_OK) status = vnp_raw_finish(raw);
    const char *name;
    json_t *value;
    if (status == VNP_OK) json_object_foreach(map, name, value) {
            const struct vnp_raw_tensor *t = vnp_raw_find(raw, name);
            if (!t || strcmp(base_name(t->file), json_string_value(value)) != 0)
                status = vnp_bad(VNP_FORMAT, index_path, -1, name,
                                 "the tensor is not in its shard '%s'", json_string_value(value));
            if (status != VNP_OK) break;
        }
    json_decref(index);
    return status;
}

static vnp_status load_config(struct vnp_raw *raw, const char *folder) {
    VNP_TRY(join(raw->config_path, sizeof raw->config_path, folder, "config.json"));
    if (!is_there(raw->config_path)) return VNP_OK; /* whoever needs it says so */
    return load_json(raw->config_path, &raw->config);
}

static vnp_status read_folder(struct vnp_raw *raw, const char *folder) {
    static const struct {
        const char *name;
        const char *format;
        bool is_index;
    } forms[] = {{"model.safetensors", "Hugging Face folder (safetensors)", false},
                 {"model.safetensors.index.json", "Hugging Face folder (safetensors shards)", true},
                 {"pytorch_model.bin", "Hugging Face folder (.bin)", false},
                 {"pytorch_model.bin.index.json", "Hugging Face folder (.bin shards)", true}};
    char path[4096];
    snprintf(raw->dna_folder, sizeof raw->dna_folder, "%s", folder);
    for (size_t i = 0; i < VNP_COUNT(forms); i++) {
        VNP_TRY(join(path, sizeof path, folder, forms[i].name));
        if (!is_there(path)) continue;
        VNP_TRY(load_config(raw, folder));
        if (forms[i].is_index)
            VNP_TRY(read_index(raw, folder, path));
        else {
            VNP_TRY(read_file(raw, path));
            VNP_TRY(vnp_raw_finish(raw));
        }
        raw->format = forms[i].format;
        return VNP_OK;
    }
    (void)vnp_bad(VNP_FORMAT, folder, -1, NULL, "the folder holds no model");
    vnp_error_hint("model.safetensors, pytorch_model.bin or the index.json of one is expected in "
                   "it");
    return VNP_FORMAT;
}

/* A single file: its config.json and tokenizer.json lie beside it, when it is a folder's file. */
static vnp_status read_single(struct vnp_raw *raw, const char *path) {
    VNP_TRY(read_file(raw, path));
    VNP_TRY(vnp_raw_finish(raw));
    if (raw->has_cfg || vnp_raw_is_bundle(raw)) return VNP_OK;
    if (!(vnp_raw_kinds(raw) & (1u << VNP_MODEL_ESM2 | 1u << VNP_MODEL_DNABERT))) return VNP_OK;
    const char *base = base_name(path);
    if (base == path)
        snprintf(raw->dna_folder, sizeof raw->dna_folder, ".");
    else
        snprintf(raw->dna_folder, sizeof raw->dna_folder, "%.*s",
                 (int)VNP_MAX((ptrdiff_t)1, base - path - 1), path);
    return load_config(raw, raw->dna_folder);
}

vnp_status vnp_raw_open(const char *path, struct vnp_raw **out) {
    struct stat st;
    *out = NULL;
    if (strlen(path) >= 4000) return vnp_bad(VNP_INVAL, path, -1, NULL, "the path is too long");
    if (stat(path, &st) != 0) {
        int os_errno = errno;
        (void)vnp_fail_errno(VNP_IO, VNP_FROM_MODEL, os_errno, "cannot open the model");
        vnp_error_at(path, -1, -1, NULL);
        vnp_error_hint("check the path");
        return VNP_IO;
    }
    struct vnp_raw *raw = vnp_raw_create(path);
    if (!raw) return fail_memory();
    vnp_status status = S_ISDIR(st.st_mode) ? read_folder(raw, path) : read_single(raw, path);
    if (status != VNP_OK) {
        vnp_raw_destroy(raw);
        return status;
    }
    *out = raw;
    return VNP_OK;
}
