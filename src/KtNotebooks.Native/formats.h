// The storage formats of weights: their numbers, and what the kernels know of each. One a C# class in Formats/, which has the definition.
//   KT_FP8   E4M3 [N,K] ; scales f32 [ceil(N/128), ceil(K/128)] (DeepSeek's weight_scale_inv)
//   KT_INT8  [N,K] ; scales f32 [N]
//   KT_INT4  [N,K/2] bytes, element 2j in the low nibble of byte j, stored as value + 8 ; scales bf16 [N,K/32] ; K a multiple of 32
//   KT_MXFP4 [N,K/2] bytes, E2M1, element 2j in the low nibble of byte j ; scales u8 [N,K/32], 2^(s − 127) ; K a multiple of 32
#if !defined(KT_FORMATS_H)
#define KT_FORMATS_H
#include <stdint.h>

enum { KT_F32 = 0, KT_BF16 = 1, KT_FP8 = 2, KT_INT8 = 3, KT_INT4 = 4, KT_MXFP4 = 5, KT_FORMATS };

// A flag beside a format: the matrix [N,K] lies in the kernels' tiles. N and K are padded with zeros to multiples of 32. A tile has 16 rows
// n and 32 columns k and is 1 KB: [16 pairs of k][16 n][2]. A strip is the tiles of 16 rows along K; strips follow each other. What a
// register tile wants of its second factor, so nothing is packed when it is multiplied; turned, it is transposed in registers.
enum { KT_TILED = 0x100 };

#if defined(__cplusplus)
namespace kt {
constexpr int64_t Fp8Block = 128, Group = 32;    // of codes that share a scale
constexpr int64_t TileRows = 16, TileUnit = 32;  // N and K of a tiled matrix are multiples of the last
// What K must be a multiple of: formats of two elements a byte have their scales by groups.
inline int64_t row_granule(int32_t type) { return type >= KT_INT4 ? Group : 1; }
}  // namespace kt
#endif
#endif

// Dequantization to BF16 or F32, compiled once per instruction set (kernels.cpp defines KT_DEQUANTIZE and includes this a second time).
// A value is code · scale in F32, rounded once where BF16 is wanted: the same bits as a checkpoint that was converted beforehand.
#if defined(KT_DEQUANTIZE)
#include "simd.h"

namespace kt {
namespace {

#if defined(__AVX512F__)

using Codes = __m128i;  // W bytes

KT_INLINE Codes load_codes(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
KT_INLINE Codes load_codes(const uint8_t* p, int64_t n) { return _mm_maskz_loadu_epi8(first(n), p); }
KT_INLINE F from_int8(Codes c) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(c)); }
// E4M3 shifted into a half, whose exponent is biased by 8 more: 2^-8 of the value, subnormals included. 0x7f and 0xff are NaN.
KT_INLINE F from_fp8(Codes c) {
    __m256i x = _mm256_cvtepu8_epi16(c), magnitude = _mm256_and_si256(x, _mm256_set1_epi16(0x7f));
    __m256i half = _mm256_or_si256(_mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), x), 8), _mm256_slli_epi16(magnitude, 7));
    __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    return _mm512_cvtph_ps(_mm256_or_si256(half, _mm256_maskz_set1_epi16(nan, 0x7e00)));
}

#else

using Codes = __m128i;  // the lower W = 8 bytes

KT_INLINE Codes load_codes(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }
KT_INLINE Codes load_codes(const uint8_t* p, int64_t n) {
    uint8_t part[8] = {};
    for (int64_t i = 0; i < n; i++) part[i] = p[i];
    return load_codes(part);
}
KT_INLINE F from_int8(Codes c) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(c)); }
KT_INLINE F from_fp8(Codes c) {
    __m128i x = _mm_cvtepu8_epi16(c), magnitude = _mm_and_si128(x, _mm_set1_epi16(0x7f));
    __m128i half = _mm_or_si128(_mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), x), 8), _mm_slli_epi16(magnitude, 7));
    __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    return _mm256_cvtph_ps(_mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7e00))));
}

#endif

KT_INLINE F widen_codes(Codes c, bool fp8) { return fp8 ? from_fp8(c) : from_int8(c); }

