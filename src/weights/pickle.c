// SPDX-License-Identifier: MIT
// A pickle read as data. A small machine of the opcodes that torch.save writes (protocols 2 to 5)
// builds plain values; it imports nothing and calls nothing. The few "calls" that such files hold
// (tensors, parameters, OrderedDict, ...) are known by name and become values of their own; a call
// of any other global is an error that names it, an instance of any other class is an opaque
// object with its state. Opcodes: CPython Lib/pickletools.py. Bounded: bytes, values, memo, depth
// of marks; all values live in one list of blocks and are freed together.
#include "weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PICKLE_MAX_BYTES = 32 << 20,
    PICKLE_MAX_VALUES = 1 << 21,
    PICKLE_MAX_ITEMS = 1 << 23, /* of all containers together: copies cannot multiply */
    PICKLE_MAX_STACK = 1 << 20,
    BLOCK_VALUES = 1024
};

typedef struct vnp_pickle_value value;

struct block {
    struct block *next;
    value values[BLOCK_VALUES];
};

struct vnp_pickle {
    const char *file;
    const uint8_t *data;
    size_t n, at;
    size_t op_at; /* of the opcode in work, for messages */
    struct block *blocks;
    int n_in_block;
    int64_t n_values, n_items;
    value **stack;
    size_t n_stack, cap_stack;
    value **memo;
    size_t cap_memo;
    size_t n_memo; /* of MEMOIZE: one past the last */
    value mark;
};

static vnp_status bad(const struct vnp_pickle *p, const char *what) {
    return vnp_bad(VNP_FORMAT, p->file, -1, NULL, "the pickle is damaged at its byte %zu: %s",
                   p->op_at, what);
}
static vnp_status no_memory(void) {
    return vnp_fail(VNP_NOMEM, VNP_FROM_MODEL, "no memory for a pickle");
}

static vnp_status new_value(struct vnp_pickle *p, enum vnp_pickle_kind kind, value **out) {
    if (p->n_values++ >= PICKLE_MAX_VALUES)
        return vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL, "the pickle holds more than %d values",
                       PICKLE_MAX_VALUES);
    if (!p->blocks || p->n_in_block == BLOCK_VALUES) {
        struct block *b = calloc(1, sizeof *b);
        if (!b) return no_memory();
        b->next = p->blocks;
        p->blocks = b;
        p->n_in_block = 0;
    }
    *out = &p->blocks->values[p->n_in_block++];
    (*out)->kind = kind;
    return VNP_OK;
}

static bool has_items(const value *v) {
    return v->kind == VNP_PK_LIST || v->kind == VNP_PK_TUPLE || v->kind == VNP_PK_SET ||
           v->kind == VNP_PK_DICT;
}

static vnp_status add_items(struct vnp_pickle *p, value *v, value **items, size_t n) {
    if (n == 0) return VNP_OK;
    p->n_items += (int64_t)n;
    if (p->n_items > PICKLE_MAX_ITEMS)
        return vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL,
                       "the pickle's lists hold too many items");
    if (v->n + n > v->cap) {
        size_t cap = VNP_MAX((size_t)v->cap * 2, v->n + n);
        value **grown = realloc(v->items, cap * sizeof(value *));
        if (!grown) return no_memory();
        v->items = grown;
        v->cap = (uint32_t)cap;
    }
    memcpy(v->items + v->n, items, n * sizeof(value *));
    v->n += (uint32_t)n;
    return VNP_OK;
}

static vnp_status push(struct vnp_pickle *p, value *v) {
    if (p->n_stack == p->cap_stack) {
        size_t cap = p->cap_stack ? p->cap_stack * 2 : 256;
        if (cap > PICKLE_MAX_STACK) return bad(p, "the stack is too deep");
        value **grown = realloc(p->stack, cap * sizeof(value *));
        if (!grown) return no_memory();
        p->stack = grown;
        p->cap_stack = cap;
    }
    p->stack[p->n_stack++] = v;
    return VNP_OK;
}

static vnp_status push_new(struct vnp_pickle *p, enum vnp_pickle_kind kind, value **out) {
    VNP_TRY(new_value(p, kind, out));
    return push(p, *out);
}

static vnp_status pop(struct vnp_pickle *p, value **out) {
    if (p->n_stack == 0 || p->stack[p->n_stack - 1] == &p->mark)
        return bad(p, "a value is missing on the stack");
    *out = p->stack[--p->n_stack];
    return VNP_OK;
}

