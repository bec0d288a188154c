// CUDA C++ as far as the engine's kernels use it, for g++. Included before a program's text, which is then compiled inside an unnamed
// namespace: its static variables are its own.
#pragma once
#include <math.h>
#include <string.h>
#include <limits>
#include <utility>
#include "runtime.h"

#define KT_EMULATED 1
#define __host__
#define __device__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// Each worker loads its own copy of a program, so plain static variables are a block's; the section is poisoned before every block.
#define __shared__ static __attribute__((section("ktshared")))
#define __global__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (kt_view.thread)
#define blockIdx (kt_view.block)
#define blockDim (kt_view.block_size)
#define gridDim (kt_view.grid_size)
#define warpSize 32

#define KT_VECTOR2(type, name, bytes) \
    struct alignas(bytes) name {      \
        type x, y;                    \
    };                                \
    static inline name make_##name(type x, type y) { return {x, y}; }
#define KT_VECTOR3(type, name) \
    struct name {              \
        type x, y, z;          \
    };                         \
    static inline name make_##name(type x, type y, type z) { return {x, y, z}; }
#define KT_VECTOR4(type, name, bytes) \
    struct alignas(bytes) name {      \
        type x, y, z, w;              \
    };                                \
    static inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
KT_VECTOR2(float, float2, 8)
KT_VECTOR3(float, float3)
KT_VECTOR4(float, float4, 16)
KT_VECTOR2(int, int2, 8)
KT_VECTOR3(int, int3)
KT_VECTOR4(int, int4, 16)
KT_VECTOR2(unsigned int, uint2, 8)
KT_VECTOR4(unsigned int, uint4, 16)
KT_VECTOR2(short, short2, 4)
KT_VECTOR4(short, short4, 8)
KT_VECTOR2(unsigned short, ushort2, 4)
KT_VECTOR4(unsigned short, ushort4, 8)
KT_VECTOR2(char, char2, 2)
KT_VECTOR4(char, char4, 4)
KT_VECTOR2(unsigned char, uchar2, 2)
KT_VECTOR4(unsigned char, uchar4, 4)
KT_VECTOR2(long long, longlong2, 16)
KT_VECTOR2(unsigned long long, ulonglong2, 16)
KT_VECTOR2(double, double2, 16)
static inline uint3 make_uint3(unsigned int x, unsigned int y, unsigned int z) { return {x, y, z}; }
typedef uint3 dim3;

template <class To, class From>
static inline To kt_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline unsigned int __float_as_uint(float v) { return kt_bits<unsigned int>(v); }
static inline int __float_as_int(float v) { return kt_bits<int>(v); }
static inline float __uint_as_float(unsigned int v) { return kt_bits<float>(v); }
static inline float __int_as_float(int v) { return kt_bits<float>(v); }
static inline double __longlong_as_double(long long v) { return kt_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return kt_bits<long long>(v); }

// Conversions of the device saturate and give 0 for NaN, where C++ leaves them undefined.
template <class I>
static inline I kt_to_integer(double v) {
    return v != v                                       ? 0
           : v <= (double)std::numeric_limits<I>::min() ? std::numeric_limits<I>::min()
           : v >= (double)std::numeric_limits<I>::max() ? std::numeric_limits<I>::max()
                                                        : (I)v;
}
static inline int __float2int_rn(float v) { return kt_to_integer<int>(rint((double)v)); }
static inline int __float2int_rz(float v) { return kt_to_integer<int>(trunc((double)v)); }
static inline int __float2int_rd(float v) { return kt_to_integer<int>(floor((double)v)); }
static inline int __float2int_ru(float v) { return kt_to_integer<int>(ceil((double)v)); }
static inline unsigned int __float2uint_rn(float v) { return kt_to_integer<unsigned int>(rint((double)v)); }
static inline unsigned int __float2uint_rz(float v) { return kt_to_integer<unsigned int>(trunc((double)v)); }
static inline float __int2float_rn(int v) { return (float)v; }
static inline float __uint2float_rn(unsigned int v) { return (float)v; }

static inline float rsqrtf(float v) { return (float)(1 / sqrt((double)v)); }
static inline double rsqrt(double v) { return 1 / sqrt(v); }
// The C library has names of its own like these.
#define __expf(v) expf(v)
#define __exp2f(v) exp2f(v)
#define __logf(v) logf(v)
#define __log2f(v) log2f(v)
#define __sinf(v) sinf(v)
#define __cosf(v) cosf(v)
#define __powf(a, b) powf(a, b)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float v) { return 1 / v; }
static inline float __fsqrt_rn(float v) { return sqrtf(v); }
static inline float __frsqrt_rn(float v) { return rsqrtf(v); }
static inline float __saturatef(float v) { return v > 0 ? v < 1 ? v : 1 : 0; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Never contracted into a fused multiply-add, as on the device.
__attribute__((noinline)) static float __fmul_rn(float a, float b) { return a * b; }
__attribute__((noinline)) static float __fadd_rn(float a, float b) { return a + b; }
__attribute__((noinline)) static float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }

