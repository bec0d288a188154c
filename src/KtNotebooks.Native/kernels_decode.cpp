// Low-bit weights as strips of BF16 with AVX512-BF16, in one step: what a register tile wants of its second factor, without a dense block
// between. 32 codes of a stored row become one register of BF16 numbers:
//   4 bits  the sixteen products code · scale of a group are rounded together; its 32 codes look them up
//   INT8, FP8  codes are widened to F32, multiplied, rounded in pairs of registers
// As stored, 16 rows are sixteen registers of pairs, whose transpose is a tile. Turned, two rows are zipped: pairs of k beside each other.
// Numbers are rounded as kernels.cpp's dequantize rounds them, but what is smaller than 2^-126 becomes zero, as BF16 instructions have it.
#include "kernels.h"

#define KT_DEQUANTIZE
#include "formats.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int64_t Codes32 = 32, AheadRows = 16;
template <int Format>
constexpr int64_t Step = Format >= KT_INT4 ? 16 : 32;  // bytes of 32 codes

KT_INLINE __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// A stored row: its codes, and its scales (fp8: those of its row of blocks).
struct CodeRow {
    const uint8_t* codes;
    const char* scales;
};

template <int Format>
struct Decoder {
    const uint8_t* codes;
    const char* scales;
    int64_t code_bytes, scale_bytes;  // of a stored row; fp8: of a row of blocks
    int64_t row, column;

    explicit Decoder(const Matrix& m) : row(m.stored.row), column(m.stored.column) {
        const int64_t width = m.stored.width;
        codes = static_cast<const uint8_t*>(m.data), scales = static_cast<const char*>(m.stored.scales);
        code_bytes = Format >= KT_INT4 ? width / 2 : width;
        scale_bytes = Format == KT_INT4    ? width / Group * 2
                      : Format == KT_MXFP4 ? width / Group
                      : Format == KT_INT8  ? 4
                                           : (width + Fp8Block - 1) / Fp8Block * 4;
    }
    CodeRow at(int64_t i) const {
        const int64_t r = row + i;
        return {codes + r * code_bytes + column / (Format >= KT_INT4 ? 2 : 1),
                scales + (Format == KT_FP8 ? r / Fp8Block : r) * scale_bytes};
    }
    // What the sixteen codes of 4 bits mean.
    static KT_INLINE __m512 values() {
        return Format == KT_INT4 ? _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
                                 : _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, 0, -.5f, -1, -1.5f, -2, -3, -4, -6);
    }
    // Of two neighbours read together, so that no shuffle is needed, unless the second might lie behind the last.
    KT_INLINE __m512 group_scale(const char* scales, int64_t group) const {
        if constexpr (Format == KT_MXFP4) return set1(from_e8m0(reinterpret_cast<const uint8_t*>(scales)[group]));
        int32_t both = 0;
        if (group % 2 == 0 && group * 2 + 2 == scale_bytes)
            std::memcpy(&both, scales + group * 2, 2);
        else
            std::memcpy(&both, scales + group / 2 * 4, 4);
        const __m512i each = _mm512_set1_epi32(both);
        const __m512 pairs = _mm512_castsi512_ps(each);
        return group % 2 ? upper_half(pairs) : lower_half(pairs);
    }
    // The codes [j, j + 32) of a row, of which n exist; j a multiple of 32.
    KT_INLINE __m512i decode(const CodeRow& r, int64_t j, int64_t n) const {
        if constexpr (Format >= KT_INT4) {
            const __m512 scale = group_scale(r.scales, (column + j) / Group);
            const __m256i products = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(values(), scale));
            const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(r.codes + j / 2)));
            // Of a byte's dword the low word gets the low nibble, the high word the high one: (bytes | shifted) & mask.
            const __m512i nibbles = _mm512_ternarylogic_epi32(bytes, _mm512_slli_epi32(bytes, 12), _mm512_set1_epi32(0x000f000f), 0xa8);
            return _mm512_permutexvar_epi16(nibbles, _mm512_castsi256_si512(products));
        } else {
            const __m256i bytes = n >= Codes32 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(r.codes + j))
                                               : _mm256_maskz_loadu_epi8((1u << n) - 1, r.codes + j);
            const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
            const float* scales_at = reinterpret_cast<const float*>(r.scales);
            const __m512 scale = set1(Format == KT_INT8 ? *scales_at : 256 * scales_at[(column + j) / Fp8Block]);
            return rounded(mul(widen_codes(low, Format == KT_FP8), scale), mul(widen_codes(high, Format == KT_FP8), scale));
        }
    }
};

