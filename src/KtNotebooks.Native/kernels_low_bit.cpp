// A few rows against low-bit weights with AVX512-BF16: codes become BF16 numbers exactly, by tables in registers, and meet pairs of x in
// vdpbf16ps. What order a table's look-up leaves them in, x is put into beforehand.
//   4 bits  64 bytes are 128 codes. Word j holds codes 4j … 4j + 3: shifted by a nibble each time, a permutation of words looks one of them
//           up. So x is [i][j] = x[4j + i]. A group of 32 codes is 8 words, a quarter of the register: its scale goes there.
//   FP8     of 64 codes the upper and the lower bytes of their BF16 numbers are looked up (VBMI), the sign is put in, and both are zipped
//           within quarters: 16 q + 0 … 7 of each, then 16 q + 8 … 15.
// INT8 and, without VBMI, FP8 are AVX-512's.
#include "kernels.h"

#define KT_DEQUANTIZE
#include "formats.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int64_t Block = 128;  // codes that share a step; x is padded to it with zeros

KT_INLINE __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

constexpr int64_t Ahead = 2048;   // bytes: what is brought while this is multiplied
constexpr int64_t AheadRows = 8;  // their scales

KT_INLINE void put(float* to, float x, bool accumulate) { *to = accumulate ? *to + x : x; }

int64_t padded(int64_t k) { return (k + Block - 1) / Block * Block; }

// ---- rows ------------------------------------------------------------------------------------------------------------------

void ready_4_bits(const uint16_t* x, int64_t k, uint16_t* out) {
    for (int64_t b = 0; b < k; b += Block, out += Block) {
        alignas(64) uint16_t some[Block] = {};
        const uint16_t* from = x + b;
        if (k - b < Block) {
            std::memcpy(some, from, (k - b) * 2);
            from = some;
        }
        for (int q = 0; q < 4; q++) {
            const __m512i fours = _mm512_loadu_si512(from + 32 * q);
            for (int i = 0; i < 4; i++)
                _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 32 * i + 8 * q), _mm512_cvtepi64_epi16(_mm512_srli_epi64(fours, 16 * i)));
        }
    }
}

void ready_fp8(const uint16_t* x, int64_t k, uint16_t* out) {
    for (int64_t b = 0; b < padded(k); b += 64, out += 64)
        for (int64_t q = 0; q < 4; q++)
            for (int64_t half = 0; half < 2; half++) {
                const int64_t from = b + 16 * q + 8 * half, n = k - from < 0 ? 0 : k - from < 8 ? k - from : 8;
                uint16_t* to = out + 32 * half + 8 * q;
                std::memcpy(to, x + from, n * 2);
                std::memset(to + n, 0, (8 - n) * 2);
            }
}

// ---- 4 bits ----------------------------------------------------------------------------------------------------------------

// Scales of `groups` <= 4 groups, each in its quarter.
template <int Format>
KT_INLINE __m512 quarters(const char* scales, int64_t groups) {
    if constexpr (Format == KT_INT4) {
        uint64_t four = 0;
        if (groups == 4)
            std::memcpy(&four, scales, 8);
        else
            std::memcpy(&four, scales, groups * 2);
        const __m512i upper =
            _mm512_set_epi32(0x07068080, 0x07068080, 0x07068080, 0x07068080, 0x05048080, 0x05048080, 0x05048080, 0x05048080, 0x03028080,
                             0x03028080, 0x03028080, 0x03028080, 0x01008080, 0x01008080, 0x01008080, 0x01008080);
        return _mm512_castsi512_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(static_cast<int64_t>(four)), upper));
    } else {
        uint32_t four = 0;
        if (groups == 4)
            std::memcpy(&four, scales, 4);
        else
            std::memcpy(&four, scales, groups);
        const __m512i each =
            _mm512_set_epi32(0x80808003, 0x80808003, 0x80808003, 0x80808003, 0x80808002, 0x80808002, 0x80808002, 0x80808002, 0x80808001,
                             0x80808001, 0x80808001, 0x80808001, 0x80808000, 0x80808000, 0x80808000, 0x80808000);
        const __m512i s = _mm512_shuffle_epi8(_mm512_set1_epi32(static_cast<int>(four)), each);
        __m512i bits = _mm512_slli_epi32(s, 23);  // as from_e8m0
        bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(s, s), _mm512_set1_epi32(0x00400000));
        bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(s, _mm512_set1_epi32(255)), _mm512_set1_epi32(0x7fc00000));
        return _mm512_castsi512_ps(bits);
    }
}

