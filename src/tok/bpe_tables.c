// SPDX-License-Identifier: MIT
// The tables of bpe_path.c, made when a model is loaded: which tokens may stand side by side, the
// tree of the tokens read backwards, and for every context of eight letters (of an alphabet of
// four) the tokens that can end there. Whether a token can is found over all texts that end with
// the context, from the tokens that can end before it. Models of another kind get no tables and are
// merged. DNABERT-S's tokenizer: 40 ms of load with the JSON.
#include "tok/bpe_path.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_TOKENS = VNP_PATH_MAX_TOKENS,
    MAX_CLASSES = VNP_PATH_MAX_CLASSES,
    DEAD = VNP_PATH_NO_TOKEN,
    MAX_LEN = 1000,
    MAX_CHOICES = 1 << 15,
    N_SLOTS = 1 << 16
};

struct build {
    const struct vnp_bpe *bpe;
    struct vnp_bpe_path *t;
    unsigned n_base;
    uint16_t *token_of_id; /* [VNP_BPE_MAX_ID + 2], DEAD: none */
    size_t row_words;
    uint64_t *may_follow; /* [n_tokens][row_words]: bit b of row a */
    /* of the first m letters of `word`: */
    uint8_t word[VNP_PATH_MAX_CONTEXT];
    uint16_t *possible[VNP_PATH_MAX_CONTEXT + 1]; /* last tokens of texts that end with them */
    unsigned n_possible[VNP_PATH_MAX_CONTEXT + 1];
    uint16_t whole[VNP_PATH_MAX_CONTEXT + 1]; /* last token of these letters alone */
    uint16_t *slots;                          /* [N_SLOTS] hash table of the choices, DEAD: empty */
    uint16_t *nodes;                          /* [n_nodes] stack */
};

static vnp_status no_memory(void) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_NONE, "no memory for the tokenizer");
}

static inline bool get_bit(const uint64_t *row, unsigned i) {
    return row[i >> 6] >> (i & 63) & 1;
}

static inline void put_bit(uint64_t *row, unsigned i, bool bit) {
    row[i >> 6] = (row[i >> 6] & ~(UINT64_C(1) << (i & 63))) | (uint64_t)bit << (i & 63);
}

/* ---- which tokens may stand side by side -------------------------------------------------- */

static unsigned left_of(const struct build *b, unsigned token) {
    return b->token_of_id[b->bpe->left[token - b->n_base]];
}

static unsigned right_of(const struct build *b, unsigned token) {
    return b->token_of_id[b->bpe->right[token - b->n_base]];
}

/* Whether any merge takes the letter. One that none takes is always a token, and what stands before
 * and after it is encoded alone. */
static bool is_merged(const struct vnp_bpe *m, uint16_t id) {
    for (size_t r = 0; r < m->n_merges; r++)
        if (m->left[r] == id || m->right[r] == id) return true;
    return false;
}