// Columns of B are stored rows: a tile is 16 of them, 32 codes each.
template <int Format>
void strips_as_stored(char* to, const Matrix& b, int64_t columns, int64_t k) {
    const Decoder<Format> decoder(b);
    const int64_t padded = (k + TileUnit - 1) / TileUnit * TileUnit;
    for (int64_t s = 0; s < columns; s += TileRows) {
        const int64_t rows = columns - s < TileRows ? columns - s : TileRows;
        CodeRow at[TileRows];
        for (int64_t i = 0; i < TileRows; i++) at[i] = decoder.at(s + (i < rows ? i : 0));
        for (int64_t j = 0; j < padded; j += TileUnit, to += TileUnit * TileRows * 2) {
            if (const int64_t byte = j / Codes32 * Step<Format>; byte % 64 < Step<Format>)  // once a line
                for (int64_t i = 0; i < TileRows; i++)
                    _mm_prefetch(reinterpret_cast<const char*>(at[i].codes + TileRows * decoder.code_bytes + byte), _MM_HINT_T1);
            __m512 x[TileRows];
#pragma GCC unroll 16
            for (int i = 0; i < TileRows; i++) x[i] = _mm512_castsi512_ps(decoder.decode(at[i], j, k - j));
            if (rows < TileRows)
                for (int64_t i = rows; i < TileRows; i++) x[i] = zero();
            transpose(x);
#pragma GCC unroll 16
            for (int i = 0; i < TileRows; i++) _mm512_store_ps(to + i * 64, x[i]);
        }
    }
}

// Stored rows are k, their codes the columns of B.
template <int Format>
void strips_turned(char* to, const Matrix& b, int64_t columns, int64_t k) {
    const Decoder<Format> decoder(b);
    const int64_t padded = (k + TileUnit - 1) / TileUnit * TileUnit, strip = padded * TileRows * 2;
    const __m512i first_half = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), second_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int64_t l = 0; l < padded; l += 2, to += 64) {
        const CodeRow even = decoder.at(l < k ? l : 0), odd = decoder.at(l + 1 < k ? l + 1 : 0);
        for (int64_t j = 0; j < columns; j += Codes32) {
            const int64_t n = columns - j;
            if (const int64_t byte = j / Codes32 * Step<Format>; byte % 64 < Step<Format>) {
                _mm_prefetch(reinterpret_cast<const char*>(even.codes + AheadRows * decoder.code_bytes + byte), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(odd.codes + AheadRows * decoder.code_bytes + byte), _MM_HINT_T0);
            }
            const __m512i a = l < k ? decoder.decode(even, j, n) : _mm512_setzero_si512();
            const __m512i c = l + 1 < k ? decoder.decode(odd, j, n) : _mm512_setzero_si512();
            const __m512i low = _mm512_unpacklo_epi16(a, c), high = _mm512_unpackhi_epi16(a, c);
            char* at = to + j / TileRows * strip;
            _mm512_store_si512(at, _mm512_permutex2var_epi64(low, first_half, high));
            _mm512_store_si512(at + strip, _mm512_permutex2var_epi64(low, second_half, high));
        }
    }
}

template <int Format>
void strips_of(void* strips, const Matrix& b, int64_t columns, int64_t k) {
    (b.stored.turned ? strips_turned<Format> : strips_as_stored<Format>)(static_cast<char*>(strips), b, columns, k);
}

}  // namespace

void decode_avx512bf16(void* strips, const Matrix& b, int64_t columns, int64_t k) {
    auto run = b.type == KT_FP8    ? strips_of<KT_FP8>
               : b.type == KT_INT8 ? strips_of<KT_INT8>
               : b.type == KT_INT4 ? strips_of<KT_INT4>
                                   : strips_of<KT_MXFP4>;
    run(strips, b, columns, k);
}

}  // namespace kt