// What the 16 codes mean, twice: an index has a fifth bit, the next nibble's.
template <int Format>
KT_INLINE __m512i meanings() {
    const __m512 values = Format == KT_INT4 ? _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
                                            : _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, 0, -.5f, -1, -1.5f, -2, -3, -4, -6);
    return _mm512_broadcast_i64x4((__m256i)_mm512_cvtneps_pbh(values));
}

// One stored row after the other, so that memory is read in one stream. Two or four beside each other, which share what is read of x, were
// no faster on a processor with AVX512-BF16 (Zen 4: 25 to 26 GB/s of codes against 25 to 28): look-ups and products are the limit.
template <int Format, int Rows>
void rows_4_bits(int64_t n, int64_t k, const uint16_t* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    constexpr int ScaleBytes = Format == KT_INT4 ? 2 : 1;
    const __m512i table = meanings<Format>();
    const int64_t width = w.stored.width;
    auto codes = static_cast<const uint8_t*>(w.data) + w.stored.row * width / 2;
    auto scales = static_cast<const char*>(w.stored.scales) + w.stored.row * (width / Group) * ScaleBytes;
    for (int64_t j = 0; j < n; j++, codes += width / 2, scales += width / Group * ScaleBytes) {
        __m512 sums[Rows];
        for (int i = 0; i < Rows; i++) sums[i] = _mm512_setzero_ps();
        const int64_t row_scales = width / Group * ScaleBytes;
        for (int64_t i = 0; i < row_scales; i += 64) _mm_prefetch(scales + AheadRows * row_scales + i, _MM_HINT_T0);
        auto step = [&](int64_t l, int64_t groups) __attribute__((always_inline)) {
            const uint8_t* at = codes + l / 2;
            _mm_prefetch(reinterpret_cast<const char*>(at + Ahead), _MM_HINT_T0);
            __m512i words = groups == 4 ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi32(first(4 * groups), at);
            __m512 group[Rows];
            for (int i = 0; i < Rows; i++) group[i] = _mm512_setzero_ps();
            for (int part = 0; part < 4; part++) {
                const __m512i values = _mm512_permutexvar_epi16(words, table);
                for (int i = 0; i < Rows; i++) group[i] = dot(group[i], _mm512_loadu_si512(x + i * ldx + l + 32 * part), values);
                words = _mm512_srli_epi16(words, 4);
            }
            const __m512 scale = quarters<Format>(scales + l / Group * ScaleBytes, groups);
            for (int i = 0; i < Rows; i++) sums[i] = _mm512_fmadd_ps(group[i], scale, sums[i]);
        };
        int64_t l = 0;
        for (; l + Block <= k; l += Block) step(l, 4);
        if (l < k) step(l, (k - l) / Group);
        for (int i = 0; i < Rows; i++) put(c + i * ldc + j, sum(sums[i]), accumulate);
    }
}

// ---- FP8 -------------------------------------------------------------------------------------------------------------------

// The BF16 numbers of the 128 codes without sign, their upper and lower bytes apart.
struct Fp8Table {
    alignas(64) uint8_t upper[128], lower[128];
    Fp8Table() {
        for (int code = 0; code < 128; code++) {
            const int e = code >> 3, m = code & 7;
            const float value = e == 0 ? m / 512.0f : (1 + m / 8.0f) * (e >= 7 ? static_cast<float>(1 << (e - 7)) : 1.0f / (1 << (7 - e)));
            const uint16_t bits = code == 127 ? 0x7fc0 : narrow(value);
            upper[code] = static_cast<uint8_t>(bits >> 8), lower[code] = static_cast<uint8_t>(bits);
        }
    }
};