/* The items above the last mark; the mark goes too. The array stays valid until the next push. */
static vnp_status pop_mark(struct vnp_pickle *p, value ***items, size_t *n) {
    size_t at = p->n_stack;
    while (at > 0 && p->stack[at - 1] != &p->mark) at--;
    if (at == 0) return bad(p, "a mark is missing");
    *items = p->stack + at;
    *n = p->n_stack - at;
    p->n_stack = at - 1;
    return VNP_OK;
}

static vnp_status take(struct vnp_pickle *p, uint64_t n, const uint8_t **out) {
    if (n > p->n - p->at)
        return vnp_bad(VNP_TRUNCATED, p->file, -1, NULL,
                       "the pickle ends inside the value at its byte %zu", p->op_at);
    *out = p->data + p->at;
    p->at += (size_t)n;
    return VNP_OK;
}

static vnp_status take_uint(struct vnp_pickle *p, int n_bytes, uint64_t *out) {
    const uint8_t *b = NULL;
    VNP_TRY(take(p, (uint64_t)n_bytes, &b));
    *out = 0;
    for (int i = 0; i < n_bytes; i++) *out |= (uint64_t)b[i] << (8 * i);
    return VNP_OK;
}

static vnp_status take_line(struct vnp_pickle *p, const char **text, size_t *n) {
    const uint8_t *end = memchr(p->data + p->at, '\n', p->n - p->at);
    if (!end) return bad(p, "a line does not end");
    *text = (const char *)p->data + p->at;
    *n = (size_t)(end - p->data) - p->at;
    p->at += *n + 1;
    return VNP_OK;
}

static vnp_status push_text(struct vnp_pickle *p, enum vnp_pickle_kind kind, int n_length_bytes) {
    uint64_t n;
    const uint8_t *text = NULL;
    value *v = NULL;
    VNP_TRY(take_uint(p, n_length_bytes, &n));
    VNP_TRY(take(p, n, &text));
    VNP_TRY(push_new(p, kind, &v));
    v->text = (const char *)text;
    v->n = (uint32_t)n;
    return VNP_OK;
}

static vnp_status push_int(struct vnp_pickle *p, int64_t i) {
    value *v = NULL;
    VNP_TRY(push_new(p, VNP_PK_INT, &v));
    v->i = i;
    return VNP_OK;
}

/* LONG1, LONG4: little-endian two's complement of any length. */
static vnp_status push_long(struct vnp_pickle *p, int n_length_bytes) {
    uint64_t n, bits = 0;
    const uint8_t *b = NULL;
    value *v = NULL;
    VNP_TRY(take_uint(p, n_length_bytes, &n));
    VNP_TRY(take(p, n, &b));
    if (n > 8) return push_new(p, VNP_PK_BIG, &v);
    for (size_t i = 0; i < n; i++) bits |= (uint64_t)b[i] << (8 * i);
    if (n > 0 && n < 8 && (b[n - 1] & 0x80)) bits |= ~(uint64_t)0 << (8 * n);
    int64_t i;
    memcpy(&i, &bits, sizeof i);
    return push_int(p, i);
}

static vnp_status push_float(struct vnp_pickle *p) {
    const uint8_t *b = NULL;
    value *v = NULL;
    VNP_TRY(take(p, 8, &b));
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | b[i];
    VNP_TRY(push_new(p, VNP_PK_FLOAT, &v));
    memcpy(&v->f, &bits, sizeof bits);
    return VNP_OK;
}

static vnp_status push_global(struct vnp_pickle *p, const char *module, size_t n_module,
                              const char *name, size_t n_name) {
    value *v = NULL;
    if (n_module > 512 || n_name > 512) return bad(p, "a global's name is too long");
    VNP_TRY(push_new(p, VNP_PK_GLOBAL, &v));
    char *text = malloc(n_module + n_name + 2);
    if (!text) {
        v->kind = VNP_PK_NONE;
        return no_memory();
    }
    memcpy(text, module, n_module);
    text[n_module] = ' ';
    memcpy(text + n_module + 1, name, n_name);
    text[n_module + 1 + n_name] = 0;
    v->text = text;
    v->n = (uint32_t)(n_module + 1 + n_name);
    return VNP_OK;
}