// n codes of one scale.
template <bool Fp8, class Out>
KT_INLINE void dequantize_run(const uint8_t* codes, int64_t n, float scale, Out* out) {
    F factor = set1(Fp8 ? scale * 256 : scale);
    int64_t j = 0;
    for (; j + W <= n; j += W) store(out + j, mul(widen_codes(load_codes(codes + j), Fp8), factor));
    if (j < n) store(out + j, mul(widen_codes(load_codes(codes + j, n - j), Fp8), factor), n - j);
}

// The 32 codes of a group, 16 bytes with the even elements in the low nibbles, in order as bytes: integers stored as value + 8, or E2M1,
// whose doubles are small integers.
template <bool E2m1>
KT_INLINE void group_codes(const uint8_t* codes, __m128i halves[2]) {
    __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)), mask = _mm_set1_epi8(15);
    __m128i even = _mm_and_si128(both, mask), odd = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
    const __m128i table = E2m1 ? _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
                               : _mm_setr_epi8(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    halves[0] = _mm_shuffle_epi8(table, _mm_unpacklo_epi8(even, odd)), halves[1] = _mm_shuffle_epi8(table, _mm_unpackhi_epi8(even, odd));
}
// Elements [i, i + W) of them.
KT_INLINE F group_part(const __m128i halves[2], int i) {
    return from_int8(W == 8 && i % 16 ? _mm_srli_si128(halves[i / 16], 8) : halves[i / 16]);
}

template <bool E2m1, class Out>
KT_INLINE void dequantize_group(const uint8_t* codes, float scale, Out* out) {
    __m128i halves[2];
    group_codes<E2m1>(codes, halves);
    F factor = set1(E2m1 ? scale / 2 : scale);
    for (int i = 0; i < Group; i += W) store(out + i, mul(group_part(halves, i), factor));
}

// E8M0: 2^(s - 127), the smallest of them a subnormal; 255 is NaN.
KT_INLINE float from_e8m0(uint8_t s) {
    uint32_t bits = s == 0 ? 0x00400000u : s == 255 ? 0x7fc00000u : static_cast<uint32_t>(s) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return scale;
}

template <class Out>
void dequantize_rows(const Matrix& m, int64_t rows, int64_t columns, Out* out) {
    const Stored& stored = m.stored;
    for (int64_t i = 0; i < rows; i++, out += columns) {
        const int64_t row = stored.row + i;
        const uint8_t* codes = static_cast<const uint8_t*>(m.data) + (row * stored.width + stored.column) / (m.type >= KT_INT4 ? 2 : 1);
        if (m.type == KT_FP8) {
            const float* scales = static_cast<const float*>(stored.scales) + row / Fp8Block * ((stored.width + Fp8Block - 1) / Fp8Block);
            for (int64_t j = 0; j < columns;) {
                int64_t at = stored.column + j, n = Fp8Block - at % Fp8Block;
                if (n > columns - j) n = columns - j;
                dequantize_run<true>(codes + j, n, scales[at / Fp8Block], out + j);
                j += n;
            }
        } else if (m.type == KT_INT8) {
            dequantize_run<false>(codes, columns, static_cast<const float*>(stored.scales)[row], out);
        } else {
            const int64_t at = (row * stored.width + stored.column) / Group;
            const uint16_t* bf16 = static_cast<const uint16_t*>(stored.scales) + at;
            const uint8_t* e8m0 = static_cast<const uint8_t*>(stored.scales) + at;
            for (int64_t j = 0; j < columns; j += Group)
                if (m.type == KT_INT4)
                    dequantize_group<false>(codes + j / 2, widen(bf16[j / Group]), out + j);
                else
                    dequantize_group<true>(codes + j / 2, from_e8m0(e8m0[j / Group]), out + j);
        }
    }
}

[[maybe_unused]] void dequantize(const Matrix& m, int64_t rows, int64_t columns, void* out, int32_t type) {
    if (type == 0)
        dequantize_rows(m, rows, columns, static_cast<float*>(out));
    else
        dequantize_rows(m, rows, columns, static_cast<uint16_t*>(out));
}

}  // namespace
}  // namespace kt
#endif