template <int Rows>
__attribute__((target("avx512vbmi"))) void rows_fp8(int64_t n, int64_t k, const uint16_t* x, int64_t ldx, const Matrix& w, float* c,
                                                    int64_t ldc, bool accumulate) {
    static const Fp8Table table;
    const __m512i u0 = _mm512_load_si512(table.upper), u1 = _mm512_load_si512(table.upper + 64), sign = _mm512_set1_epi8(-128);
    const __m512i l0 = _mm512_load_si512(table.lower), l1 = _mm512_load_si512(table.lower + 64);
    const int64_t width = w.stored.width, blocks = (width + Fp8Block - 1) / Fp8Block;
    auto codes = static_cast<const uint8_t*>(w.data) + w.stored.row * width;
    for (int64_t j = 0; j < n; j++, codes += width) {
        const float* scales = static_cast<const float*>(w.stored.scales) + (w.stored.row + j) / Fp8Block * blocks;
        __m512 sums[Rows];
        for (int i = 0; i < Rows; i++) sums[i] = _mm512_setzero_ps();
        for (int64_t l = 0; l < k; l += Block) {
            __m512 run[Rows];
            for (int i = 0; i < Rows; i++) run[i] = _mm512_setzero_ps();
            for (int64_t at = l; at < l + Block; at += 64) {
                const int64_t left = k - at;
                _mm_prefetch(reinterpret_cast<const char*>(codes + at + Ahead), _MM_HINT_T0);
                const __m512i code = left >= 64 ? _mm512_loadu_si512(codes + at)
                                                : _mm512_maskz_loadu_epi8(left > 0 ? (uint64_t{1} << left) - 1 : 0, codes + at);
                __m512i upper = _mm512_permutex2var_epi8(u0, code, u1), lower = _mm512_permutex2var_epi8(l0, code, l1);
                upper = _mm512_ternarylogic_epi32(upper, code, sign, 0xf8);  // upper | (code & sign)
                const __m512i even = _mm512_unpacklo_epi8(lower, upper), odd = _mm512_unpackhi_epi8(lower, upper);
                for (int i = 0; i < Rows; i++) {
                    run[i] = dot(run[i], _mm512_loadu_si512(x + i * ldx + at), even);
                    run[i] = dot(run[i], _mm512_loadu_si512(x + i * ldx + at + 32), odd);
                }
            }
            const __m512 scale = _mm512_set1_ps(scales[l / Fp8Block]);
            for (int i = 0; i < Rows; i++) sums[i] = _mm512_fmadd_ps(run[i], scale, sums[i]);
        }
        for (int i = 0; i < Rows; i++) put(c + i * ldc + j, sum(sums[i]), accumulate);
    }
}

// ---- by format -------------------------------------------------------------------------------------------------------------

template <bool Vbmi>
constexpr bool is_own(int32_t format) {
    return format >= KT_INT4 || (Vbmi && format == KT_FP8);
}

template <bool Vbmi>
int64_t bytes(int32_t format, int64_t k) {
    return is_own<Vbmi>(format) ? padded(k) * 2 : kernels_avx512.low_bit.bytes(format, k);
}

template <bool Vbmi>
void ready(int32_t format, const uint16_t* x, int64_t k, void* out) {
    if (!is_own<Vbmi>(format)) return kernels_avx512.low_bit.ready(format, x, k, out);
    (format == KT_FP8 ? ready_fp8 : ready_4_bits)(x, k, static_cast<uint16_t*>(out));
}

template <bool Vbmi, int Rows>
void rows_of(int64_t n, int64_t k, const uint16_t* x, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto run = w.type == KT_INT4 ? rows_4_bits<KT_INT4, Rows> : w.type == KT_MXFP4 ? rows_4_bits<KT_MXFP4, Rows> : rows_fp8<Rows>;
    run(n, k, x, padded(k), w, c, ldc, accumulate);
}

template <bool Vbmi>
void dots(int64_t m, int64_t n, int64_t k, const void* x, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    if (!is_own<Vbmi>(w.type)) return kernels_avx512.low_bit.dots(m, n, k, x, w, c, ldc, accumulate);
    auto run = m == 1 ? rows_of<Vbmi, 1> : m == 2 ? rows_of<Vbmi, 2> : m == 3 ? rows_of<Vbmi, 3> : rows_of<Vbmi, 4>;
    run(n, k, static_cast<const uint16_t*>(x), w, c, ldc, accumulate);
}

}  // namespace

LowBitDots low_bit_avx512bf16(bool vbmi) {
    return vbmi ? LowBitDots{bytes<true>, ready<true>, dots<true>} : LowBitDots{bytes<false>, ready<false>, dots<false>};
}

}  // namespace kt
