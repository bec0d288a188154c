// A few rows against low-bit weights, compiled once per instruction set, for kernels.cpp. What each does stands in kernels.h. Rows are made
// ready as F32, so that codes need no more than a conversion. Wants the dequantizing part of formats.h before it.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

int64_t low_bit_bytes(int32_t, int64_t k) { return (k * 4 + 63) / 64 * 64; }

void low_bit_ready(int32_t, const uint16_t* x, int64_t k, void* out) {
    float* to = static_cast<float*>(out);
    int64_t j = 0;
    for (; j + W <= k; j += W) store(to + j, load(x + j));
    if (j < k) store(to + j, load(x + j, k - j), k - j);
}

// A stored row: its codes, and its scales (fp8: those of its row of blocks).
struct LowBitRow {
    const uint8_t* codes;
    const char* scales;
    LowBitRow() = default;
    LowBitRow(const Matrix& m, int64_t i) {
        const Stored& s = m.stored;
        const int64_t row = s.row + i, group_row = row * (s.width / Group);
        codes = static_cast<const uint8_t*>(m.data) + row * s.width / (m.type >= KT_INT4 ? 2 : 1);
        scales = static_cast<const char*>(s.scales) + (m.type == KT_INT4   ? group_row * 2
                                                       : m.type == KT_MXFP4 ? group_row
                                                       : m.type == KT_INT8  ? row * 4
                                                                            : row / Fp8Block * ((s.width + Fp8Block - 1) / Fp8Block) * 4);
    }
};

template <int Format>
constexpr int64_t Run = Format == KT_INT8 ? 512 : Format == KT_FP8 ? Fp8Block : Group;  // codes of one scale, or as many as may be taken so

template <int Format>
KT_INLINE float low_bit_scale(const LowBitRow& row, int64_t k) {
    if constexpr (Format == KT_INT4) return widen(reinterpret_cast<const uint16_t*>(row.scales)[k / Group]);
    if constexpr (Format == KT_MXFP4) return from_e8m0(reinterpret_cast<const uint8_t*>(row.scales)[k / Group]) / 2;
    if constexpr (Format == KT_INT8) return *reinterpret_cast<const float*>(row.scales);
    return 256 * reinterpret_cast<const float*>(row.scales)[k / Fp8Block];
}

// One stored row after the other, so that memory is read in one stream.
template <int Format, int Rows>
void low_bit_rows(int64_t n, int64_t k, const float* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    constexpr int Chains = Rows <= 2 ? 4 / Rows : 1;  // as many sums as the adders' latency wants
    constexpr int64_t Ahead = 2048;                   // bytes: what is brought while this is multiplied
    for (int64_t j = 0; j < n; j++) {
        const LowBitRow row(w, j);
        F sums[Rows];
        for (int i = 0; i < Rows; i++) sums[i] = zero();
        for (int64_t begin = 0; begin < k; begin += Run<Format>) {
            F run[Rows][Chains];
            for (int i = 0; i < Rows; i++)
                for (int q = 0; q < Chains; q++) run[i][q] = zero();
            auto add_vector = [&](F codes, int64_t l, int chain, int64_t some) __attribute__((always_inline)) {
                for (int i = 0; i < Rows; i++) {
                    const float* from = x + i * ldx + begin + l;
                    run[i][chain] = fma(codes, some == W ? load(from) : load(from, some), run[i][chain]);
                }
            };
            if constexpr (Format >= KT_INT4) {
                __m128i halves[2];
                _mm_prefetch(reinterpret_cast<const char*>(row.codes + begin / 2 + Ahead), _MM_HINT_T0);
                group_codes<Format == KT_MXFP4>(row.codes + begin / 2, halves);
#pragma GCC unroll 4
                for (int l = 0; l < Group; l += W) add_vector(group_part(halves, l), l, l / W % Chains, W);
            } else {
                const uint8_t* codes = row.codes + begin;
                const int64_t length = k - begin < Run<Format> ? k - begin : Run<Format>;
                int64_t l = 0;
                for (; l + 4 * W <= length; l += 4 * W) {
                    _mm_prefetch(reinterpret_cast<const char*>(codes + l + Ahead), _MM_HINT_T0);
#pragma GCC unroll 4
                    for (int q = 0; q < 4; q++) add_vector(widen_codes(load_codes(codes + l + q * W), Format == KT_FP8), l + q * W, q % Chains, W);
                }
                for (; l < length; l += W) {
                    const int64_t some = length - l < W ? length - l : W;
                    add_vector(widen_codes(some == W ? load_codes(codes + l) : load_codes(codes + l, some), Format == KT_FP8), l, 0, some);
                }
            }
            const F scale = set1(low_bit_scale<Format>(row, begin));
            for (int i = 0; i < Rows; i++) {
                for (int q = 1; q < Chains; q++) run[i][0] = add(run[i][0], run[i][q]);
                sums[i] = fma(run[i][0], scale, sums[i]);
            }
        }
        for (int i = 0; i < Rows; i++) {
            float* to = c + i * ldc + j;
            const float s = sum(sums[i]);
            *to = accumulate ? *to + s : s;
        }
    }
}

template <int Format>
void low_bit_typed(int64_t m, int64_t n, int64_t k, const float* x, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto run = m == 1   ? low_bit_rows<Format, 1>
               : m == 2 ? low_bit_rows<Format, 2>
               : m == 3 ? low_bit_rows<Format, 3>
                        : low_bit_rows<Format, 4>;
    run(n, k, x, low_bit_bytes(Format, k) / 4, w, c, ldc, accumulate);
}

void low_bit_dots(int64_t m, int64_t n, int64_t k, const void* x, const Matrix& w, float* c, int64_t ldc, bool accumulate) {
    auto run = w.type == KT_FP8    ? low_bit_typed<KT_FP8>
               : w.type == KT_INT8 ? low_bit_typed<KT_INT8>
               : w.type == KT_INT4 ? low_bit_typed<KT_INT4>
                                   : low_bit_typed<KT_MXFP4>;
    run(m, n, k, static_cast<const float*>(x), w, c, ldc, accumulate);
}

}  // namespace
}  // namespace kt
