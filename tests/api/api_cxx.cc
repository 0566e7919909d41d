// SPDX-License-Identifier: MIT
// The public header from C++: every init macro, every struct, and a call into the shared library.
#include <virnucpro/virnucpro.h>

#include <cstdio>
#include <cstring>

int main() {
    vnp_engine_options e = VNP_ENGINE_OPTIONS_INIT;
    vnp_embed_options m = VNP_EMBED_OPTIONS_INIT;
    vnp_job_options j = VNP_JOB_OPTIONS_INIT;
    vnp_convert_options c = VNP_CONVERT_OPTIONS_INIT;
    vnp_engine *engine = nullptr;
    vnp_job *job = nullptr;
    e.purpose = VNP_FOR_EMBED;
    e.model = "/no/such/model";
    vnp_error_detail d = {};
    d.size = sizeof d;
    bool is_ok = m.layer == -1 && j.layer == -1 && c.window_bp == 0 &&
                 std::strchr(vnp_version(), '.') != nullptr &&
                 vnp_engine_create(&e, &engine) != VNP_OK && engine == nullptr &&
                 vnp_last_error_get(&d) == VNP_OK && d.exit_code == 78 &&
                 vnp_job_create(engine, &j, &job) == VNP_INVAL && job == nullptr;
    std::printf("%sok 1 - the header from C++\n1..1\n", is_ok ? "" : "not ");
    return is_ok ? 0 : 1;
}