/* Numbers the tokens; false when the model is not of the kind that this file can do. */
static bool number_tokens(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    const struct vnp_bpe *m = b->bpe;
    memset(b->token_of_id, 0xff, sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    memset(t->class_of_byte, MAX_CLASSES, sizeof t->class_of_byte);
    for (unsigned c = 0; c < 128; c++) {
        if (m->id_of_byte[c] == VNP_BPE_NO_ID) continue;
        if (!is_merged(m, m->id_of_byte[c])) {
            t->class_of_byte[c] = VNP_PATH_LONE;
            continue;
        }
        if (b->n_base == MAX_CLASSES) return false;
        t->class_of_byte[c] = (uint8_t)b->n_base;
        t->id[b->n_base] = m->id_of_byte[c];
        t->len[b->n_base] = 1;
        b->token_of_id[m->id_of_byte[c]] = (uint16_t)b->n_base++;
    }
    if (b->n_base == 0 || b->n_base + m->n_merges > MAX_TOKENS) return false;
    t->n_tokens = b->n_base + (unsigned)m->n_merges;
    for (unsigned k = b->n_base; k < t->n_tokens; k++) {
        unsigned r = k - b->n_base, a = b->token_of_id[m->left[r]], z = b->token_of_id[m->right[r]];
        if (a == DEAD || z == DEAD || b->token_of_id[m->product[r]] != DEAD) return false;
        if (m->left[r] == m->unk_id || m->right[r] == m->unk_id) return false;
        t->id[k] = m->product[r];
        t->len[k] = (uint16_t)(t->len[a] + t->len[z]);
        if (t->len[k] > MAX_LEN) return false;
        b->token_of_id[m->product[r]] = (uint16_t)k;
    }
    for (t->class_bits = 1; 1U << t->class_bits < b->n_base; t->class_bits++) {
    }
    t->n_base = b->n_base;
    t->n_context = t->class_bits <= 2 ? 8 : 4;
    t->has_few_letters = b->n_base <= VNP_COUNT(t->letters);
    memset(t->letters, 0xff, sizeof t->letters);
    for (unsigned c = 0; c < 128; c++) {
        unsigned i = t->class_of_byte[c], lower = c | 32;
        if (i >= MAX_CLASSES) continue;
        if (m->is_added_first[c] || !((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9')))
            t->has_few_letters = false;
        if (i < VNP_COUNT(t->letters)) t->letters[i] = (uint8_t)c;
    }
    return true;
}

/* Ranks of the merges whose left part is `a`, by right part; others stay DEAD. */
static void mark_merges(const struct build *b, const uint16_t *first, const uint16_t *after,
                        unsigned a, uint16_t *rank, bool is_set) {
    for (unsigned r = first[a]; r != DEAD; r = after[r])
        rank[right_of(b, b->n_base + r)] = is_set ? (uint16_t)r : DEAD;
}

/* Bit (a, z): no merge crosses the cut before a and z are whole. Of the two the one made last is
 * undone: until then its inner part stood at the cut, and that must not have merged with the other.
 * In one rank the left end goes first: a's merge before the cut's, the cut's before z's. */
static void fill_row(const struct build *b, unsigned a, const uint16_t *first,
                     const uint16_t *after, const uint16_t *rank) {
    struct vnp_bpe_path *t = b->t;
    uint64_t *row = b->may_follow + a * b->row_words;
    unsigned z = a;
    if (a < b->n_base) {
        for (z = 0; z < b->n_base; z++) put_bit(row, z, true);
    } else {
        unsigned inner = right_of(b, a);
        memcpy(row, b->may_follow + inner * b->row_words, b->row_words * 8);
        for (unsigned r = first[inner]; r != DEAD; r = after[r])
            if (b->n_base + r < a) put_bit(row, right_of(b, b->n_base + r), false);
    }
    for (; z < t->n_tokens; z++) {
        unsigned inner = left_of(b, z);
        put_bit(row, z, get_bit(row, inner) && b->n_base + rank[inner] > z);
    }
}

/* false: some token does not encode to itself. */
static vnp_status fill_may_follow(struct build *b, bool *is_sound) {
    struct vnp_bpe_path *t = b->t;
    unsigned n_merges = t->n_tokens - b->n_base;
    b->row_words = (t->n_tokens + 63) / 64;
    b->may_follow = calloc((size_t)t->n_tokens * b->row_words, 8);
    uint16_t *lists = malloc(sizeof(uint16_t) * 3 * MAX_TOKENS);
    if (!b->may_follow || !lists) {
        free(lists);
        return no_memory();
    }
    uint16_t *first = lists, *after = lists + MAX_TOKENS, *rank = lists + 2 * MAX_TOKENS;
    memset(lists, 0xff, sizeof(uint16_t) * 3 * MAX_TOKENS);
    for (unsigned r = n_merges; r-- > 0;) {
        unsigned a = left_of(b, b->n_base + r);
        after[r] = first[a];
        first[a] = (uint16_t)r;
    }
    for (unsigned a = 0; a < t->n_tokens; a++) {
        mark_merges(b, first, after, a, rank, true);
        fill_row(b, a, first, after, rank);
        mark_merges(b, first, after, a, rank, false);
    }
    *is_sound = true;
    for (unsigned k = b->n_base; k < t->n_tokens; k++) /* ask all before the first bit is taken */
        *is_sound &= get_bit(b->may_follow + left_of(b, k) * b->row_words, right_of(b, k));
    for (unsigned k = b->n_base; k < t->n_tokens; k++)
        put_bit(b->may_follow + left_of(b, k) * b->row_words, right_of(b, k), false);
    free(lists);
    return VNP_OK;
}

/* Numbers the different ones of n rows: kind[n], and of each kind one row, one[]. */
static vnp_status find_kinds(const uint64_t *rows, unsigned n, size_t n_words, uint16_t *kind,
                             uint16_t *one, unsigned *n_kinds) {
    uint16_t *slots = malloc(N_SLOTS * sizeof *slots);
    if (!slots) return no_memory();
    memset(slots, 0xff, N_SLOTS * sizeof *slots);
    *n_kinds = 0;
    for (unsigned a = 0; a < n; a++) {
        const uint64_t *row = rows + a * n_words;
        size_t i = vnp_hash(row, n_words * 8).lo % N_SLOTS;
        while (slots[i] != DEAD && memcmp(rows + one[slots[i]] * n_words, row, n_words * 8) != 0)
            i = (i + 1) % N_SLOTS;
        if (slots[i] == DEAD) {
            slots[i] = (uint16_t)*n_kinds;
            one[(*n_kinds)++] = (uint16_t)a;
        }
        kind[a] = slots[i];
    }
    free(slots);
    return VNP_OK;
}

/* may_follow with equal rows and columns kept once, which fits a cache: 158 KiB of 2 MiB. */
static vnp_status pack_rows(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    uint16_t row_kind[MAX_TOKENS], row[MAX_TOKENS], column[MAX_TOKENS];
    unsigned n_rows, n_columns;
    VNP_TRY(find_kinds(b->may_follow, t->n_tokens, b->row_words, row_kind, row, &n_rows));
    size_t n_turned = (n_rows + 63) / 64;
    uint64_t *turned = calloc(t->n_tokens * n_turned, 8);
    if (!turned) return no_memory();
    for (unsigned r = 0; r < n_rows; r++)
        for (unsigned z = 0; z < t->n_tokens; z++)
            put_bit(turned + z * n_turned, r, get_bit(b->may_follow + row[r] * b->row_words, z));
    vnp_status s = find_kinds(turned, t->n_tokens, n_turned, t->column, column, &n_columns);
    free(turned);
    VNP_TRY(s);
    size_t n_words = (n_columns + 63) / 64;
    t->follow = calloc((n_rows + 1) * n_words, 8);
    if (!t->follow) return no_memory();
    for (unsigned r = 0; r < n_rows; r++)
        for (unsigned c = 0; c < n_columns; c++)
            put_bit(t->follow + r * n_words, c,
                    get_bit(b->may_follow + row[r] * b->row_words, column[c]));
    for (unsigned a = 0; a < t->n_tokens; a++) t->row[a] = (uint32_t)(row_kind[a] * n_words);
    t->row[t->n_tokens] = (uint32_t)(n_rows * n_words);
    memset(t->follow + n_rows * n_words, 0xff, n_words * 8);
    return VNP_OK;
}

/* ---- the tree ------------------------------------------------------------------------------ */

/* The letters of a token, as classes, into out[len]. */
static void spell(const struct build *b, unsigned token, uint8_t *out) {
    while (token >= b->n_base) {
        spell(b, left_of(b, token), out);
        out += b->t->len[left_of(b, token)];
        token = right_of(b, token);
    }
    *out = (uint8_t)token;
}

/* Nodes come after their parents. A token's node has a `best` other than its parent's. */
static void grow_tree(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    uint8_t letters[MAX_LEN];
    t->n_nodes = 1;
    for (unsigned k = 0; k < t->n_tokens; k++) {
        unsigned node = 0;
        spell(b, k, letters);
        for (unsigned i = t->len[k]; i-- > 0;) {
            uint16_t *child = &t->child[node << t->class_bits | letters[i]];
            if (!*child) *child = (uint16_t)t->n_nodes++;
            node = *child;
        }
        t->best[node] = (uint16_t)k;
    }
    for (unsigned node = 0; node < t->n_nodes; node++)
        for (unsigned c = 0; c < b->n_base; c++) {
            unsigned child = vnp_path_child(t, node, c);
            if (!child) continue;
            if (t->best[child] == DEAD)
                t->best[child] = t->best[node];
            else
                t->shorter[t->best[child]] = t->best[node];
        }
}

static vnp_status make_tree(struct build *b, bool *is_small) {
    struct vnp_bpe_path *t = b->t;
    size_t n_nodes = 1;
    for (unsigned k = 0; k < t->n_tokens; k++) n_nodes += t->len[k];
    *is_small = n_nodes < DEAD;
    if (!*is_small) return VNP_OK;
    t->child = calloc(n_nodes << t->class_bits, sizeof *t->child);
    t->best = malloc(n_nodes * sizeof *t->best);
    if (!t->child || !t->best) return no_memory();
    memset(t->best, 0xff, n_nodes * sizeof *t->best);
    grow_tree(b);
    return VNP_OK;
}

/* ---- contexts ------------------------------------------------------------------------------ */

/* The tokens below a node, the node's own left out. */
static unsigned list_longer(struct build *b, unsigned node, uint16_t *out) {
    const struct vnp_bpe_path *t = b->t;
    unsigned n = 0, n_nodes = 0;
    b->nodes[n_nodes++] = (uint16_t)node;
    while (n_nodes) {
        node = b->nodes[--n_nodes];
        for (unsigned c = 0; c < b->n_base; c++) {
            unsigned child = vnp_path_child(t, node, c);
            if (!child) continue;
            b->nodes[n_nodes++] = (uint16_t)child;
            if (t->best[child] != t->best[node]) out[n++] = t->best[child];
        }
    }
    return n;
}

/* The number of a choice; a chain from the tree, number 0, when there are too many. */
static unsigned number_choice(struct build *b, const struct vnp_bpe_choice *x) {
    struct vnp_bpe_path *t = b->t;
    size_t i = vnp_hash(x, sizeof *x).lo % N_SLOTS;
    for (; b->slots[i] != DEAD; i = (i + 1) % N_SLOTS)
        if (memcmp(&t->choice[b->slots[i]], x, sizeof *x) == 0) return b->slots[i];
    if (t->n_choices == MAX_CHOICES) return 0;
    t->choice[t->n_choices] = *x;
    b->slots[i] = (uint16_t)t->n_choices++;
    return b->slots[i];
}

static uint16_t choose(struct build *b, const uint16_t *fits, unsigned n_fits, bool has_longer) {
    struct vnp_bpe_choice x;
    if (n_fits == 1 && !has_longer) return fits[0];
    memset(&x, 0, sizeof x); /* padding is compared as well */
    if (n_fits > 3 || has_longer) {
        x.is_chain = 1;
        x.token[0] = has_longer ? DEAD : fits[0];
    } else {
        x.token[2] = fits[n_fits - 1];
        for (unsigned i = 0; i < 2; i++) { /* of two, the first is tested twice */
            unsigned token = fits[n_fits == 3 ? i : 0], column = b->t->column[token];
            x.token[i] = (uint16_t)token;
            x.word[i] = (uint16_t)(column >> 6);
            x.up[i] = 63 - (column & 63);
            x.back[i] = (uint8_t)b->t->len[token];
        }
    }
    return (uint16_t)(VNP_PATH_OPEN | number_choice(b, &x));
}

static bool may_follow_some(const struct build *b, const uint16_t *before, unsigned n,
                            unsigned token) {
    for (unsigned i = 0; i < n; i++)
        if (get_bit(b->may_follow + before[i] * b->row_words, token)) return true;
    return false;
}

/* The first m letters of b->word, whose code is given, and all longer words that begin with them.
 */
static void visit(struct build *b, unsigned m, unsigned code) {
    struct vnp_bpe_path *t = b->t;
    uint16_t fits[VNP_PATH_MAX_CONTEXT], ends[VNP_PATH_MAX_CONTEXT];
    unsigned n_fits = 0, n_ends = 0, node = 0, i = 0, n = 0;
    for (unsigned next; i < m; i++, node = next) {
        if (!(next = vnp_path_child(t, node, b->word[m - 1 - i]))) break;
        if (t->best[next] != t->best[node]) ends[n_ends++] = t->best[next];
    }
    if (i == m) n = list_longer(b, node, b->possible[m]);
    bool has_longer = n > 0;
    b->whole[m] = DEAD;
    while (n_ends-- > 0) { /* longest first */
        unsigned token = ends[n_ends], left = m - t->len[token];
        if (b->whole[m] == DEAD &&
            (left == 0 || get_bit(b->may_follow + b->whole[left] * b->row_words, token)))
            b->whole[m] = (uint16_t)token;
        if (left > 0 && !may_follow_some(b, b->possible[left], b->n_possible[left], token))
            continue;
        b->possible[m][n++] = fits[n_fits++] = (uint16_t)token;
    }
    b->n_possible[m] = n;
    if (m == t->n_context) {
        t->last[code] = choose(b, fits, n_fits, has_longer);
        return;
    }
    if (m > 0) t->whole[1U << (m * t->class_bits) | code] = b->whole[m];
    for (unsigned c = 0; c < b->n_base; c++) {
        b->word[m] = (uint8_t)c;
        visit(b, m + 1, code << t->class_bits | c);
    }
}

static vnp_status make_contexts(struct build *b) {
    struct vnp_bpe_path *t = b->t;
    for (unsigned m = 0; m <= t->n_context; m++)
        if (!(b->possible[m] = malloc((t->n_tokens + VNP_PATH_MAX_CONTEXT) * sizeof(uint16_t))))
            return no_memory();
    b->slots = malloc(N_SLOTS * sizeof *b->slots);
    b->nodes = malloc(t->n_nodes * sizeof *b->nodes);
    t->choice = malloc(MAX_CHOICES * sizeof *t->choice);
    if (!b->slots || !b->nodes || !t->choice) return no_memory();
    memset(b->slots, 0xff, N_SLOTS * sizeof *b->slots);
    struct vnp_bpe_choice tree;
    memset(&tree, 0, sizeof tree);
    tree.token[0] = DEAD;
    tree.is_chain = 1;
    (void)number_choice(b, &tree);
    visit(b, 0, 0);
    struct vnp_bpe_choice *fit = realloc(t->choice, t->n_choices * sizeof *t->choice);
    if (fit) t->choice = fit;
    return VNP_OK;
}

/* ---- door ---------------------------------------------------------------------------------- */

static vnp_status make_tables(struct build *b, bool *is_fit) {
    *is_fit = false;
    if (!number_tokens(b)) return VNP_OK;
    VNP_TRY(make_tree(b, is_fit));
    if (*is_fit) VNP_TRY(fill_may_follow(b, is_fit));
    if (!*is_fit) return VNP_OK;
    VNP_TRY(pack_rows(b));
    return make_contexts(b);
}

vnp_status vnp_bpe_path_create(const struct vnp_bpe *bpe, struct vnp_bpe_path **out) {
    *out = NULL;
    if (!bpe->is_monotone) return VNP_OK;
    struct build b = {.bpe = bpe, .t = calloc(1, sizeof *b.t)};
    b.token_of_id = malloc(sizeof(uint16_t) * (VNP_BPE_MAX_ID + 2));
    bool is_fit = false;
    vnp_status s = b.t && b.token_of_id ? make_tables(&b, &is_fit) : no_memory();
    free(b.token_of_id);
    free(b.may_follow);
    for (unsigned m = 0; m < VNP_COUNT(b.possible); m++) free(b.possible[m]);
    free(b.slots);
    free(b.nodes);
    if (s == VNP_OK && is_fit)
        *out = b.t;
    else
        vnp_bpe_path_destroy(b.t);
    return s;
}

void vnp_bpe_path_destroy(struct vnp_bpe_path *t) {
    if (!t) return;
    free(t->follow);
    free(t->choice);
    free(t->child);
    free(t->best);
    free(t);
}
