#include "cpu.h"

#include <cpuid.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "error.h"

namespace kt {
namespace {

struct Features {
    bool avx2 = false, avx512 = false, avx512bf16 = false, avx512vbmi = false, amx = false, amx_int8 = false;
    int amx_refused = 0;  // the errno with which Linux refused AMX's registers (ENOSPC: a thread's signal stack is too small for them)
};

// The processor has a feature only when cpuid says so and the operating system saves its registers (xgetbv).
Features detect() {
    Features f;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
    bool fma = c & (1u << 12), f16c = c & (1u << 29), osxsave = c & (1u << 27), avx = c & (1u << 28);
    if (!osxsave || !avx) return f;
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    auto saves = [low](unsigned mask) { return (low & mask) == mask; };
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
    unsigned leaf7_b = b, leaf7_c = c, leaf7_d = d, leaf71_a = 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) leaf71_a = a;
    f.avx2 = fma && f16c && (leaf7_b & (1u << 5)) && saves(0x6);
    unsigned avx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
    f.avx512 = f.avx2 && (leaf7_b & avx512) == avx512 && saves(0xe6);
    f.avx512bf16 = f.avx512 && (leaf71_a & (1u << 5));
    f.avx512vbmi = f.avx512 && (leaf7_c & (1u << 1));
    unsigned amx = (1u << 22) | (1u << 24);  // BF16, TILE
    // Linux hands out the 8 KB of tile registers on request only, for the whole process, and before the threads that use them start.
    const int request = 0x1023 /* ARCH_REQ_XCOMP_PERM */, tile_data = 18;
    if (f.avx512bf16 && (leaf7_d & amx) == amx && saves(0x60000)) {
        f.amx = syscall(SYS_arch_prctl, request, tile_data) == 0;
        f.amx_refused = f.amx ? 0 : errno;
        f.amx_int8 = f.amx && (leaf7_d & (1u << 25));
    }
    return f;
}

struct Variants {
    std::vector<Kernels> all;       // best first
    std::vector<Kernels> emulated;  // for tests
    std::string names;
    int amx_refused;

    static Kernels with_int8(Kernels kernels, const char* name, const Micro& micro) {
        kernels.name = name;
        kernels.int8 = micro;
        kernels.int8_rows = int8_rows_avx512;
        return kernels;
    }

    Variants() {
        Features f = detect();
        amx_refused = f.amx_refused;
        if (f.avx512) {
            Kernels bf16 = kernels_avx512;
            bf16.name = "avx512bf16";
            bf16.bf16 = micro_avx512bf16;
            bf16.dots = dots_avx512bf16;
            bf16.dots_tiled = dots_tiled_avx512bf16;
            bf16.decode = decode_avx512bf16;
            bf16.store = store_avx512bf16;
            bf16.low_bit = low_bit_avx512bf16(f.avx512vbmi);
            Kernels amx = bf16;
            amx.name = "amx";
            amx.bf16 = micro_amx;
            if (f.amx) all.push_back(amx);
            if (f.amx_int8) all.push_back(with_int8(amx, "amx_int8", micro_amx_int8));
            if (f.avx512bf16) all.push_back(bf16);
            all.push_back(kernels_avx512);
        }
        if (f.avx2) {
            all.push_back(kernels_avx2);
            Kernels amx = all.front();
            amx.name = "amx-emulated";
            amx.bf16 = micro_amx_emulated;
            emulated.push_back(amx);
            if (f.avx512bf16) emulated.push_back(with_int8(amx, "amx_int8-emulated", micro_amx_int8_emulated));
        }
        for (const Kernels& k : all) names += (names.empty() ? "" : ",") + std::string(k.name);
    }
};

const Variants& table() {
    static const Variants v;
    return v;
}

std::atomic<const Kernels*> chosen{nullptr};

int read_int(const char* path, int fallback) {
    int value = fallback;
    if (FILE* file = std::fopen(path, "r")) {
        if (std::fscanf(file, "%d", &value) != 1) value = fallback;
        std::fclose(file);
    }
    return value;
}

// A container's CPU limit (control groups, version 2): quota and period in microseconds; 0 when there is none.
int granted_processors() {
    long long quota = 0, period = 0;
    if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
        if (std::fscanf(file, "%lld %lld", &quota, &period) != 2) quota = 0;
        std::fclose(file);
    }
    return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

}  // namespace

const std::string& variants() { return table().names; }

const Kernels& kernels() {
    const Kernels* k = chosen.load(std::memory_order_acquire);
    if (!k) {
        select(nullptr);
        k = chosen.load(std::memory_order_acquire);
    }
    return *k;
}

void select(const char* name) {
    const Variants& v = table();
    if (v.all.empty())
        throw Error(NotSupported, "this processor has no AVX2 with FMA; set KT_CPU=plain to compute without the native library");
    if (!name || !*name) {
        chosen.store(&v.all.front(), std::memory_order_release);
        return;
    }
    for (const auto* list : {&v.all, &v.emulated})
        for (const Kernels& k : *list)
            if (!std::strcmp(name, k.name)) {
                chosen.store(&k, std::memory_order_release);
                return;
            }
    if (!std::strcmp(name, "amx") && v.amx_refused)
        throw Error(NotSupported, "this processor has AMX, but Linux refused its registers to this process: %s",
                    std::strerror(v.amx_refused));
    throw Error(InvalidArgument, "CPU variant '%.40s' is not available here; available: %s", name, v.names.c_str());
}

std::vector<std::vector<int>> usable_cores() {
    std::vector<unsigned char> mask(8192 / 8);  // more processors than cpu_set_t has room for
    auto set = reinterpret_cast<cpu_set_t*>(mask.data());
    std::map<std::pair<int, int>, std::vector<int>> cores;
    if (sched_getaffinity(0, mask.size(), set) != 0) return {};
    for (int cpu = 0; cpu < 8192; cpu++)
        if (CPU_ISSET_S(cpu, mask.size(), set)) {
            char path[96];
            std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/physical_package_id", cpu);
            int package = read_int(path, 0);
            std::snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", cpu);
            cores[{package, read_int(path, cpu)}].push_back(cpu);
        }
    std::vector<std::vector<int>> result;
    for (auto& [core, processors] : cores) result.push_back(std::move(processors));
    return result;
}

int usable_processors() {
    const int cores = static_cast<int>(usable_cores().size()), count = cores > 0 ? cores : 1, granted = granted_processors();
    return granted > 0 && granted < count ? granted : count;
}

int64_t second_cache_bytes() {
    const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? bytes : 1 << 20;
}

void pin_thread(const std::vector<int>& processors) {
    if (processors.empty()) return;
    std::vector<unsigned char> mask(8192 / 8);
    auto set = reinterpret_cast<cpu_set_t*>(mask.data());
    for (int cpu : processors) CPU_SET_S(cpu, mask.size(), set);
    sched_setaffinity(0, mask.size(), set);  // refused: it runs anywhere, as before
}

}  // namespace kt