static vnp_status memo_put(struct vnp_pickle *p, uint64_t i) {
    if (p->n_stack == 0 || p->stack[p->n_stack - 1] == &p->mark)
        return bad(p, "nothing to remember");
    if (i >= PICKLE_MAX_VALUES) return bad(p, "a memo number is too large");
    if (i >= p->cap_memo) {
        size_t cap = VNP_MAX((size_t)i + 1, p->cap_memo * 2 + 64);
        value **grown = realloc(p->memo, cap * sizeof(value *));
        if (!grown) return no_memory();
        memset(grown + p->cap_memo, 0, (cap - p->cap_memo) * sizeof(value *));
        p->memo = grown;
        p->cap_memo = cap;
    }
    p->memo[i] = p->stack[p->n_stack - 1];
    p->n_memo = VNP_MAX(p->n_memo, (size_t)i + 1);
    return VNP_OK;
}

static vnp_status memo_get(struct vnp_pickle *p, uint64_t i) {
    if (i >= p->cap_memo || !p->memo[i]) return bad(p, "a memo number was never set");
    return push(p, p->memo[i]);
}

static bool is_global(const value *v, const char *const *names) {
    if (v->kind != VNP_PK_GLOBAL) return false;
    for (; *names; names++)
        if (strcmp(v->text, *names) == 0) return true;
    return false;
}

static const char *const ordered_dicts[] = {"collections OrderedDict", "builtins dict",
                                            "__builtin__ dict", NULL};
static const char *const sets[] = {"__builtin__ set", "builtins set", "__builtin__ frozenset",
                                   "builtins frozenset", NULL};
static const char *const lists[] = {"torch Size",     "builtins list",     "__builtin__ list",
                                    "builtins tuple", "__builtin__ tuple", NULL};
static const char *const tensors[] = {"torch._utils _rebuild_tensor_v2",
                                      "torch._utils _rebuild_tensor", NULL};
static const char *const parameters[] = {"torch._utils _rebuild_parameter",
                                         "torch._utils _rebuild_parameter_with_state",
                                         "torch.nn.parameter Parameter", NULL};
static const char *const reconstructors[] = {"copy_reg _reconstructor", "copyreg _reconstructor",
                                             NULL};
static const char *const opaque[] = {
    "torch device",     "torch dtype",    "collections defaultdict",
    "builtins complex", "_codecs encode", NULL};

static vnp_status fail_call(const struct vnp_pickle *p, const value *f) {
    char name[1040];
    snprintf(name, sizeof name, "%s", f->kind == VNP_PK_GLOBAL ? f->text : "a value");
    for (char *c = name; *c; c++)
        if (*c == ' ') *c = '.';
    const char *what = NULL;
    if (strstr(name, "_rebuild_sparse") || strstr(name, "_get_layout"))
        what = "a sparse tensor";
    else if (strstr(name, "_rebuild_qtensor"))
        what = "a quantized tensor";
    else if (strstr(name, "_rebuild_nested"))
        what = "a nested tensor";
    else if (strstr(name, "_rebuild_meta"))
        what = "a tensor without data (meta)";
    else if (strstr(name, "_rebuild_"))
        what = "a special tensor";
    if (what)
        (void)vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL, "holds %s (%s)", what, name);
    else
        (void)vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL,
                      "its pickle wants to call %s; nothing in a model file is ever called", name);
    vnp_error_hint(what ? "save dense FP32, FP16 or BF16 tensors"
                        : "save the state_dict as safetensors where you trust the file");
    return VNP_UNSUPPORTED;
}

/* callable(*args) becomes a value when it is one of those that model files need. */
static vnp_status reduce(struct vnp_pickle *p) {
    value *args = NULL, *f = NULL, *v = NULL;
    VNP_TRY(pop(p, &args));
    VNP_TRY(pop(p, &f));
    if (args->kind != VNP_PK_TUPLE) return bad(p, "arguments are no tuple");
    if (is_global(f, tensors)) {
        VNP_TRY(push_new(p, VNP_PK_TENSOR, &v));
        v->a = args;
        return VNP_OK;
    }
    if (is_global(f, parameters)) {
        if (args->n < 1) return bad(p, "a parameter without its tensor");
        return push(p, args->items[0]);
    }
    if (is_global(f, ordered_dicts)) {
        VNP_TRY(push_new(p, VNP_PK_DICT, &v));
        /* protocol 0 style: a list of pairs */
        value *pairs = args->n == 1 ? args->items[0] : NULL;
        if (args->n > 1 || (pairs && pairs->kind != VNP_PK_LIST))
            return bad(p, "a dict is made of something else than pairs");
        for (uint32_t i = 0; pairs && i < pairs->n; i++) {
            value *pair = pairs->items[i];
            if (!has_items(pair) || pair->n != 2) return bad(p, "a pair is no pair");
            VNP_TRY(add_items(p, v, pair->items, 2));
        }
        return VNP_OK;
    }
    if (is_global(f, sets) || is_global(f, lists)) {
        VNP_TRY(push_new(p, is_global(f, sets) ? VNP_PK_SET : VNP_PK_TUPLE, &v));
        if (args->n == 0) return VNP_OK;
        if (!has_items(args->items[0])) return bad(p, "a list is made of something else");
        return add_items(p, v, args->items[0]->items, args->items[0]->n);
    }
    if (is_global(f, reconstructors)) {
        if (args->n < 1) return bad(p, "an object without a class");
        f = args->items[0];
    } else if (!is_global(f, opaque)) {
        return fail_call(p, f);
    }
    VNP_TRY(push_new(p, VNP_PK_OBJECT, &v));
    v->a = f;
    return VNP_OK;
}