#define KT_MINMAX(type)                                              \
    static inline type min(type a, type b) { return b < a ? b : a; } \
    static inline type max(type a, type b) { return a < b ? b : a; }
KT_MINMAX(int)
KT_MINMAX(unsigned int)
KT_MINMAX(long)
KT_MINMAX(unsigned long)
KT_MINMAX(long long)
KT_MINMAX(unsigned long long)
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline unsigned int umin(unsigned int a, unsigned int b) { return min(a, b); }
static inline unsigned int umax(unsigned int a, unsigned int b) { return max(a, b); }

static inline int __popc(unsigned int v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned int)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned int __brev(unsigned int v) {
    unsigned int r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}
static inline unsigned int __byte_perm(unsigned int a, unsigned int b, unsigned int selector) {
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned int r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned int s = selector >> (4 * i) & 15, byte = bytes >> (8 * (s & 7)) & 255;
        r |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return r;
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b) { return (unsigned int)((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned int __funnelshift_l(unsigned int low, unsigned int high, unsigned int n) {
    return (unsigned int)((((unsigned long long)high << 32 | low) << (n & 31)) >> 32);
}
static inline unsigned int __funnelshift_r(unsigned int low, unsigned int high, unsigned int n) {
    return (unsigned int)(((unsigned long long)high << 32 | low) >> (n & 31));
}
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> (8 * i)) * (signed char)(b >> (8 * i));
    return c;
}

template <class V>
static inline V __ldg(const V* p) {
    return *p;
}
template <class V>
static inline V __ldcs(const V* p) {
    return *p;
}
template <class V>
static inline V __ldcg(const V* p) {
    return *p;
}
template <class V>
static inline void __stcs(V* p, V v) {
    *p = v;
}
template <class V>
static inline void __stcg(V* p, V v) {
    *p = v;
}
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }
#define __trap() kt_fail("__trap()")
#define __nanosleep(n) ((void)(n))
#define __assume(x) ((void)0)
#define assert(x) ((x) ? (void)0 : kt_fail("assert(" #x ")"))

