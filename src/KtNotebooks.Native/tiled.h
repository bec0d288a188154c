// Weights in tiles (formats.h: KT_TILED) beside the register tiles: a few rows against them, and their transpose in registers. Compiled
// once per instruction set, for kernels.cpp. What each does stands in kernels.h.
#pragma once
#include <cstring>

#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

// Strips are contiguous: several at once keep the adders busy and the streams of memory few.
template <int Rows, int Strips>
KT_INLINE void dots_strips(int64_t k, const uint16_t* x, int64_t ldx, const uint32_t* w, int64_t strip, float* c, int64_t ldc,
                           bool accumulate) {
    constexpr int V = TileRows / W;
    F sums[Rows][Strips * V];
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < Strips * V; j++) sums[i][j] = zero();
    for (int64_t l = 0; l < k; l += 2) {
        F even[Rows], odd[Rows];
        for (int i = 0; i < Rows; i++) even[i] = set1(widen(x[i * ldx + l])), odd[i] = set1(l + 1 < k ? widen(x[i * ldx + l + 1]) : 0);
        for (int j = 0; j < Strips * V; j++) {
            F pairs = load(reinterpret_cast<const float*>(w + j / V * strip + l / 2 * TileRows + j % V * W));
            for (int i = 0; i < Rows; i++) sums[i][j] = fma(even[i], lower_half(pairs), fma(odd[i], upper_half(pairs), sums[i][j]));
        }
    }
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < Strips * V; j++) {
            float* to = c + i * ldc + j * W;
            store(to, accumulate ? add(load(to), sums[i][j]) : sums[i][j]);
        }
}

template <int Rows>
void dots_tiled_rows(int64_t strips, int64_t k, const uint16_t* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto at = reinterpret_cast<const uint32_t*>(w.strip());
    const int64_t strip = w.strip_bytes() / 4;
    int64_t s = 0;
    if constexpr (W == 16 && Rows <= 2)
        for (; s + 4 <= strips; s += 4) dots_strips<Rows, 4>(k, x, ldx, at + s * strip, strip, c + s * TileRows, ldc, accumulate);
    for (; s < strips; s++) dots_strips<Rows, 1>(k, x, ldx, at + s * strip, strip, c + s * TileRows, ldc, accumulate);
}

void dots_tiled(int64_t m, int64_t strips, int64_t k, const void* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto run = m == 1 ? dots_tiled_rows<1> : m == 2 ? dots_tiled_rows<2> : m == 3 ? dots_tiled_rows<3> : dots_tiled_rows<4>;
    run(strips, k, static_cast<const uint16_t*>(x), ldx, w, c, ldc, accumulate);
}

// ---- turned tiles ----------------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)

// Half a tile, 8 pairs of k by 16 n, becomes 8 pairs of n by 16 k. A 64-bit unit is two pairs of neighbours n: its inner 2 × 2 is turned by
// a byte shuffle, the 8 × 8 units as a whole by three rounds of moves between registers.
KT_INLINE void turn_half(const char* from, char* to) {
    const __m512i inner = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    __m512i x[8], t[8];
    for (int p = 0; p < 8; p++) x[p] = _mm512_shuffle_epi8(_mm512_loadu_si512(from + p * 64), inner);
    for (int p = 0; p < 8; p += 2) {
        t[p] = _mm512_unpacklo_epi64(x[p], x[p + 1]);
        t[p + 1] = _mm512_unpackhi_epi64(x[p], x[p + 1]);
    }
    // t[2g + b] holds units 2q + b of rows 2g, 2g + 1 in its quarter q.
    for (int b = 0; b < 2; b++) {
        __m512i even01 = _mm512_shuffle_i32x4(t[b], t[2 + b], 0x88), odd01 = _mm512_shuffle_i32x4(t[b], t[2 + b], 0xdd);
        __m512i even23 = _mm512_shuffle_i32x4(t[4 + b], t[6 + b], 0x88), odd23 = _mm512_shuffle_i32x4(t[4 + b], t[6 + b], 0xdd);
        x[b] = _mm512_shuffle_i32x4(even01, even23, 0x88);      // units b
        x[2 + b] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);    // 2 + b
        x[4 + b] = _mm512_shuffle_i32x4(even01, even23, 0xdd);  // 4 + b
        x[6 + b] = _mm512_shuffle_i32x4(odd01, odd23, 0xdd);    // 6 + b
    }
    for (int q = 0; q < 8; q++) _mm512_store_si512(to + q * 64, x[q]);
}

#else

KT_INLINE void turn_half(const char* from, char* to) {
    for (int p = 0; p < 8; p++)
        for (int n = 0; n < 16; n++)
            for (int b = 0; b < 2; b++) std::memcpy(to + n / 2 * 64 + (2 * p + b) * 4 + n % 2 * 2, from + p * 64 + n * 4 + b * 2, 2);
}

#endif

void turn(void* strips, const Matrix& tiles, int64_t columns, int64_t k) {
    constexpr int64_t AheadRows = 4 * TileRows;  // strips are pages apart: the processor's own prefetching does not see the next one
    const Stored& stored = tiles.stored;
    const int64_t padded = (k + TileUnit - 1) / TileUnit * TileUnit, strip = stored.width * TileRows * 2;
    for (int64_t n = 0; n < padded; n += TileRows) {
        auto from = static_cast<const char*>(tiles.data) + ((stored.row + n) / TileRows * stored.width + stored.column) * TileRows * 2;
        if (n + AheadRows < padded)
            for (int64_t line = 0; line < columns * TileRows * 2; line += 64)
                _mm_prefetch(from + AheadRows / TileRows * strip + line, _MM_HINT_T0);
        auto to = static_cast<char*>(strips) + n * TileRows * 2;
        for (int64_t j = 0; j < columns; j += TileRows) turn_half(from + j * TileRows * 2, to + j * padded * 2);
    }
}

}  // namespace
}  // namespace kt
