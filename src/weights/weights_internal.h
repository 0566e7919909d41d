/* SPDX-License-Identifier: MIT
 * weights, inside: what its files share. A raw map (names as the file has them) comes out of each
 * format's reader; canon.c turns one into the canonical tensors of a checkpoint. */
#ifndef VNP_WEIGHTS_INTERNAL_H
#define VNP_WEIGHTS_INTERNAL_H

#include "weights/weights.h"

#include <jansson.h>

enum { VNP_RAW_MAX_DIMS = 8, VNP_RAW_MAX_TENSORS = 100000, VNP_RAW_MAX_SHARDS = 4096 };

/* A read-only mapping of a whole file. */
struct vnp_mapping {
    char *path;
    const uint8_t *data; /* NULL when the file is empty */
    size_t n_bytes;
    struct vnp_hash128 stamp; /* of device, inode, size and time of change */
};
vnp_status vnp_mapping_open(const char *path, struct vnp_mapping **out) VNP_WARN_UNUSED;
void vnp_mapping_close(struct vnp_mapping *m);
void vnp_mapping_trim(const struct vnp_mapping *m);

struct vnp_raw_tensor {
    char *name;
    enum vnp_dtype dtype; /* NONE: a type of the file that no model of ours has */
    char dtype_name[16];  /* as the file calls it */
    int n_dims;
    int64_t shape[VNP_RAW_MAX_DIMS];
    const uint8_t *data;
    size_t n_bytes;
    const char *file; /* path of its mapping */
    bool is_contiguous;
};

struct vnp_raw_meta {
    char *key, *value; /* value NUL-terminated, n_value bytes */
    size_t n_value;
};

/* Everything one file or folder holds. */
struct vnp_raw {
    struct vnp_mapping **maps;
    int64_t n_maps;
    struct vnp_raw_tensor *tensors; /* sorted by name after vnp_raw_finish */
    int64_t n_tensors, cap_tensors;
    struct vnp_raw_meta *meta; /* safetensors __metadata__ */
    int64_t n_meta;
    char path[4096]; /* as the user named it */
    const char *format;
    json_t *config; /* config.json, or NULL */
    char config_path[4096];
    bool has_cfg; /* fair-esm's Namespace */
    int64_t cfg_layers, cfg_hidden, cfg_heads;
    int cfg_token_dropout; /* -1 unknown */
    char dna_folder[4096]; /* where a tokenizer.json may lie; "" = nowhere */
};

struct vnp_raw *vnp_raw_create(const char *path);
void vnp_raw_destroy(struct vnp_raw *raw);
/* Takes m over in every case. */
vnp_status vnp_raw_own(struct vnp_raw *raw, struct vnp_mapping *m) VNP_WARN_UNUSED;
/* A zeroed tensor at the end with a copy of the name, or NULL (out of memory or too many: the
 * error record is written). Valid until the next add. */
struct vnp_raw_tensor *vnp_raw_add(struct vnp_raw *raw, const char *name, size_t n_name,
                                   const char *file);
/* Sorts and refuses duplicates. */
vnp_status vnp_raw_finish(struct vnp_raw *raw) VNP_WARN_UNUSED;
const struct vnp_raw_tensor *vnp_raw_find(const struct vnp_raw *raw, const char *name);
const struct vnp_raw_meta *vnp_raw_meta_find(const struct vnp_raw *raw, const char *key);
/* Product of a shape in elements; false when it overflows or a size is negative. */
bool vnp_shape_count(const int64_t *shape, int n_dims, size_t *out);

/* Readers: append the file's tensors to raw. */
vnp_status vnp_safetensors_read(struct vnp_raw *raw, struct vnp_mapping *m) VNP_WARN_UNUSED;
vnp_status vnp_torch_read(struct vnp_raw *raw, struct vnp_mapping *m) VNP_WARN_UNUSED;
/* A file by its content, or a folder. */
vnp_status vnp_raw_open(const char *path, struct vnp_raw **out) VNP_WARN_UNUSED;

/* Fails with origin MODEL and the place: returns status. record may be NULL, off -1. */
vnp_status vnp_bad(vnp_status status, const char *file, int64_t off, const char *record,
                   const char *fmt, ...) VNP_PRINTF(5, 6);

/* Text as JSON without duplicate keys: NOMEM, or FORMAT with the place (off_base + where). */
vnp_status vnp_json_parse(const char *text, size_t n, const char *file, int64_t off_base,
                          const char *what, json_t **out) VNP_WARN_UNUSED;

/* ---- zip: compressed entries are listed but cannot be used ---- */

