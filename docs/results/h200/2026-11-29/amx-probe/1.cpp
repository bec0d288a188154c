// Run 1 of amx-probe.txt, as it was: a throw-away program, kept so that its figures can be had again. g++ -O3 -march=sapphirerapids -static -pthread 1.cpp && ./a.out, on a processor with AMX.
#include <immintrin.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>
#define IN inline __attribute__((always_inline))
using Clock = std::chrono::steady_clock;
static double now() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }
template <int T> IN void tz() { asm volatile("tilezero %%tmm%c0" ::"i"(T)); }
template <int T> IN void tl(const void* p, long s) { asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(s), "i"(T) : "memory"); }
template <int T> IN void tlt1(const void* p, long s) { asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(s), "i"(T) : "memory"); }
template <int T> IN void ts(void* p, long s) { asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(s), "i"(T) : "memory"); }
template <int C, int A, int B> IN void tm() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B)); }
struct alignas(64) Cfg { uint8_t p = 1, s = 0, r[14] = {}; uint16_t cb[16] = {64, 64, 64, 64, 64, 64, 64, 64}; uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16}; };
static void begin() { Cfg c; asm volatile("ldtilecfg %0" ::"m"(c) : "memory"); }
static void fin() { asm volatile("tilerelease" ::: "memory"); }
static void pin(int cpu) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(cpu, &s); sched_setaffinity(0, sizeof s, &s); }
static void* huge(size_t n) { void* p = mmap(0, n + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); p = (void*)(((uintptr_t)p + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1)); madvise(p, n, MADV_HUGEPAGE); return p; }
static void fill(void* p, size_t n) { uint32_t r = 1; auto x = (uint16_t*)p; for (size_t i = 0; i < n / 2; i++) { r = r * 1664525 + 1013904223; x[i] = (uint16_t)(0x3f80 + (r >> 25) + (r >> 9 & 0x8000)); } }

struct Bar { std::atomic<int> n{0}, g{0}; int N; void wait() { int x = g; if (++n == N) { n = 0; g++; } else while (g == x) _mm_pause(); } };

// threads run body(t) for `secs`, returns ops/s of each thread
using Body = std::function<double(int)>;  // returns TDPs done
static std::vector<double> run(const std::vector<int>& cpus, double secs, const Body& body) {
    std::vector<double> r(cpus.size());
    Bar b; b.N = cpus.size();
    std::vector<std::thread> th;
    for (size_t t = 0; t < cpus.size(); t++) th.emplace_back([&, t] {
        pin(cpus[t]); begin(); body(t);
        b.wait();
        double s = now(), e, n = 0;
        do { n += body(t); e = now(); } while (e - s < secs);
        r[t] = n / (e - s);
        fin();
    });
    for (auto& x : th) x.join();
    return r;
}
static double sum(const std::vector<double>& v) { double s = 0; for (double x : v) s += x; return s; }
const double F = 2 * 8192 / 1e12;  // TFLOP of a TDP
alignas(64) static uint16_t nums[8][512];
static uint16_t zeros[8][512] __attribute__((aligned(64)));

template <int N> static double spin_n(const uint16_t (*d)[512], int rounds) {
    tl<6>(d[0], 64), tl<7>(d[1], 64);
    tz<0>(), tz<1>(), tz<2>(), tz<3>(), tz<4>(), tz<5>();
    for (int i = 0; i < rounds; i++) {
        tm<0, 6, 7>(); if (N > 1) tm<1, 6, 7>(); if (N > 2) tm<2, 6, 7>(); if (N > 3) tm<3, 6, 7>(); if (N > 4) tm<4, 6, 7>(); if (N > 5) tm<5, 6, 7>();
    }
    return (double)N * rounds;
}
static double spin4(int) {
    tl<4>(nums[0], 64), tl<5>(nums[1], 64), tl<6>(nums[2], 64), tl<7>(nums[3], 64);
    tz<0>(), tz<1>(), tz<2>(), tz<3>();
    for (int i = 0; i < 4000; i++) tm<0, 4, 6>(), tm<1, 4, 7>(), tm<2, 5, 6>(), tm<3, 5, 7>();
    return 16000;
}
static IN void pf(const char* p) { for (int i = 0; i < 16; i++) _mm_prefetch(p + i * 64, _MM_HINT_T0); }
static IN void pf2(const char* p, int n) { for (int i = 0; i < n; i++) _mm_prefetch(p + i * 64, _MM_HINT_T1); }

