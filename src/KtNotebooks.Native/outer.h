// Sums of outer products, compiled once per instruction set for kernels.cpp. What it does stands in kernels.h.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int OuterRows = 8, OuterVectors = W / 8;  // of sums in registers: with AVX-512 a cache line of BF16
constexpr int64_t OuterAhead = 12;                  // rows are pages apart: the processor's own prefetching does not see what comes next

KT_INLINE F load_upto(const float* p, int64_t n) { return n >= W ? load(p) : n <= 0 ? zero() : load(p, n); }
KT_INLINE F load_upto(const uint16_t* p, int64_t n) { return n >= W ? load(p) : n <= 0 ? zero() : load(p, n); }

// sums [Rows, OuterVectors · W] over all rows of x, of which `columns` exist.
template <int Rows, class T>
void outer_block(const OuterRowsOf& x, const T* from, const float* factors, int64_t r, int64_t columns, float scale, float* sums) {
    F sum[Rows][OuterVectors];
#pragma GCC unroll 8
    for (int a = 0; a < Rows; a++)
        for (int v = 0; v < OuterVectors; v++) sum[a][v] = zero();
    for (int64_t i = 0; i < x.count; i++, factors += r) {
        const T* row = from + x.at(i) * x.distance;
        if (i + OuterAhead < x.count) _mm_prefetch(reinterpret_cast<const char*>(from + x.at(i + OuterAhead) * x.distance), _MM_HINT_T0);
        F values[OuterVectors];
        for (int v = 0; v < OuterVectors; v++) values[v] = load_upto(row + v * W, columns - v * W);
#pragma GCC unroll 8
        for (int a = 0; a < Rows; a++)
            for (int v = 0; v < OuterVectors; v++) sum[a][v] = fma(set1(factors[a]), values[v], sum[a][v]);
    }
#pragma GCC unroll 8
    for (int a = 0; a < Rows; a++)
        for (int v = 0; v < OuterVectors; v++) store(sums + (a * OuterVectors + v) * W, mul(set1(scale), sum[a][v]));
}

template <int Rows, class T>
void outer_rows(const OuterRowsOf& x, const T* from, const float* factors, int64_t r, int64_t rows, int64_t columns, float scale,
                float* sums) {
    if constexpr (Rows > 1)
        if (rows < Rows) return outer_rows<Rows - 1, T>(x, from, factors, r, rows, columns, scale, sums);
    outer_block<Rows, T>(x, from, factors, r, columns, scale, sums);
}

template <class T>
void outer_of(const OuterRowsOf& x, const float* factors, int64_t r, int64_t first, int64_t columns, float scale, float* out,
              int64_t out_rows, int64_t out_columns) {
    constexpr int64_t Width = OuterVectors * W;
    float sums[OuterRows * Width];
    for (int64_t j = first; j < first + columns; j += Width)
        for (int64_t a = 0; a < r; a += OuterRows) {
            const int64_t rows = r - a < OuterRows ? r - a : OuterRows, n = first + columns - j < Width ? first + columns - j : Width;
            outer_rows<OuterRows, T>(x, static_cast<const T*>(x.data) + j, factors + a, r, rows, n, scale, sums);
            for (int64_t b = 0; b < rows; b++)
                for (int64_t c = 0; c < n; c++) out[(a + b) * out_rows + (j + c) * out_columns] = sums[b * Width + c];
        }
}

void outer(const OuterRowsOf& x, const float* factors, int64_t r, int64_t first, int64_t columns, float scale, float* out, int64_t out_rows,
           int64_t out_columns) {
    if (x.type == KT_BF16)
        outer_of<uint16_t>(x, factors, r, first, columns, scale, out, out_rows, out_columns);
    else
        outer_of<float>(x, factors, r, first, columns, scale, out, out_rows, out_columns);
}

}  // namespace
}  // namespace kt
