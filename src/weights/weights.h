/* SPDX-License-Identifier: MIT
 * weights: model files, memory-mapped, behind one interface. Reads fair-esm .pt, Hugging Face
 * folders (safetensors and .bin, sharded or not), DNABERT-S folders, classifiers (.pth pickled
 * module or state dict, .safetensors) and our bundle; gives canonical tensor names whatever the
 * format. Never executes anything of a file. The room's one door.
 *
 * Canonical names (l = layer from 0)
 *  ESM-2      embed.weight [V][D]
 *             layer.l.attn_norm.{weight,bias} [D]   layer.l.attn.{q,k,v,o}.{weight [D][D],bias [D]}
 *             layer.l.ffn_norm.{weight,bias}        layer.l.ffn.up.{weight [F][D],bias [F]}
 *             layer.l.ffn.down.{weight [D][F],bias} final_norm.{weight,bias}
 *             optional: lm.dense.{weight,bias} lm.norm.{weight,bias} lm.bias [V]
 *  DNABERT-S  embed.weight [V][D]  embed.type [T][D]  embed_norm.{weight,bias}
 *             layer.l.attn.qkv.{weight [3D][D],bias [3D]}  layer.l.attn.o.{weight,bias}
 *             layer.l.attn_norm.{weight,bias} (after attention)  layer.l.ffn.gated.weight [2F][D]
 *             layer.l.ffn.down.{weight [D][F],bias}  layer.l.ffn_norm.{weight,bias}
 *  classifier hidden.{weight,bias} bn.{weight,bias,mean,var} output.{weight,bias} */
#ifndef VNP_WEIGHTS_H
#define VNP_WEIGHTS_H

#include "op/op.h"

enum vnp_model_kind { VNP_MODEL_NONE = 0, VNP_MODEL_ESM2, VNP_MODEL_DNABERT, VNP_MODEL_CLASSIFIER };

struct vnp_model_spec {
    enum vnp_model_kind kind;
    char name[128]; /* e.g. "esm2_t36_3B_UR50D", from the file or its path */
    int64_t n_layers, n_hidden, n_heads, n_ffn, n_vocab; /* L D H F V; encoders */
    bool has_token_dropout;                              /* ESM-2 */
    bool has_lm_head;
    float norm_eps; /* 1e-5 ESM-2, 1e-12 DNABERT-S unless the config says otherwise */
    int64_t n_dna, n_protein, n_classifier_hidden; /* classifier: n_in = n_dna + n_protein; the
                                split is known only from a bundle, else n_dna = 0 */
    int64_t window_bp;                             /* classifier: 300, 500; 0 = unknown */
    enum vnp_dtype dtype;                          /* of most of the stored weights */
    enum vnp_dtype freq_dtype; /* ESM-2: the type its rotary frequencies are rounded to */
    int64_t n_params;
    struct vnp_hash128 digest; /* over sizes, heads, eps, token dropout, rotary frequencies where
                                  they are not of the weights' type, then canonical names,
                                  shapes, types and bytes in name order: the same for every on-disk
                                  format of the same stored weights; set by vnp_checkpoint_digest */
};

struct vnp_tensor_info {
    const char *name; /* canonical */
    enum vnp_dtype dtype;
    int n_dims;
    int64_t shape[4];
    const void *data; /* into the mapping, contiguous row-major; aligned as the file has it (maybe
                         not to the element: read through memcpy or vnp_convert_to_f32) */
    size_t n_bytes;
};

/* One model (encoder or classifier) of a file, folder or bundle. Immutable after open; may be
 * shared by threads. */
struct vnp_checkpoint;

/* Opens PATH and takes the model of `kind` from it; VNP_MODEL_NONE takes the only one there is and
 * is an error (MISMATCH) when there are several. Every tensor the architecture needs is present
 * with its right shape when this returns OK. Errors have origin MODEL and name file and tensor; a
 * path that is not there is IO with os_errno ENOENT, a missing part of a folder is not.
 * The digest is computed lazily (vnp_checkpoint_digest), it reads every byte. */
vnp_status vnp_checkpoint_open(const char *path, enum vnp_model_kind kind,
                               struct vnp_checkpoint **out) VNP_WARN_UNUSED;
void vnp_checkpoint_close(struct vnp_checkpoint *c);
/* A classifier in memory as a checkpoint, ready for vnp_bundle_write: parameters are copied, the
 * first n_dna of its inputs are the DNA encoder's, window_bp 0 = unknown. */
vnp_status vnp_checkpoint_from_classifier(const struct vnp_classifier_params *p, const char *name,
                                          int64_t n_dna, int64_t window_bp,
                                          struct vnp_checkpoint **out) VNP_WARN_UNUSED;
const struct vnp_model_spec *vnp_checkpoint_spec(const struct vnp_checkpoint *c);
/* The path it was opened from, as given. */
const char *vnp_checkpoint_path(const struct vnp_checkpoint *c);
/* Over device, inode, size and time of change of its files as they were when opened: equal in two
 * processes that have mapped the same files. Reads nothing. */