// Blocks run on several threads of this machine, so these are atomic in earnest. As on the device they give the old value.
template <class V, class F>
static inline V kt_atomic(V* p, F change) {
    V old, wanted;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do wanted = change(old);
    while (!__atomic_compare_exchange(p, &old, &wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class V>
static inline V atomicAdd(V* p, decltype(V() + 0) v) {
    return kt_atomic(p, [v](V old) { return (V)(old + v); });
}
static inline float atomicAdd(float* p, float v) {
    return kt_atomic(p, [v](float old) { return old + v; });
}
static inline double atomicAdd(double* p, double v) {
    return kt_atomic(p, [v](double old) { return old + v; });
}
static inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
    return kt_atomic(p, [v](unsigned long long old) { return old + v; });
}
static inline unsigned int atomicAdd(unsigned int* p, unsigned int v) {
    return kt_atomic(p, [v](unsigned int old) { return old + v; });
}
static inline int atomicAdd(int* p, int v) {
    return kt_atomic(p, [v](int old) { return old + v; });
}
#define KT_ATOMICS(type)                                                         \
    static inline type atomicSub(type* p, type v) {                              \
        return kt_atomic(p, [v](type old) { return old - v; });                  \
    }                                                                            \
    static inline type atomicMax(type* p, type v) {                              \
        return kt_atomic(p, [v](type old) { return old < v ? v : old; });        \
    }                                                                            \
    static inline type atomicMin(type* p, type v) {                              \
        return kt_atomic(p, [v](type old) { return v < old ? v : old; });        \
    }                                                                            \
    static inline type atomicAnd(type* p, type v) {                              \
        return kt_atomic(p, [v](type old) { return old & v; });                  \
    }                                                                            \
    static inline type atomicOr(type* p, type v) {                               \
        return kt_atomic(p, [v](type old) { return old | v; });                  \
    }                                                                            \
    static inline type atomicXor(type* p, type v) {                              \
        return kt_atomic(p, [v](type old) { return old ^ v; });                  \
    }                                                                            \
    static inline type atomicExch(type* p, type v) {                             \
        return kt_atomic(p, [v](type) { return v; });                            \
    }                                                                            \
    static inline type atomicCAS(type* p, type compare, type v) {                \
        return kt_atomic(p, [=](type old) { return old == compare ? v : old; }); \
    }
KT_ATOMICS(int)
KT_ATOMICS(unsigned int)
KT_ATOMICS(unsigned long long)
static inline float atomicExch(float* p, float v) {
    return kt_atomic(p, [v](float) { return v; });
}
static inline unsigned int atomicInc(unsigned int* p, unsigned int limit) {
    return kt_atomic(p, [limit](unsigned int old) { return old >= limit ? 0 : old + 1; });
}
static inline unsigned int atomicDec(unsigned int* p, unsigned int limit) {
    return kt_atomic(p, [limit](unsigned int old) { return old == 0 || old > limit ? limit : old - 1; });
}

static inline void __syncthreads() { kt_barrier(0); }
static inline int __syncthreads_count(int predicate) { return kt_barrier(predicate != 0); }
static inline int __syncthreads_or(int predicate) { return kt_barrier(predicate != 0) != 0; }
static inline int __syncthreads_and(int predicate) { return kt_barrier(predicate == 0) == 0; }

#include "warp.h"

// What Prelude.cu leaves to an emulator; see there for the meaning.
#define DYNAMIC_SHARED(name) unsigned char* const name = kt_dynamic_shared()
static inline void copy_async(void* shared, const void* global, bool valid) { kt_copy_async(shared, global, valid); }
static inline void copy_async_commit() { kt_copy_commit(); }
template <int N>
static inline void copy_async_wait() {
    kt_copy_wait(N);
}
static inline void load_matrix_x4(unsigned int (&r)[4], const void* row) {
    KtLoadMatrixPayload p = {row, r};
    kt_collective(KtLoadMatrix, 0xffffffffu, &p, kt_complete_load_matrix);
}
static inline void load_matrix_x4_trans(unsigned int (&r)[4], const void* row) {
    KtLoadMatrixPayload p = {row, r};
    kt_collective(KtLoadMatrixTransposed, 0xffffffffu, &p, kt_complete_load_matrix_trans);
}
static inline void mma_bf16(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
    KtMmaPayload p = {c, a, {b0, b1}};
    kt_collective(KtMma, 0xffffffffu, &p, kt_complete_mma);
}
static inline unsigned int kt_round_bf16(float v) {
    unsigned int bits = __float_as_uint(v);
    return v != v ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;  // NaN is canonical, as cvt.rn.bf16x2 makes it
}
static inline unsigned int pack_bf16(float low, float high) { return kt_round_bf16(low) | kt_round_bf16(high) << 16; }
static inline float kt_low_half(unsigned int pair) { return __uint_as_float(pair << 16); }
static inline float kt_high_half(unsigned int pair) { return __uint_as_float(pair & 0xFFFF0000u); }
static inline unsigned int multiply_bf16x2(unsigned int a, unsigned int b) {
    return pack_bf16(kt_low_half(a) * kt_low_half(b), kt_high_half(a) * kt_high_half(b));
}
static inline unsigned int subtract_bf16x2(unsigned int a, unsigned int b) {
    return pack_bf16(kt_low_half(a) - kt_low_half(b), kt_high_half(a) - kt_high_half(b));
}

// Hopper's warpgroup products: see GroupedKernelsHopper.cu.
#define WARPGROUP_SHARED(name) DYNAMIC_SHARED(name)
static inline unsigned int shared_address(const void* p) { return kt_shared_address(p); }
template <int N>
static inline void warpgroup_multiply(float (&d)[N], unsigned long long a, unsigned long long b, bool b_by_k) {
    kt_warpgroup_multiply(d, N * 2, a, b, b_by_k);
}
static inline void warpgroup_begin() {}
static inline void warpgroup_commit() { kt_warpgroup_commit(); }
template <int N>
static inline void warpgroup_wait() {
    kt_warpgroup_wait(N);
}
static inline void copies_for_products() {}

// The list of a program's kernels.
template <class... A>
struct KtSizes {
    static constexpr unsigned int of[] = {(unsigned int)sizeof(A)..., 0};
};
template <class... A, size_t... I>
static inline void kt_call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}
template <class... A>
static inline void kt_call(void (*kernel)(A...), void** arguments) {
    kt_call(kernel, arguments, std::index_sequence_for<A...>());
}
template <class... A>
static constexpr KtEntry kt_entry(const char* name, void (*)(A...), void (*call)(void**), unsigned int max_threads = 1024, int = 0) {
    return {name, call, sizeof...(A), KtSizes<A...>::of, max_threads};
}
#define KT_ENTRY(kernel, ...) \
    kt_entry(                 \
        #kernel, kernel, [](void** p) { kt_call(kernel, p); }, ##__VA_ARGS__)