/* cls.__new__(cls, *args): an opaque object; the known containers become themselves. */
static vnp_status new_object(struct vnp_pickle *p, bool has_kwargs) {
    value *args = NULL, *cls = NULL, *v = NULL;
    if (has_kwargs) VNP_TRY(pop(p, &v));
    VNP_TRY(pop(p, &args));
    VNP_TRY(pop(p, &cls));
    if (cls->kind != VNP_PK_GLOBAL) return bad(p, "a class is no global");
    if (is_global(cls, ordered_dicts)) return push_new(p, VNP_PK_DICT, &v);
    VNP_TRY(push_new(p, VNP_PK_OBJECT, &v));
    v->a = cls;
    return VNP_OK;
}

static vnp_status build(struct vnp_pickle *p) {
    value *state = NULL, *object = NULL;
    VNP_TRY(pop(p, &state));
    if (p->n_stack == 0 || p->stack[p->n_stack - 1] == &p->mark)
        return bad(p, "an object is missing");
    object = p->stack[p->n_stack - 1];
    if (object->kind == VNP_PK_DICT) return VNP_OK; /* attributes of an OrderedDict: _metadata */
    if (object->kind != VNP_PK_OBJECT) return bad(p, "a state for something that has none");
    /* (dict, slots): the dict counts */
    if (state->kind == VNP_PK_TUPLE && state->n == 2 && state->items[0]->kind == VNP_PK_DICT)
        state = state->items[0];
    object->b = state;
    return VNP_OK;
}

static vnp_status top_of_kind(struct vnp_pickle *p, enum vnp_pickle_kind kind, value **out) {
    if (p->n_stack == 0 || p->stack[p->n_stack - 1] == &p->mark ||
        (p->stack[p->n_stack - 1]->kind != kind &&
         !(kind == VNP_PK_DICT && p->stack[p->n_stack - 1]->kind == VNP_PK_OBJECT)))
        return bad(p, "items for something that holds none");
    *out = p->stack[p->n_stack - 1];
    return VNP_OK;
}

/* The n_fixed values on top of the stack, or (n_fixed < 0) all above the last mark. */
static vnp_status pop_items(struct vnp_pickle *p, int n_fixed, value ***items, size_t *n) {
    if (n_fixed < 0) return pop_mark(p, items, n);
    *n = (size_t)n_fixed;
    if (p->n_stack < *n) return bad(p, "items are missing");
    p->n_stack -= *n;
    *items = p->stack + p->n_stack;
    for (size_t i = 0; i < *n; i++)
        if ((*items)[i] == &p->mark) return bad(p, "items are missing");
    return VNP_OK;
}

/* APPENDS, ADDITEMS, SETITEMS and their kin: items above the container. */
static vnp_status fill(struct vnp_pickle *p, enum vnp_pickle_kind kind, int n_fixed) {
    value **items = NULL, *v = NULL;
    size_t n = 0;
    VNP_TRY(pop_items(p, n_fixed, &items, &n));
    if (kind == VNP_PK_DICT && n % 2) return bad(p, "a key without a value");
    VNP_TRY(top_of_kind(p, kind, &v));
    if (v->kind == VNP_PK_OBJECT) return VNP_OK; /* items of an opaque container */
    return add_items(p, v, items, n);
}

static vnp_status push_sequence(struct vnp_pickle *p, enum vnp_pickle_kind kind, int n_fixed) {
    value **items = NULL, *v = NULL;
    size_t n = 0;
    VNP_TRY(pop_items(p, n_fixed, &items, &n));
    if (kind == VNP_PK_DICT && n % 2) return bad(p, "a key without a value");
    VNP_TRY(new_value(p, kind, &v));
    VNP_TRY(add_items(p, v, items, n));
    return push(p, v);
}