struct vnp_hash128 vnp_checkpoint_stamp(const struct vnp_checkpoint *c);
/* NULL when there is no such tensor. */
const struct vnp_tensor_info *vnp_checkpoint_find(const struct vnp_checkpoint *c, const char *name);
int64_t vnp_checkpoint_count(const struct vnp_checkpoint *c);
const struct vnp_tensor_info *vnp_checkpoint_at(const struct vnp_checkpoint *c, int64_t i);
/* Finds a tensor by printf-name and returns it as a 2-D view (vectors are [1][n]); NOT_FOUND. */
vnp_status vnp_checkpoint_view(const struct vnp_checkpoint *c, struct vnp_view *out,
                               const char *fmt, ...) VNP_PRINTF(3, 4);
vnp_status vnp_checkpoint_digest(struct vnp_checkpoint *c, struct vnp_hash128 *out);
/* Gives back the resident pages of c's files: they stay in the page cache and are mapped again when
 * read. Call it after a weight was packed or uploaded, so that loading needs no more memory than
 * the packed weights. Any thread, any time. */
void vnp_checkpoint_trim(const struct vnp_checkpoint *c);
/* The tokenizer.json that belongs to a DNA encoder (beside it, or inside the bundle): bytes are
 * borrowed from c. NOT_FOUND when there is none. */
vnp_status vnp_checkpoint_tokenizer(const struct vnp_checkpoint *c, const char **json,
                                    size_t *n_bytes);
/* The file it lies in, for messages. */
const char *vnp_checkpoint_tokenizer_path(const struct vnp_checkpoint *c);
/* One line for people, e.g. "random weights: the calls mean nothing"; "" when there is none. */
const char *vnp_checkpoint_note(const struct vnp_checkpoint *c);
/* What the file is, e.g. "fair-esm checkpoint (.pt)". */
const char *vnp_checkpoint_format(const struct vnp_checkpoint *c);
/* A key of the file's safetensors metadata, or NULL: bundles keep keys that we do not know. */
const char *vnp_checkpoint_meta(const struct vnp_checkpoint *c, const char *key);
/* An encoder of the shape given (kind, sizes, norm_eps, has_token_dropout) with random weights in
 * FP16, for benches: tensors share one buffer no larger than the largest of them. */
vnp_status vnp_checkpoint_random(const struct vnp_model_spec *shape, uint64_t seed,
                                 struct vnp_checkpoint **out) VNP_WARN_UNUSED;
/* Which kinds a path holds, as a mask 1 << kind. */
vnp_status vnp_model_probe(const char *path, unsigned *kinds, char *format, size_t n_format);

/* Writes one bundle file: safetensors whose names are prefixed esm2. / dnabert. / classifier. and
 * whose __metadata__ holds format version, specs, window, names, digests and tokenizer.json.
 * Any of the three may be NULL. Same parts, same bytes. Written beside the target, synced and
 * renamed (an existing file is replaced); origin OUTPUT when writing fails. */
struct vnp_bundle_meta {
    const char *key, *value; /* stored as "x.<key>": vnp_checkpoint_meta(c, "x.calibration.500") */
};
struct vnp_bundle_parts {
    const struct vnp_checkpoint *esm2, *dnabert, *classifier;
    int64_t window_bp; /* 0: the classifier's, if it is known */
    const char *note;  /* one line for people, may be NULL */
    bool is_fp16;      /* FP32 matrices of the encoders become FP16; MISMATCH if one overflows */
    bool is_without_lm_head;            /* leave the masked-LM head out */
    const struct vnp_bundle_meta *meta; /* [n_meta] further facts, e.g. calibration */
    int64_t n_meta;
};
vnp_status vnp_bundle_write(const char *path, const struct vnp_bundle_parts *parts) VNP_WARN_UNUSED;

/* What the published weights (DNABERT-S, ESM-2 3B, the 500 bp classifier) answer for a few frames:
 * a check of an installation. */
struct vnp_truth_frame {
    const char *id, *nucleotide, *protein;
    bool is_virus;
    float score1, score2; /* of the published 500 bp classifier */
};
int vnp_truth_count(void);
const struct vnp_truth_frame *vnp_truth_at(int i);
/* vectors [vnp_truth_count()][n_cols]: the pooled vectors of the frames, in order. *error: the
 * worst frame's centred error (RMS over 24 facts a vector, each in units of its standard deviation
 * between the frames): 0 = the published vectors, about 1.4 = another sequence's; NaN counts as
 * worst. Below 0.02 is right in FP32 and FP16, below 0.1 in BF16. UNSUPPORTED for other widths or
 * kinds. */
vnp_status vnp_truth_check(enum vnp_model_kind kind, const float *vectors, int64_t n_cols,
                           double *error, int *idx_worst);

#endif
