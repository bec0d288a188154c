// Rows of BF16 between the projections of experts: compiled once per instruction set, for kernels.cpp. What each does stands in kernels.h.
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

}  // namespace
}  // namespace kt