static vnp_status stack_global(struct vnp_pickle *p) {
    value *name = NULL, *module = NULL;
    VNP_TRY(pop(p, &name));
    VNP_TRY(pop(p, &module));
    if (name->kind != VNP_PK_STR || module->kind != VNP_PK_STR)
        return bad(p, "a global's name is no text");
    return push_global(p, module->text, module->n, name->text, name->n);
}

static vnp_status persistent(struct vnp_pickle *p) {
    value *id = NULL, *v = NULL;
    VNP_TRY(pop(p, &id));
    VNP_TRY(push_new(p, VNP_PK_STORAGE, &v));
    v->a = id;
    return VNP_OK;
}

static vnp_status push_kind(struct vnp_pickle *p, enum vnp_pickle_kind kind) {
    value *v = NULL;
    return push_new(p, kind, &v);
}
static vnp_status push_bool(struct vnp_pickle *p, bool is_true) {
    value *v = NULL;
    VNP_TRY(push_new(p, VNP_PK_BOOL, &v));
    v->i = is_true;
    return VNP_OK;
}

/* Opcodes with an unsigned number behind them. */
static vnp_status step_number(struct vnp_pickle *p, uint8_t op) {
    static const struct {
        uint8_t op, n_bytes;
    } sizes[] = {{'K', 1}, {'M', 2}, {'J', 4}, {'q', 1}, {'r', 4}, {'h', 1}, {'j', 4}, {0x95, 8}};
    uint64_t n = 0;
    for (size_t i = 0; i < VNP_COUNT(sizes); i++)
        if (sizes[i].op == op) VNP_TRY(take_uint(p, sizes[i].n_bytes, &n));
    switch (op) {
    case 'J':
        return push_int(p, (int64_t)n - (n & 0x80000000u ? (int64_t)1 << 32 : 0));
    case 'K':
    case 'M':
        return push_int(p, (int64_t)n);
    case 'q':
    case 'r':
        return memo_put(p, n);
    case 'h':
    case 'j':
        return memo_get(p, n);
    default:
        return VNP_OK; /* FRAME: only a hint for readers of streams */
    }
}

static vnp_status step_rare(struct vnp_pickle *p, uint8_t op) {
    value *v = NULL, **items = NULL;
    size_t n;
    switch (op) {
    case '0':
        return pop(p, &v);
    case '1':
        return pop_mark(p, &items, &n);
    case '2':
        if (p->n_stack == 0 || p->stack[p->n_stack - 1] == &p->mark)
            return bad(p, "nothing to double");
        return push(p, p->stack[p->n_stack - 1]);
    case 'l':
        return push_sequence(p, VNP_PK_LIST, -1);
    case 'd':
        return push_sequence(p, VNP_PK_DICT, -1);
    case 0x8f:
        return push_kind(p, VNP_PK_SET);
    case 0x90:
        return fill(p, VNP_PK_SET, -1);
    case 0x91:
        return push_sequence(p, VNP_PK_SET, -1);
    case 0x92:
        return new_object(p, true);
    case 0x93:
        return stack_global(p);
    case 0x94:
        return memo_put(p, p->n_memo);
    default:
        return vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL,
                       "opcode 0x%02x at byte %zu of the pickle is none that model files need", op,
                       p->op_at);
    }
}

