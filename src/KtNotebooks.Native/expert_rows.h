// Rows of BF16 between the projections of experts, and rank-r updates of low-rank gradients: compiled once per instruction set, for
// kernels.cpp. What each does stands in kernels.h.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

KT_INLINE F sigmoid(F x) { return div(set1(1), add(set1(1), exp(sub(zero(), max(x, set1(-88)))))); }

// Calls body(j, width) for each vector of a row of n, the last one shorter.
template <class Body>
KT_INLINE void each_vector(int64_t n, Body&& body) {
    int64_t j = 0;
    for (; j + W <= n; j += W) body(j, W);
    if (j < n) body(j, n - j);
}
KT_INLINE F load_some(const uint16_t* p, int64_t n) { return n == W ? load(p) : load(p, n); }
KT_INLINE void store_some(uint16_t* p, F x, int64_t n) { n == W ? store(p, x) : store(p, x, n); }

void swiglu(const uint16_t* g, const uint16_t* u, uint16_t* h, int64_t n) {
    each_vector(
        n, [&](int64_t j, int64_t w) __attribute__((always_inline)) {
            F gate = load_some(g + j, w);
            store_some(h + j, mul(mul(gate, sigmoid(gate)), load_some(u + j, w)), w);
        });
}

float swiglu_grad(const uint16_t* dh, const uint16_t* g, const uint16_t* u, float weight, uint16_t* h, uint16_t* dg, uint16_t* du,
                  int64_t n) {
    F total = zero();
    each_vector(
        n, [&](int64_t j, int64_t w) __attribute__((always_inline)) {
            F gate = load_some(g + j, w), up = load_some(u + j, w), d = load_some(dh + j, w), s = sigmoid(gate), silu = mul(gate, s);
            F value = mul(silu, up);
            total = fma(d, value, total);
            d = mul(d, set1(weight));
            store_some(h + j, value, w);
            store_some(dg + j, mul(mul(d, up), fma(silu, sub(set1(1), s), s)), w);
            store_some(du + j, mul(d, silu), w);
        });
    return sum(total);
}

void add_row(float* to, const uint16_t* row, float weight, int64_t n) {
    F factor = set1(weight);
    int64_t j = 0;
    for (; j + W <= n; j += W) store(to + j, fma(factor, load(row + j), load(to + j)));
    if (j < n) store(to + j, fma(factor, load(row + j, n - j), load(to + j, n - j)), n - j);
}

// Ranks × 2 vectors of columns stay in registers over a block of rows that stays in the first cache.
template <int Ranks>
void add_outer_block(const float* q, int64_t r, int64_t rows, const uint16_t* const* x, int64_t j, int64_t w0, int64_t w1, float* out,
                     int64_t ldo) {
    F sums[Ranks][2];
    for (int a = 0; a < Ranks; a++) {
        sums[a][0] = load(out + a * ldo + j, w0);
        sums[a][1] = w1 ? load(out + a * ldo + j + W, w1) : zero();
    }
    for (int64_t i = 0; i < rows; i++) {
        F first = load_some(x[i] + j, w0), second = w1 ? load_some(x[i] + j + W, w1) : zero();
        for (int a = 0; a < Ranks; a++) {
            F factor = set1(q[i * r + a]);
            sums[a][0] = fma(factor, first, sums[a][0]);
            sums[a][1] = fma(factor, second, sums[a][1]);
        }
    }
    for (int a = 0; a < Ranks; a++) {
        store(out + a * ldo + j, sums[a][0], w0);
        if (w1) store(out + a * ldo + j + W, sums[a][1], w1);
    }
}

void add_outer(const float* q, int64_t r, int64_t rows, const uint16_t* const* x, int64_t n, float* out, int64_t ldo) {
    constexpr int Ranks = W == 16 ? 8 : 4;
    constexpr int64_t Block = 32;
    for (int64_t i = 0; i < rows; i += Block, q += Block * r, x += Block) {
        const int64_t some = rows - i < Block ? rows - i : Block;
        for (int64_t next = 0; next < Block && i + Block + next < rows; next++)  // rows lie anywhere: the processor foresees none of it
            for (int64_t j = 0; j < n; j += 32) _mm_prefetch(reinterpret_cast<const char*>(x[Block + next] + j), _MM_HINT_T0);
        for (int64_t j = 0; j < n; j += 2 * W) {
            const int64_t w0 = n - j < W ? n - j : W, w1 = n - j <= W ? 0 : n - j < 2 * W ? n - j - W : W;
            int64_t a = 0;
            for (; a + Ranks <= r; a += Ranks) add_outer_block<Ranks>(q + a, r, some, x, j, w0, w1, out + a * ldo, ldo);
            for (; a < r; a++) add_outer_block<1>(q + a, r, some, x, j, w0, w1, out + a * ldo, ldo);
        }
    }
}

}  // namespace
}  // namespace kt
