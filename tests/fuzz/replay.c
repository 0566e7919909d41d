// SPDX-License-Identifier: MIT
// Replays a fuzz target over the files of a folder (not recursive) or over single files, so that a
// corpus is an ordinary test. Prints one TAP line per argument with the number of files run.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    struct stat st;
    if (fstat(fileno(f), &st) != 0) {
        fclose(f);
        return -1;
    }
    size_t n = (size_t)st.st_size;
    uint8_t *data = malloc(n ? n : 1);
    int bad = !data || fread(data, 1, n, f) != n;
    fclose(f);
    if (!bad) (void)LLVMFuzzerTestOneInput(data, n);
    free(data);
    return bad ? -1 : 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        long n = 0, n_bad = 0;
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            n = 1, n_bad = replay_file(argv[i]) != 0;
        } else {
            struct dirent *e;
            while ((e = readdir(dir))) {
                char path[4096];
                if (e->d_name[0] == '.') continue;
                snprintf(path, sizeof path, "%s/%s", argv[i], e->d_name);
                n++;
                n_bad += replay_file(path) != 0;
            }
            closedir(dir);
        }
        if (n == 0 || n_bad) failed = 1;
        printf("%s %d - replay %s: %ld inputs, %ld unreadable\n", n && !n_bad ? "ok" : "not ok", i,
               argv[i], n, n_bad);
    }
    return failed;
}
