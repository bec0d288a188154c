// AVX512-BF16: vdpbf16ps multiplies 32 BF16 pairs and adds them to 16 floats. Panels hold pairs along k in one 32-bit lane.
#include "kernels.h"

#include "register_tile.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int MR = 12, NV = 2, NR = NV * W;

KT_INLINE F dot(F sum, F a, F b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

struct Pairs {
    static constexpr int rows = MR, vectors = NV, unit = 2, next = W;
    static KT_INLINE int64_t strip(const Segment& segment) { return segment.strip_bytes / 4; }
    static KT_INLINE F add(F sum, F a, F b) { return dot(sum, a, b); }
};

// One row of w after the other, so that memory is read in one stream; as many sums as the dot instruction's latency wants.
template <int Rows>
void dots_rows(int64_t n, int64_t k, const uint16_t* x, int64_t ldx, const uint16_t* w, int64_t ldw, float scale, float* c, int64_t ldc,
               bool accumulate) {
    constexpr int Chains = Rows <= 2 ? 4 / Rows : 1;
    constexpr int64_t Ahead = 1024;  // numbers: what is brought while this is multiplied
    for (int64_t j = 0; j < n; j++, w += ldw) {
        F sums[Rows][Chains];
        for (int i = 0; i < Rows; i++)
            for (int q = 0; q < Chains; q++) sums[i][q] = zero();
        auto step = [&](int64_t l, int q, int64_t halves) __attribute__((always_inline)) {
            _mm_prefetch(reinterpret_cast<const char*>(w + l + Ahead), _MM_HINT_T0);
            F vw = load_pairs(w + l, halves);
            for (int i = 0; i < Rows; i++) sums[i][q] = dot(sums[i][q], load_pairs(x + i * ldx + l, halves), vw);
        };
        int64_t l = 0;
        for (; l + 2 * W * Chains <= k; l += 2 * W * Chains)
#pragma GCC unroll 4
            for (int q = 0; q < Chains; q++) step(l + q * 2 * W, q, 2 * W);
        for (; l < k; l += 2 * W) step(l, 0, k - l < 2 * W ? k - l : 2 * W);
        for (int i = 0; i < Rows; i++) {
            for (int q = 1; q < Chains; q++) sums[i][0] = add(sums[i][0], sums[i][q]);
            float* to = c + i * ldc + j;
            float s = scale * sum(sums[i][0]);
            *to = accumulate ? *to + s : s;
        }
    }
}

}  // namespace

void dots_avx512bf16(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w,
                     int64_t ldw, float scale, float* c, int64_t ldc, bool accumulate) {
    if (type_x == 0 || type_w == 0) return kernels_avx512.dots(m, n, k, x, type_x, ldx, w, type_w, ldw, scale, c, ldc, accumulate);
    auto px = static_cast<const uint16_t*>(x), pw = static_cast<const uint16_t*>(w);
    if (m == 1) return dots_rows<1>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    if (m == 2) return dots_rows<2>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    if (m == 3) return dots_rows<3>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    dots_rows<4>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
}

namespace {

// As many sums as the dot instruction's latency wants: strips beside each other, or two halves of k.
template <int Rows, int Strips>
KT_INLINE void dots_strips(int64_t k, const uint16_t* x, int64_t ldx, const float* w, int64_t strip, float* c, int64_t ldc,
                           bool accumulate) {
    constexpr int64_t AheadPairs = 128 / Strips;  // lines: 8 KB of all strips
    F sums[2][Rows][Strips];
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < Rows; i++)
            for (int j = 0; j < Strips; j++) sums[h][i][j] = zero();
    auto step = [&](int64_t l, int h, bool pair) __attribute__((always_inline)) {
        F vx[Rows];
        for (int i = 0; i < Rows; i++) {
            uint32_t both = x[i * ldx + l];
            if (pair) std::memcpy(&both, x + i * ldx + l, 4);
            vx[i] = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(both)));
        }
        for (int j = 0; j < Strips; j++) {
            _mm_prefetch(reinterpret_cast<const char*>(w + j * strip + (l / 2 + AheadPairs) * TileRows), _MM_HINT_T0);
            F vw = load(w + j * strip + l / 2 * TileRows);
            for (int i = 0; i < Rows; i++) sums[h][i][j] = dot(sums[h][i][j], vx[i], vw);
        }
    };
    int64_t l = 0;
    for (; l + 4 <= k; l += 4) {
        step(l, 0, true);
        step(l + 2, 1, true);
    }
    for (; l < k; l += 2) step(l, 0, l + 1 < k);
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < Strips; j++) {
            float* to = c + i * ldc + j * W;
            F sum = add(sums[0][i][j], sums[1][i][j]);
            store(to, accumulate ? add(load(to), sum) : sum);
        }
}

template <int Rows>
void dots_tiled_rows(int64_t strips, int64_t k, const uint16_t* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto at = reinterpret_cast<const float*>(w.strip());
    const int64_t strip = w.strip_bytes() / 4;
    int64_t s = 0;
    if constexpr (Rows <= 2)
        for (; s + 4 <= strips; s += 4) dots_strips<Rows, 4>(k, x, ldx, at + s * strip, strip, c + s * TileRows, ldc, accumulate);
    for (; s + 2 <= strips; s += 2) dots_strips<Rows, 2>(k, x, ldx, at + s * strip, strip, c + s * TileRows, ldc, accumulate);
    for (; s < strips; s++) dots_strips<Rows, 1>(k, x, ldx, at + s * strip, strip, c + s * TileRows, ldc, accumulate);
}

}  // namespace

void dots_tiled_avx512bf16(int64_t m, int64_t strips, int64_t k, const void* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc,
                           bool accumulate) {
    auto run = m == 1 ? dots_tiled_rows<1> : m == 2 ? dots_tiled_rows<2> : m == 3 ? dots_tiled_rows<3> : dots_tiled_rows<4>;
    run(strips, k, static_cast<const uint16_t*>(x), ldx, w, c, ldc, accumulate);
}

void store_avx512bf16(const float* c, int64_t ldc, int64_t m, int64_t n, float alpha, float beta, void* out, int32_t type, int64_t rows,
                      int64_t cols) {
    if (type == KT_F32 || cols != 1 || beta != 0) return kernels_avx512.store(c, ldc, m, n, alpha, beta, out, type, rows, cols);
    const F va = set1(alpha);
    for (int64_t i = 0; i < m; i++) {
        const float* from = c + i * ldc;
        uint16_t* to = static_cast<uint16_t*>(out) + i * rows;
        int64_t j = 0;
        for (; j + 2 * W <= n; j += 2 * W)
            _mm512_storeu_si512(to + j, (__m512i)_mm512_cvtne2ps_pbh(mul(va, load(from + j + W)), mul(va, load(from + j))));
        for (; j < n; j += W) {
            const int64_t w = n - j < W ? n - j : W;
            _mm256_mask_storeu_epi16(to + j, first(w), (__m256i)_mm512_cvtneps_pbh(mul(va, load(from + j, w))));
        }
    }
}

extern const Micro micro_avx512bf16 = {2, MR, NR, W, 2, 2, 2, 768, tile<Pairs>, spin<Pairs>, nullptr, nullptr};

}  // namespace kt
