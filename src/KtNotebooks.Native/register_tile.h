// The register tile of instruction sets that multiply vectors, and its ceiling: MR rows of A against NV vectors of B, whose sums stay in
// registers. Compiled once per instruction set. M says what one instruction multiplies:
//   M::rows, M::vectors           the whole tile
//   M::unit                       elements along k of an instruction (floats: 1; pairs of BF16: 2)
//   M::next                       from one step of B's strip to the next, in 32-bit lanes
//   M::strip(const Segment&)      between vectors of B, in lanes
//   M::add(sum, a, b)             sum + a · b
#pragma once
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

template <class M, int Rows, int Cols>
void tile_of(const Segment* segments, int32_t count, float* c, int64_t ldc, bool accumulate) {
    F sum[Rows][Cols];  // in registers: every loop over it is unrolled
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < Cols; j++) {
            sum[i][j] = zero();
            _mm_prefetch(reinterpret_cast<const char*>(c + i * ldc + j * W), _MM_HINT_T0);
        }
    for (; count > 0; count--, segments++) {
        const float *a = static_cast<const float*>(segments->a), *b = static_cast<const float*>(segments->b);
        const int64_t strip = M::strip(*segments);
        Ahead ahead = segments->ahead;
        for (int64_t k = segments->k / M::unit; k > 0; k -= TileUnit / M::unit) {
            if (ahead.at) {
                to_second_cache(ahead.at, ahead.lines);
                to_second_cache(ahead.at + ahead.second, ahead.lines);
                ahead.at += ahead.step;
            }
            for (int64_t step = k < TileUnit / M::unit ? k : TileUnit / M::unit; step > 0; step--, a += M::rows, b += M::next) {
                F vb[Cols];
                for (int j = 0; j < Cols; j++) vb[j] = load(b + j * strip);
#pragma GCC unroll 16
                for (int i = 0; i < Rows; i++) {
                    F va = set1(a[i]);
#pragma GCC unroll 2
                    for (int j = 0; j < Cols; j++) sum[i][j] = M::add(sum[i][j], va, vb[j]);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < Cols; j++) {
            float* to = c + i * ldc + j * W;
            store(to, accumulate ? add(load(to), sum[i][j]) : sum[i][j]);
        }
}

template <class M, int Rows>
void tile_rows(const Segment* segments, int32_t count, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate) {
    if (rows != Rows) {
        if constexpr (Rows > 1) return tile_rows<M, Rows - 1>(segments, count, c, ldc, rows, cols, accumulate);
    } else if (cols <= W) {
        tile_of<M, Rows, 1>(segments, count, c, ldc, accumulate);
    } else {
        tile_of<M, Rows, M::vectors>(segments, count, c, ldc, accumulate);
    }
}

// Micro::tile.
template <class M>
void tile(const Segment* segments, int32_t count, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate) {
    tile_rows<M, M::rows>(segments, count, c, ldc, rows, cols, accumulate);
}

// Micro::spin.
template <class M>
double spin(int64_t rounds) {
    constexpr int Sums = M::rows * M::vectors;
    F sum[Sums], a = set1(1.0078125f), b = set1(-1.0078125f);  // as pairs of BF16: 1.0078125 and 0
#pragma GCC unroll 32
    for (int j = 0; j < Sums; j++) {
        sum[j] = zero();
        asm volatile("" : "+v"(sum[j]));  // or the compiler, seeing that all sums are alike, would keep one
    }
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 32
        for (int j = 0; j < Sums; j++) sum[j] = M::add(sum[j], a, b);
        asm volatile("" : "+v"(a), "+v"(b));  // or the loop would be one sum
    }
#pragma GCC unroll 32
    for (int j = 0; j < Sums; j++) asm volatile("" : : "v"(sum[j]));
    return 2.0 * M::unit * rounds * Sums * W;
}

}  // namespace
}  // namespace kt