static vnp_status step(struct vnp_pickle *p, uint8_t op) {
    const char *module = NULL, *name = NULL;
    size_t n_module = 0, n_name = 0;
    switch (op) {
    case '(':
        return push(p, &p->mark);
    case 'N':
        return push_kind(p, VNP_PK_NONE);
    case 0x88:
        return push_bool(p, true);
    case 0x89:
        return push_bool(p, false);
    case 'K':
    case 'M':
    case 'J':
    case 'q':
    case 'r':
    case 'h':
    case 'j':
    case 0x95:
        return step_number(p, op);
    case 0x8a:
        return push_long(p, 1);
    case 0x8b:
        return push_long(p, 4);
    case 'G':
        return push_float(p);
    case 'X':
        return push_text(p, VNP_PK_STR, 4);
    case 0x8c:
        return push_text(p, VNP_PK_STR, 1);
    case 0x8d:
        return push_text(p, VNP_PK_STR, 8);
    case 'U':
        return push_text(p, VNP_PK_STR, 1); /* Python 2 */
    case 'T':
        return push_text(p, VNP_PK_STR, 4);
    case 'B':
        return push_text(p, VNP_PK_BYTES, 4);
    case 'C':
        return push_text(p, VNP_PK_BYTES, 1);
    case 0x8e:
        return push_text(p, VNP_PK_BYTES, 8);
    case ')':
        return push_kind(p, VNP_PK_TUPLE);
    case ']':
        return push_kind(p, VNP_PK_LIST);
    case '}':
        return push_kind(p, VNP_PK_DICT);
    case 't':
        return push_sequence(p, VNP_PK_TUPLE, -1);
    case 0x85:
        return push_sequence(p, VNP_PK_TUPLE, 1);
    case 0x86:
        return push_sequence(p, VNP_PK_TUPLE, 2);
    case 0x87:
        return push_sequence(p, VNP_PK_TUPLE, 3);
    case 'a':
        return fill(p, VNP_PK_LIST, 1);
    case 'e':
        return fill(p, VNP_PK_LIST, -1);
    case 's':
        return fill(p, VNP_PK_DICT, 2);
    case 'u':
        return fill(p, VNP_PK_DICT, -1);
    case 'c':
        VNP_TRY(take_line(p, &module, &n_module));
        VNP_TRY(take_line(p, &name, &n_name));
        return push_global(p, module, n_module, name, n_name);
    case 'Q':
        return persistent(p);
    case 'R':
        return reduce(p);
    case 0x81:
        return new_object(p, false);
    case 'b':
        return build(p);
    default:
        return step_rare(p, op);
    }
}

static vnp_status run(struct vnp_pickle *p, const value **root) {
    value *v = NULL;
    if (p->n < 2 || p->data[0] != 0x80) {
        p->op_at = 0;
        return bad(p, "it does not begin with a protocol number");
    }
    if (p->data[1] < 2 || p->data[1] > 5)
        return vnp_bad(VNP_UNSUPPORTED, p->file, -1, NULL, "pickle protocol %d (2 to 5 are read)",
                       p->data[1]);
    for (p->at = 2; p->at < p->n;) {
        p->op_at = p->at;
        uint8_t op = p->data[p->at++];
        if (op == '.') {
            VNP_TRY(pop(p, &v));
            if (p->n_stack) return bad(p, "values are left over at its end");
            *root = v;
            return VNP_OK;
        }
        VNP_TRY(step(p, op));
    }
    return vnp_bad(VNP_TRUNCATED, p->file, -1, NULL, "the pickle ends without its stop sign");
}

vnp_status vnp_pickle_parse(const uint8_t *data, size_t n, const char *file,
                            struct vnp_pickle **out, const struct vnp_pickle_value **root) {
    *out = NULL;
    if (n > PICKLE_MAX_BYTES)
        return vnp_bad(VNP_UNSUPPORTED, file, -1, NULL, "its pickle has %zu bytes (at most %d)", n,
                       PICKLE_MAX_BYTES);
    struct vnp_pickle *p = calloc(1, sizeof *p);
    if (!p) return no_memory();
    p->file = file;
    p->data = data;
    p->n = n;
    p->mark.kind = VNP_PK_MARK;
    vnp_status status = run(p, root);
    if (status != VNP_OK) {
        vnp_pickle_free(p);
        return status;
    }
    *out = p;
    return VNP_OK;
}

void vnp_pickle_free(struct vnp_pickle *p) {
    if (!p) return;
    int n = p->n_in_block;
    for (struct block *b = p->blocks, *next; b; b = next, n = BLOCK_VALUES) {
        next = b->next;
        for (int i = 0; i < n; i++) {
            value *v = &b->values[i];
            if (has_items(v))
                free(v->items);
            else if (v->kind == VNP_PK_GLOBAL)
                free((void *)(uintptr_t)v->text);
        }
        free(b);
    }
    free(p->stack);
    free(p->memo);
    free(p);
}

bool vnp_pickle_is_text(const struct vnp_pickle_value *v, const char *text) {
    return v && v->kind == VNP_PK_STR && v->n == strlen(text) && memcmp(v->text, text, v->n) == 0;
}

const struct vnp_pickle_value *vnp_pickle_get(const struct vnp_pickle_value *dict,
                                              const char *key) {
    if (!dict || dict->kind != VNP_PK_DICT) return NULL;
    for (uint32_t i = 0; i + 1 < dict->n; i += 2)
        if (vnp_pickle_is_text(dict->items[i], key)) return dict->items[i + 1];
    return NULL;
}
