// One vector of floats, 16 wide with AVX-512 and 8 with AVX2, so that a kernel is written once. Everything is in an anonymous namespace:
// each translation unit must keep its own copy, or the linker might hand AVX-512 code to a machine without it.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define KT_INLINE inline __attribute__((always_inline))

namespace kt {
namespace {

KT_INLINE float widen(uint16_t x) {
    uint32_t bits = static_cast<uint32_t>(x) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

KT_INLINE void to_second_cache(const char* p, int32_t lines) {
    for (int32_t i = 0; i < lines; i++) _mm_prefetch(p + i * 64, _MM_HINT_T1);
}

// Round to nearest, ties to even; a NaN stays one.
KT_INLINE uint16_t narrow(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if defined(__AVX512F__)

constexpr int W = 16;
using F = __m512;

KT_INLINE __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
KT_INLINE F zero() { return _mm512_setzero_ps(); }
KT_INLINE F set1(float x) { return _mm512_set1_ps(x); }
KT_INLINE F load(const float* p) { return _mm512_loadu_ps(p); }
KT_INLINE F load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
KT_INLINE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
KT_INLINE void store(float* p, F x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }
KT_INLINE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
KT_INLINE F add(F a, F b) { return _mm512_add_ps(a, b); }
KT_INLINE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
KT_INLINE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
KT_INLINE F div(F a, F b) { return _mm512_div_ps(a, b); }
KT_INLINE F max(F a, F b) { return _mm512_max_ps(a, b); }
KT_INLINE float sum(F x) { return _mm512_reduce_add_ps(x); }
KT_INLINE float max(F x) { return _mm512_reduce_max_ps(x); }
KT_INLINE F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KT_INLINE F exponent(F n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
KT_INLINE F zero_below(F test, float limit, F x) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, set1(limit), _CMP_GE_OQ), x); }

KT_INLINE F load(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
KT_INLINE F load(const uint16_t* p, int64_t n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p)), 16));
}
KT_INLINE __m256i narrow(F x) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
KT_INLINE void store(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
KT_INLINE void store(uint16_t* p, F x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }

// W pairs of BF16, of which the first `halves` numbers exist.
KT_INLINE F load_pairs(const uint16_t* p, int64_t halves) {
    if (halves >= 32) return _mm512_loadu_ps(p);
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16((1u << halves) - 1, p));
}
// Pairs (a[i], b[i]) of two BF16 vectors, n <= W long.
KT_INLINE F zip(const uint16_t* a, const uint16_t* b, int64_t n) {
    if (n == W && b) {
        __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a)));
        __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b)));
        return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), a));
    if (!b) return _mm512_castsi512_ps(low);
    __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), b));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// The first, the second number of each pair.
KT_INLINE F lower_half(F pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16)); }
KT_INLINE F upper_half(F pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

KT_INLINE void transpose(F* x) {
    F t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    auto low = [](F a, F b) { return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))); };
    auto high = [](F a, F b) { return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))); };
    for (int i = 0; i < 16; i += 4) {
        x[i] = low(t[i], t[i + 2]);
        x[i + 1] = high(t[i], t[i + 2]);
        x[i + 2] = low(t[i + 1], t[i + 3]);
        x[i + 3] = high(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {  // x[4g + i] holds column 4q + i of rows 4g … 4g + 3 in its quarter q
        F a = _mm512_shuffle_f32x4(x[i], x[4 + i], 0x88), b = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x88);
        F c = _mm512_shuffle_f32x4(x[i], x[4 + i], 0xdd), d = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, b, 0x88);
        t[8 + i] = _mm512_shuffle_f32x4(a, b, 0xdd);
        t[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
        t[12 + i] = _mm512_shuffle_f32x4(c, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) x[i] = t[i];
}

#elif defined(__AVX2__)

constexpr int W = 8;
using F = __m256;

KT_INLINE F zero() { return _mm256_setzero_ps(); }
KT_INLINE F set1(float x) { return _mm256_set1_ps(x); }
KT_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
KT_INLINE F load(const float* p, int64_t n) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane));
}
KT_INLINE void store(float* p, F x) { _mm256_storeu_ps(p, x); }
KT_INLINE void store(float* p, F x, int64_t n) {  // not maskstore: that is microcoded on AMD
    if (n >= 8) return store(p, x);
    __m128 part = _mm256_castps256_ps128(x);
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(x, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, part);
}
KT_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
KT_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
KT_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
KT_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
KT_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
KT_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
KT_INLINE float sum(F x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
KT_INLINE float max(F x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
KT_INLINE F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KT_INLINE F exponent(F n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
KT_INLINE F zero_below(F test, float limit, F x) { return _mm256_and_ps(_mm256_cmp_ps(test, set1(limit), _CMP_GE_OQ), x); }

KT_INLINE F load(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
KT_INLINE F load(const uint16_t* p, int64_t n) {
    alignas(16) uint16_t part[8] = {};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load(part);
}
KT_INLINE __m128i narrow(F x) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    rounded = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
KT_INLINE void store(uint16_t* p, F x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
KT_INLINE void store(uint16_t* p, F x, int64_t n) {
    alignas(16) uint16_t part[8];
    store(part, x);
    for (int64_t i = 0; i < n; i++) p[i] = part[i];
}

KT_INLINE F load_pairs(const uint16_t* p, int64_t halves) {
    if (halves >= 16) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    alignas(32) uint16_t part[16] = {};
    for (int64_t i = 0; i < halves; i++) part[i] = p[i];
    return _mm256_load_ps(reinterpret_cast<const float*>(part));
}
KT_INLINE F zip(const uint16_t* a, const uint16_t* b, int64_t n) {
    alignas(32) uint16_t part[16] = {};
    for (int64_t i = 0; i < n; i++) {
        part[2 * i] = a[i];
        part[2 * i + 1] = b ? b[i] : 0;
    }
    return _mm256_load_ps(reinterpret_cast<const float*>(part));
}

KT_INLINE F lower_half(F pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16)); }
KT_INLINE F upper_half(F pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(pairs), _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}

KT_INLINE void transpose(F* x) {
    F t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x20);
        t[4 + i] = _mm256_permute2f128_ps(x[i], x[4 + i], 0x31);
    }
    for (int i = 0; i < 8; i++) x[i] = t[i];
}

#endif

#if defined(__AVX2__)

// e^x for x <= 88, zero below -87.3; relative error below 2e-7. Cephes' polynomial on |r| <= ln 2 / 2.
KT_INLINE F exp(F x) {
    F n = round(mul(max(x, set1(-87.3f)), set1(1.44269504f)));
    F r = fma(n, set1(-0.693359375f), max(x, set1(-87.3f)));
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, mul(r, r), add(r, set1(1.0f)));
    return zero_below(x, -87.3f, mul(p, exponent(n)));
}

#endif

}  // namespace
}  // namespace kt
