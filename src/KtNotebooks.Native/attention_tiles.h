// Products of packed blocks on the GEMM's register tiles, as both attention kernels want them.
#pragma once
#include <algorithm>

#include "kernels.h"
#include "kt.h"
#include "scratch.h"

namespace kt {

constexpr int64_t QueryBlock = 192, KeyBlock = 128;

inline int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// A matrix packed whole, for repeated use against blocks.
struct Packed {
    Scratch memory;
    float* data = nullptr;

    // Panels of `width` of the n vectors of length k that m holds.
    void pack(const Kernels& kernels, const Matrix& m, int64_t n, int64_t k, int32_t width, float scale = 1) {
        data = memory.get<float>(round_up(n, width) * k);
        kernels.pack(data, 4, m, n, k, width, 1, k, scale, Whole);
    }
};

inline void one_tile(const Micro& micro, const Segment& segment, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate) {
    micro.tile(&segment, 1, c, ldc, rows, cols, accumulate);
}

// Half of a block on the diagonal is masked; `part(i)` says what of a panel that begins at row i is needed.
struct Part {
    int64_t begin, end;
};

// c [m, n] = a · b over k, both packed; of each panel only the columns up to part(i).end. ldc is a multiple of nr.
template <class PartOf>
inline void scores_of(const Micro& micro, const Packed& a, const Packed& b, int64_t m, int64_t k, float* c, int64_t ldc, PartOf&& part) {
    for (int64_t i = 0; i < m; i += micro.mr)
        for (int64_t j = 0, n = part(i).end; j < n; j += micro.nr)
            one_tile(micro, {k, a.data + i * k, b.data + j * k, 0}, c + i * ldc + j, ldc,
                     static_cast<int32_t>(std::min<int64_t>(micro.mr, m - i)), static_cast<int32_t>(std::min<int64_t>(micro.nr, n - j)),
                     false);
}

// c [m, n] (+)= a · b, both packed with length k; for each panel the sum goes over part(i) alone, as a is zero outside it.
template <class PartOf>
inline void add_product(const Micro& micro, const Packed& a, const Packed& b, int64_t m, int64_t n, int64_t k, float* c, int64_t ldc,
                        bool accumulate, PartOf&& part) {
    for (int64_t i = 0; i < m; i += micro.mr) {
        auto [begin, end] = part(i);
        if (begin >= end) continue;
        for (int64_t j = 0; j < n; j += micro.nr)
            one_tile(micro, {end - begin, a.data + i * k + begin * micro.mr, b.data + j * k + begin * micro.nr, 0}, c + i * ldc + j, ldc,
                     static_cast<int32_t>(std::min<int64_t>(micro.mr, m - i)), static_cast<int32_t>(std::min<int64_t>(micro.nr, n - j)),
                     accumulate);
    }
}

inline Matrix plain(const float* x, int64_t ld) { return {x, KT_F32, ld, 1}; }

}  // namespace kt
