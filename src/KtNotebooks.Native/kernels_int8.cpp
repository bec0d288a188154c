// Products of bytes: rows quantized as they come, INT8 weights as they are stored, sums in 32-bit integers, exact. With AVX-512; the
// register tile itself is AMX's (kernels_amx.cpp).
//   row x of BF16   codes round(x / s), s = max |x| / 127 ; with factors (the scales of turned weights, which are the sum's) of x · factors
//   A panel         64 codes of a row together, a row of a tile
//   B strip         [4 of k][16 columns][4]: four k of a column in one lane, every tile 1 KB in a piece
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int64_t Piece = 64;  // codes of a row of a tile

KT_INLINE F value_at(const uint16_t* x, const float* factors, int64_t j, int64_t n) {
    const F v = n >= W ? load(x + j) : load(x + j, n);
    return factors ? mul(v, n >= W ? load(factors + j) : load(factors + j, n)) : v;
}

float quantize(const uint16_t* x, const float* factors, int64_t k, int8_t* to, int64_t distance) {
    F most = zero();
    for (int64_t j = 0; j < k; j += W) most = max(most, _mm512_abs_ps(value_at(x, factors, j, k - j)));
    const float top = max(most), scale = top / 127, inverse = top > 0 ? 127 / top : 0;
    const int64_t padded = (k + Piece - 1) / Piece * Piece;
    for (int64_t j = 0; j < padded; j += W) {
        const int64_t n = k - j;
        const F codes = n > 0 ? mul(value_at(x, factors, j, n), set1(inverse)) : zero();
        auto at = reinterpret_cast<__m128i*>(to + j / Piece * distance + j % Piece);
        _mm_storeu_si128(at, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(codes)));
    }
    return scale;
}

KT_INLINE __m512i bytes_at(const uint8_t* p, int64_t n) {
    return n >= Piece ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8(n > 0 ? (uint64_t{1} << n) - 1 : 0, p);
}

// Columns of B are stored rows.
void strips_as_stored(char* to, const uint8_t* codes, int64_t width, int64_t columns, int64_t k) {
    for (int64_t s = 0; s < columns; s += TileRows)
        for (int64_t j = 0; j < k; j += Piece, to += Piece * TileRows) {
            F x[TileRows];
            for (int64_t i = 0; i < TileRows; i++) {
                const uint8_t* from = codes + (s + i) * width + j;
                _mm_prefetch(reinterpret_cast<const char*>(from + TileRows * width), _MM_HINT_T1);
                x[i] = s + i < columns ? _mm512_castsi512_ps(bytes_at(from, k - j)) : zero();
            }
            transpose(x);
            for (int64_t i = 0; i < TileRows; i++) _mm512_store_ps(to + i * 64, x[i]);
        }
}

// Stored rows are k: four of them are zipped.
void strips_turned(char* to, const uint8_t* codes, int64_t width, int64_t columns, int64_t k) {
    constexpr int64_t AheadRows = 16;
    const int64_t padded = (k + Piece - 1) / Piece * Piece, strip = padded * TileRows;
    for (int64_t l = 0; l < padded; l += 4, to += 64)
        for (int64_t s = 0; s < columns; s += TileRows) {
            const int64_t n = columns - s;
            __m128i row[4];
            for (int64_t i = 0; i < 4; i++) {
                const uint8_t* from = codes + (l + i) * width + s;
                if (s % 64 == 0) _mm_prefetch(reinterpret_cast<const char*>(from + AheadRows * width), _MM_HINT_T0);
                row[i] = l + i < k ? _mm_maskz_loadu_epi8(n >= TileRows ? 0xffff : first(n), from) : _mm_setzero_si128();
            }
            const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]), high01 = _mm_unpackhi_epi8(row[0], row[1]);
            const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]), high23 = _mm_unpackhi_epi8(row[2], row[3]);
            __m128i* out = reinterpret_cast<__m128i*>(to + s / TileRows * strip);
            _mm_store_si128(out, _mm_unpacklo_epi16(low01, low23)), _mm_store_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
            _mm_store_si128(out + 2, _mm_unpacklo_epi16(high01, high23)), _mm_store_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
        }
}

void strips(void* to, const Matrix& m, int64_t columns, int64_t k) {
    const uint8_t* codes = static_cast<const uint8_t*>(m.data) + m.stored.row * m.stored.width + m.stored.column;
    (m.stored.turned ? strips_turned : strips_as_stored)(static_cast<char*>(to), codes, m.stored.width, columns, k);
}

void add(const int32_t* sums, int64_t lds, int64_t m, int64_t n, const float* row_scales, const float* column_scales, float* c, int64_t ldc,
         bool accumulate) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j += W) {
            const int64_t w = n - j < W ? n - j : W;
            F x = mul(_mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(first(w), sums + i * lds + j)), set1(row_scales[i]));
            if (column_scales) x = mul(x, load(column_scales + j, w));
            float* to = c + i * ldc + j;
            store(to, accumulate ? add(load(to, w), x) : x, w);
        }
}

}  // namespace

extern const Int8Rows int8_rows_avx512 = {quantize, strips, add};

}  // namespace kt
