// SPDX-License-Identifier: MIT
// config.json and index.json of a Hugging Face folder. First byte even: the rest is the config of a
// small sound ESM-2 (its weights are made here); odd: the rest is a shards' index beside it.
#include "fuzz_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const vectors[] = {"attention.LayerNorm.weight", "attention.LayerNorm.bias",
                                      "attention.self.query.bias",  "attention.self.key.bias",
                                      "attention.self.value.bias",  "attention.output.dense.bias",
                                      "LayerNorm.weight",           "LayerNorm.bias",
                                      "intermediate.dense.bias",    "output.dense.bias"};
static const char *const matrices[] = {
    "attention.self.query.weight",   "attention.self.key.weight", "attention.self.value.weight",
    "attention.output.dense.weight", "intermediate.dense.weight", "output.dense.weight"};

struct text {
    char data[8192];
    size_t n, at;
};

static void add(struct text *t, const char *prefix, const char *name, int rows, int cols) {
    size_t n = (size_t)(rows ? rows : 1) * (size_t)cols * 2;
    char shape[32];
    if (rows)
        snprintf(shape, sizeof shape, "%d,%d", rows, cols);
    else
        snprintf(shape, sizeof shape, "%d", cols);
    t->n += (size_t)snprintf(t->data + t->n, sizeof t->data - t->n,
                             "%s\"%s%s\":{\"dtype\":\"F16\",\"shape\":[%s],\"data_offsets\":[%zu,"
                             "%zu]}",
                             t->n ? "," : "{", prefix, name, shape, t->at, t->at + n);
    t->at += n;
}

/* One layer, width 4, F 8. */
static void write_weights(struct fuzz_file *file, const char *name) {
    static struct text t;
    static uint8_t all[16384];
    t.n = t.at = 0;
    add(&t, "", "esm.embeddings.word_embeddings.weight", 33, 4);
    for (size_t i = 0; i < 10; i++) add(&t, "esm.encoder.layer.0.", vectors[i], 0, i == 8 ? 8 : 4);
    for (size_t i = 0; i < 6; i++)
        add(&t, "esm.encoder.layer.0.", matrices[i], i == 4 ? 8 : 4, i == 5 ? 8 : 4);
    add(&t, "esm.", "encoder.emb_layer_norm_after.weight", 0, 4);
    add(&t, "esm.", "encoder.emb_layer_norm_after.bias", 0, 4);
    t.data[t.n++] = '}';
    for (int i = 0; i < 8; i++) all[i] = (uint8_t)((uint64_t)t.n >> (8 * i));
    memcpy(all + 8, t.data, t.n);
    memset(all + 8 + t.n, 0, t.at);
    fuzz_file_write(file, name, all, 8 + t.n + t.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct fuzz_file whole, config, index, shard;
    static int is_ready;
    static const char sound[] = "{\"model_type\":\"esm\",\"num_attention_heads\":2,"
                                "\"position_embedding_type\":\"rotary\"}";
    if (size < 1) return 0;
    if (!is_ready) {
        fuzz_folder(&whole);
        write_weights(&whole, "model.safetensors");
        config.folder = whole.folder;
        fuzz_folder(&shard);
        write_weights(&shard, "part-1");
        index.folder = shard.folder;
        static struct fuzz_file beside;
        beside.folder = shard.folder;
        fuzz_file_write(&beside, "config.json", (const uint8_t *)sound, sizeof sound - 1);
        is_ready = 1;
    }
    if (data[0] % 2 == 0) {
        fuzz_file_write(&config, "config.json", data + 1, size - 1);
        fuzz_open_all(whole.folder);
    } else {
        fuzz_file_write(&index, "model.safetensors.index.json", data + 1, size - 1);
        fuzz_open_all(shard.folder);
    }
    return 0;
}