struct vnp_zip_entry {
    const char *name; /* not terminated */
    size_t n_name;
    const uint8_t *data;
    size_t n_bytes;
    uint32_t method; /* 0 = stored; anything else cannot be used */
};
struct vnp_zip {
    struct vnp_zip_entry *entries; /* sorted by name */
    int64_t n_entries;
};
vnp_status vnp_zip_open(const struct vnp_mapping *m, struct vnp_zip *out) VNP_WARN_UNUSED;
void vnp_zip_close(struct vnp_zip *z);
/* UNSUPPORTED, naming the entry, where its bytes are compressed. */
vnp_status vnp_zip_check_stored(const struct vnp_mapping *m,
                                const struct vnp_zip_entry *e) VNP_WARN_UNUSED;
const struct vnp_zip_entry *vnp_zip_find(const struct vnp_zip *z, const char *name, size_t n_name);

/* ---- pickle as data ---- */

enum vnp_pickle_kind {
    VNP_PK_NONE,
    VNP_PK_BOOL,
    VNP_PK_INT,
    VNP_PK_BIG, /* an integer that does not fit in 64 bits */
    VNP_PK_FLOAT,
    VNP_PK_STR,
    VNP_PK_BYTES,
    VNP_PK_LIST,    /* items */
    VNP_PK_TUPLE,   /* items */
    VNP_PK_SET,     /* items */
    VNP_PK_DICT,    /* items: key, value, key, value; an OrderedDict too */
    VNP_PK_GLOBAL,  /* text = "module name" */
    VNP_PK_OBJECT,  /* a = its class, b = its state or NULL; nothing was run to make it */
    VNP_PK_STORAGE, /* a = the tuple of the persistent id */
    VNP_PK_TENSOR,  /* a = the argument tuple of _rebuild_tensor_v2 */
    VNP_PK_MARK
};
struct vnp_pickle_value {
    enum vnp_pickle_kind kind;
    uint32_t n, cap; /* items */
    union {
        int64_t i;
        double f;
        const char *text; /* n bytes, not terminated, into the pickle (GLOBAL: own, terminated) */
        struct vnp_pickle_value **items;
        struct {
            struct vnp_pickle_value *a, *b;
        };
    };
};
struct vnp_pickle;
/* Interprets data: builds values, calls nothing. The tree borrows data and lives in *out. */
vnp_status vnp_pickle_parse(const uint8_t *data, size_t n, const char *file,
                            struct vnp_pickle **out,
                            const struct vnp_pickle_value **root) VNP_WARN_UNUSED;
void vnp_pickle_free(struct vnp_pickle *p);
bool vnp_pickle_is_text(const struct vnp_pickle_value *v, const char *text);
/* Value of a dict's key, or NULL. */
const struct vnp_pickle_value *vnp_pickle_get(const struct vnp_pickle_value *dict, const char *key);

/* ---- checkpoint ---- */

struct vnp_checkpoint {
    struct vnp_raw *raw;
    struct vnp_model_spec spec;
    struct vnp_tensor_info *tensors; /* sorted by name */
    int64_t n_tensors, cap_tensors;
    const char *tokenizer;
    size_t n_tokenizer;
    struct vnp_mapping *tokenizer_map; /* when it lies in a file of its own */
    bool has_digest;
    const char *prefix; /* of names and metadata in a bundle: "esm2." ...; "" elsewhere */
    char note[512];
    void *own_data; /* of a model that came from memory */
};
/* Kinds a raw map holds. */
unsigned vnp_raw_kinds(const struct vnp_raw *raw);
bool vnp_raw_is_bundle(const struct vnp_raw *raw);
/* Fills c->tensors and c->spec from c->raw: everything checked. */
vnp_status vnp_canon_build(struct vnp_checkpoint *c, enum vnp_model_kind kind) VNP_WARN_UNUSED;

/* The type of most of n_of[dtype] elements: F32 unless F16 or BF16 has more. */
enum vnp_dtype vnp_most_of(const size_t *n_of);

/* rotary.c: the type an ESM-2's rotary frequencies are rounded to: `stated` (a bundle's metadata,
 * may be NULL), else by the values of a stored table, else the weights' own type. Errors: a table
 * of other frequencies is UNSUPPORTED, of another size MISMATCH. */
vnp_status vnp_rotary_freq_dtype(const struct vnp_raw *raw, const struct vnp_model_spec *spec,
                                 const char *stated, enum vnp_dtype *out) VNP_WARN_UNUSED;
const char *vnp_kind_prefix(enum vnp_model_kind kind); /* "esm2.", "dnabert.", "classifier." */
/* The digest: begin with the sizes, add every tensor in the order of canonical names. */
struct vnp_hash128 vnp_digest_begin(const struct vnp_model_spec *s);
struct vnp_hash128 vnp_digest_add(struct vnp_hash128 sum, const struct vnp_tensor_info *t);

#endif
