// SPDX-License-Identifier: MIT
// How much a JSON text will take once parsed, before it is: a parser makes up to 130 bytes of an
// empty list, so that 100 MB of "[],[]," became 4 GB in 40 s.
#include "base/base.h"

enum { MAX_MARKS = 1 << 21 }; /* of 100,000 tensors at most half as many */

bool vnp_json_is_modest(const char *text, size_t n) {
    size_t n_marks = 0;
    bool is_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '"')
            is_string = !is_string;
        else if (is_string)
            i += c == '\\';
        else
            n_marks += c == ',' || c == '[' || c == '{';
    }
    return n_marks <= MAX_MARKS;
}
