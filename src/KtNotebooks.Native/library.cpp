// The library itself: version, error text, choice of the variant and of the number of threads.
#include "check.h"
#include "cpu.h"
#include "gemm.h"
#include "pool.h"

namespace kt {
namespace {
thread_local char last_error[512] = "";
}

int32_t failed(const char* function, Status status, const char* text) noexcept {
    std::snprintf(last_error, sizeof last_error, "[%s] %s", function, text);
    return status;
}

}  // namespace kt

int32_t kt_abi_version(void) { return 9; }

const char* kt_last_error(void) { return kt::last_error; }

const char* kt_cpu_variants(void) {
    const char* names = "";
    kt::guarded("kt_cpu_variants", [&] { names = kt::variants().c_str(); });
    return names;
}

int32_t kt_init(const char* variant, int32_t threads) {
    return kt::guarded("kt_init", [&] {
        if (threads < 0 || threads > 4096) throw kt::Error(kt::InvalidArgument, "threads must be 0 (all) to 4096, but is %d", threads);
        kt::select(variant);
        kt::resize_pool(threads);
    });
}

const char* kt_cpu_variant(void) {
    const char* name = "";
    kt::guarded("kt_cpu_variant", [&] { name = kt::kernels().name; });
    return name;
}

void kt_set_row_invariant(int32_t on) { kt::set_row_invariant(on != 0); }

int32_t kt_threads(void) {
    int32_t n = 1;
    kt::guarded("kt_threads", [&] { n = kt::pool_threads(); });
    return n;
}

void* kt_begin(int64_t count, void (*task)(void* context, int64_t index), void* context) {
    void* job = nullptr;  // a pool whose threads cannot be started leaves all to the caller
    kt::guarded("kt_begin", [&] { job = kt::begin_job(count, task, context); });
    return job;
}

int64_t kt_next(void* job) { return kt::next_task(static_cast<kt::Job*>(job)); }

void kt_end(void* job) { kt::end_job(static_cast<kt::Job*>(job)); }