// 32 x 32 tile over k steps of 32. PA, PB: steps ahead of prefetch to L1 (0: none). Order 0: four loads then products; 1: spread.
template <int PA, int PB, int Order, bool T1A = false>
static IN void tile(const char* a, const char* b, long strip, int steps, float* c, long st, bool acc, const char* ahead, long second, int lines) {
    if (acc) tl<0>(c, st), tl<1>(c + 16, st), tl<2>((char*)c + 16 * st, st), tl<3>((char*)c + 16 * st + 64, st);
    else tz<0>(), tz<1>(), tz<2>(), tz<3>();
    for (; steps > 0; steps--, a += 2048, b += 1024) {
        auto la = [&](auto) {};
        (void)la;
        if (Order == 0) {
            if (T1A) tlt1<4>(a, 64), tlt1<5>(a + 1024, 64); else tl<4>(a, 64), tl<5>(a + 1024, 64);
            tl<6>(b, 64), tl<7>(b + strip, 64);
            tm<0, 4, 6>(); if (PA) pf(a + PA * 2048);
            tm<1, 4, 7>(); if (PB) pf(b + strip + PB * 1024);
            tm<2, 5, 6>(); if (PA) pf(a + PA * 2048 + 1024);
            tm<3, 5, 7>(); if (PB) pf(b + PB * 1024);
        } else {
            tl<6>(b, 64);
            tl<4>(a, 64); tm<0, 4, 6>(); if (PA) pf(a + PA * 2048);
            tl<5>(a + 1024, 64); tm<2, 5, 6>(); if (PA) pf(a + PA * 2048 + 1024);
            tl<7>(b + strip, 64); tm<1, 4, 7>(); if (PB) pf(b + strip + PB * 1024);
            tm<3, 5, 7>(); if (PB) pf(b + PB * 1024);
        }
        if (ahead) { pf2(ahead, lines); pf2(ahead + second, lines); ahead += 1024; }
    }
    ts<0>(c, st), ts<1>(c + 16, st), ts<2>((char*)c + 16 * st, st), ts<3>((char*)c + 16 * st + 64, st);
}
static char* weights; static size_t weights_bytes;
struct Mem { char* a; float* c; size_t at = 0; };
static Mem mem[64];
constexpr int K = 2048, N = 1408;
// One panel of 32 columns over `rows` rows; kb block of k. experts: fresh weights from memory; else the same panel again.
template <int PA, int PB, int Order, bool T1A = false>
static double panel(int t, int rows, int kb, bool fresh, bool bring) {
    Mem& m = mem[t];
    const long strip = K * 32;
    const int R = rows / 32;
    double n = 0;
    for (int p = 0; p < 4; p++) {
        const char* b = weights + (fresh ? m.at : (size_t)t * strip * 2);
        const char* next = nullptr;
        if (fresh) { m.at = (m.at + strip * 2) % weights_bytes; next = weights + m.at; }
        for (int k = 0; k < K; k += kb)
            for (int i = 0; i < R; i++) {
                int lo = i * 16 / R, hi = (i + 1) * 16 / R;
                // A: [k block][panel][k in block][32]
                const char* a = m.a + ((size_t)k * rows + (size_t)i * 32 * kb) * 2;
                tile<PA, PB, Order, T1A>(a, b + k * 32, strip, kb / 32, m.c + i * 32 * 48, 192, k > 0, bring && next ? next + k * 32 + lo * 64 : nullptr, strip, hi - lo);
            }
        n += (double)R * 4 * (K / 32);
    }
    return n;
}
static std::vector<int> all;
static void report(const char* what, const Body& body, const std::vector<int>& cpus) {
    std::vector<double> ratio, rate;
    for (int i = 0; i < 7; i++) {
        double s1 = sum(run(cpus, 0.012, spin4)), r = sum(run(cpus, 0.03, body)), s2 = sum(run(cpus, 0.012, spin4));
        ratio.push_back(r / ((s1 + s2) / 2)), rate.push_back(r * F);
    }
    std::sort(ratio.begin(), ratio.end()), std::sort(rate.begin(), rate.end());
    printf("%-66s %6.2f TF %5.1f %% (%.1f to %.1f)\n", what, rate[3], 100 * ratio[3], 100 * ratio[1], 100 * ratio[5]); fflush(stdout);
}
static double clock_of(int cpu) {  // GHz by a chain of additions
    double g = 0;
    std::thread([&] { pin(cpu); double s = now(); uint64_t x = 1; for (long i = 0; i < 30000000; i++) asm volatile("add $1,%0\nadd $1,%0\nadd $1,%0\nadd $1,%0" : "+r"(x)); g = 4 * 30000000 / (now() - s) / 1e9; }).join();
    return g;
}
int main(int argc, char** argv) {
    syscall(SYS_arch_prctl, 0x1023, 18);
    int P = argc > 1 ? atoi(argv[1]) : (int)std::thread::hardware_concurrency();
    for (int i = 0; i < P; i++) all.push_back(i);
    fill(nums, sizeof nums);
    weights_bytes = (size_t)2048 * 2 * N * 64; weights_bytes -= weights_bytes % (K * 64);
    weights = (char*)huge(weights_bytes + (1 << 20)); fill(weights, weights_bytes);
    for (int t = 0; t < P; t++) { mem[t].a = (char*)huge(4 << 20); fill(mem[t].a, 4 << 20); mem[t].c = (float*)huge(1 << 20); mem[t].at = (size_t)t * (weights_bytes / P / (K * 64)) * (K * 64); }
    printf("clock alone cpu0 %.2f GHz, cpu3 %.2f\n", clock_of(0), clock_of(3));
    auto alone = run({0}, 0.02, spin4);
    printf("alone %.3f TF\n", alone[0] * F);
    for (int j = 1; j < P; j++) { auto r = run({0, j}, 0.02, spin4); printf("  with %d: %.3f + %.3f\n", j, r[0] * F, r[1] * F); }
    for (int n : {1, 2, 4, 8, 16}) if (n <= P) { std::vector<int> c(all.begin(), all.begin() + n); printf("%d threads: numbers %.2f TF, zeros %.2f TF\n", n, sum(run(c, 0.05, spin4)) * F, sum(run(c, 0.05, [](int) { return spin_n<4>(zeros, 4000); })) * F); }
    for (int n : {1, 16}) if (n <= P) {
        std::vector<int> c(all.begin(), all.begin() + n);
        printf("%d threads, ns a product, 1..6 accumulators:", n);
        auto one = [&](Body b) { printf(" %.2f", n * 1e9 / sum(run(c, 0.03, b))); };
        one([](int) { return spin_n<1>(nums, 4000); }); one([](int) { return spin_n<2>(nums, 4000); }); one([](int) { return spin_n<3>(nums, 4000); });
        one([](int) { return spin_n<4>(nums, 4000); }); one([](int) { return spin_n<5>(nums, 4000); }); one([](int) { return spin_n<6>(nums, 4000); });
        printf("; zeros 4: "); one([](int) { return spin_n<4>(zeros, 4000); });
        printf("\n ns a tile load of 1 KB, ring of 1, 16, 32, 256, 768 KB, 4 MB:");
        for (size_t ring : {1, 16, 32, 256, 768, 4096}) one([ring](int t) { const char* p = mem[t].a; for (int q = 0; q < 4096; q += 4) { const char* x = p + (q % ring) * 1024; tl<4>(x, 64); tl<5>(p + ((q + 1) % ring) * 1024, 64); tl<6>(p + ((q + 2) % ring) * 1024, 64); tl<7>(p + ((q + 3) % ring) * 1024, 64); } return 4096.0; });
        printf("\n the same and a product each:");
        for (size_t ring : {4, 16, 32, 256, 768}) one([ring](int t) { const char* p = mem[t].a; for (int q = 0; q < 4096; q += 4) { tl<4>(p + (q % ring) * 1024, 64); tl<5>(p + ((q + 1) % ring) * 1024, 64); tl<6>(p + ((q + 2) % ring) * 1024, 64); tl<7>(p + ((q + 3) % ring) * 1024, 64); tm<0, 4, 6>(); tm<1, 4, 7>(); tm<2, 5, 6>(); tm<3, 5, 7>(); } return 4096.0; });
        printf("\n store ns: "); one([](int t) { for (int q = 0; q < 1024; q += 4) { ts<0>(mem[t].c + (q % 16) * 256, 64); ts<1>(mem[t].c + (q % 16 + 1) * 256, 64); ts<2>(mem[t].c + (q % 16 + 2) * 256, 64); ts<3>(mem[t].c + (q % 16 + 3) * 256, 64); } return 1024.0; });
        printf("\n"); fflush(stdout);
    }
    std::vector<int> even; for (int i = 0; i < P; i += 2) even.push_back(i);
    std::vector<int> half(all.begin(), all.begin() + P / 2);
    for (int rows : {64, 192}) {
        char s[200];
#define T(PA, PB, O, kb, fresh, bring, cpus) snprintf(s, 200, "%s rows %d kb %d pf %d %d order %d %s%s", #cpus, rows, kb, PA, PB, O, fresh ? "experts" : "one panel", bring ? " brought" : ""), report(s, [=](int t) { return panel<PA, PB, O>(t, rows, kb, fresh, bring); }, cpus)
        for (int kb : {2048, 1024, 512, 256, 128}) {
            T(2, 2, 0, kb, false, false, all);
            T(0, 0, 0, kb, false, false, all);
            T(2, 0, 0, kb, false, false, all);
            T(4, 0, 0, kb, false, false, all);
            T(2, 0, 1, kb, false, false, all);
        }
        for (int kb : {2048, 512, 256}) {
            T(2, 2, 0, kb, true, true, all);
            T(2, 0, 0, kb, true, true, all);
            T(4, 0, 0, kb, true, true, all);
            T(2, 2, 1, kb, true, true, all);
        }
        T(2, 2, 0, 2048, false, false, even); T(2, 0, 0, 256, false, false, even); T(2, 0, 0, 512, false, false, even); T(0, 0, 0, 512, false, false, even);
        T(2, 2, 0, 2048, false, false, half);
    }
}
