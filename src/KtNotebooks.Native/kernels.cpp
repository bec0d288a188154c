// The kernels of one instruction set (compiled once with AVX2 and once with AVX-512): register tile, packing, dot products, softmax rows.
#include "kernels.h"

#define KT_DEQUANTIZE
#include "expert_rows.h"
#include "formats.h"
#include "low_bit.h"
#include "outer.h"
#include "register_tile.h"
#include "scratch.h"
#include "simd.h"
#include "tiled.h"

namespace kt {
namespace {

#if defined(__AVX512F__)
constexpr int MR = 12, NV = 2;  // 24 accumulators, 2 vectors of B, 1 broadcast of A
constexpr const char* Name = "avx512";
#else
constexpr int MR = 6, NV = 2;  // 12 accumulators of 16 registers
constexpr const char* Name = "avx2";
#endif
constexpr int NR = NV * W;

KT_INLINE float to_float(float x) { return x; }
KT_INLINE float to_float(uint16_t x) { return widen(x); }
KT_INLINE void put(float* p, float x) { *p = x; }
KT_INLINE void put(uint16_t* p, float x) { *p = narrow(x); }

struct Floats {
    static constexpr int rows = MR, vectors = NV, unit = 1, next = NR;
    static KT_INLINE int64_t strip(const Segment&) { return W; }
    static KT_INLINE F add(F sum, F a, F b) { return fma(a, b, sum); }
};

// ---- packing ---------------------------------------------------------------------------------------------------------------
// A lane below is one 32-bit unit: a float, or a pair of BF16 that stand next to each other along k.

KT_INLINE F lanes_along_k(const float* p, int64_t n) { return n >= W ? load(p) : load(p, n); }
KT_INLINE F lanes_along_k(const uint16_t* p, int64_t n) { return n >= W ? load(p) : load(p, n); }

constexpr int64_t BlocksAhead = 8;  // W × W blocks that are asked of memory while one is transposed

// Vectors contiguous along k: W × W blocks are transposed in registers. Unit: how many source elements make a lane (1, or 2 for pairs).
// A block is one cache line of each of W rows, an order that the processor's own prefetching does not see.
template <class T, int Unit>
void pack_rows(float* panel, const T* src, int64_t stride, int64_t rows, int64_t k, int32_t width, int64_t size, float factor) {
    const int64_t lanes = (k + Unit - 1) / Unit, blocks = (lanes + W - 1) / W;
    const int64_t ahead = BlocksAhead % blocks * W * Unit + BlocksAhead / blocks * W * stride;
    for (; rows > 0; rows -= width, src += width * stride, panel += size)
        for (int64_t i0 = 0; i0 < width; i0 += W) {
            int64_t w = width - i0 < W ? width - i0 : W;
            for (int64_t l0 = 0; l0 < lanes; l0 += W) {
                const T* from = src + i0 * stride + l0 * Unit;
                for (int i = 0; i < W; i++) _mm_prefetch(reinterpret_cast<const char*>(from + i * stride + ahead), _MM_HINT_T0);
                F x[W];
                auto load_rows = [&](int64_t n, int64_t left) __attribute__((always_inline)) {
                    for (int i = 0; i < W; i++) {
                        if (i >= n)
                            x[i] = zero();
                        else if constexpr (Unit == 2)
                            x[i] = load_pairs(from + i * stride, left);
                        else
                            x[i] = lanes_along_k(from + i * stride, left);
                    }
                };
                if (i0 + W <= rows && w == W && k - l0 * Unit >= W * Unit)
                    load_rows(W, W * Unit);
                else
                    load_rows(rows - i0 < w ? rows - i0 : w, k - l0 * Unit);
                transpose(x);
                if (Unit == 1 && factor != 1)
                    for (int i = 0; i < W; i++) x[i] = mul(x[i], set1(factor));
                float* to = panel + l0 * width + i0;
                int64_t count = lanes - l0 < W ? lanes - l0 : W;
                if (w == W)
                    for (int64_t l = 0; l < count; l++) store(to + l * width, x[l]);
                else
                    for (int64_t l = 0; l < count; l++) store(to + l * width, x[l], w);
            }
        }
}

constexpr int64_t PrefetchRows = 12;

// Vectors contiguous along i: a row of a panel is a run of the source (pairs: two runs, zipped). A row of the source is read through all
// panels before the next one: rows are pages apart.
template <class T, int Unit>
void pack_columns(float* panels, const T* src, int64_t stride, int64_t rows, int64_t k, int32_t width, int64_t size, float factor) {
    for (int64_t l = 0; l * Unit < k; l++) {
        const T* from = src + l * Unit * stride;
        const T* next = l * Unit + 1 < k ? from + stride : nullptr;  // the second of a pair
        float* panel = panels + l * width;
        for (int u = 0; u < Unit; u++)  // the processor's own prefetching stops at the end of a page
            for (int64_t i = 0; i < rows; i += 64 / static_cast<int64_t>(sizeof(T)))
                _mm_prefetch(reinterpret_cast<const char*>(from + (PrefetchRows + u) * stride + i), _MM_HINT_T0);
        for (int64_t i0 = 0; i0 < rows; i0 += width, panel += size)
            for (int64_t i = 0; i < width; i += W) {
                int64_t n = rows - i0 - i, w = width - i < W ? width - i : W;
                if (n > w) n = w;
                F x;
                if (n <= 0)
                    x = zero();
                else if constexpr (Unit == 2)
                    x = zip(from + i0 + i, next ? next + i0 + i : nullptr, n);
                else
                    x = mul(lanes_along_k(from + i0 + i, n), set1(factor));
                if (w == W)
                    store(panel + i, x);
                else
                    store(panel + i, x, w);
            }
    }
}

// Any strides and groups (the AMX layout of A among them; its common case is a plain copy of 64-byte pieces).
template <class To, class T>
void pack_any(To* panel, const T* src, const Matrix& m, int64_t rows, int64_t k, int32_t width, int32_t group, int64_t size, float factor) {
    for (; rows > 0; rows -= width, src += width * m.rows, panel += size)
        for (int64_t k0 = 0; k0 < k; k0 += group) {
            for (int64_t i = 0; i < width; i++) {
                int64_t n = i >= rows ? 0 : k - k0 < group ? k - k0 : group;
                To* to = panel + k0 * width + i * group;
                const T* from = src + i * m.rows + k0 * m.cols;
                if (sizeof(To) == 2 && n == 32 && m.cols == 1) {
                    _mm_prefetch(reinterpret_cast<const char*>(to + 2 * group * width), _MM_HINT_T0);  // what is written soon
                    std::memcpy(to, from, 64);
                    continue;
                }
                for (int64_t l = 0; l < n; l++) {
                    if constexpr (sizeof(To) == 2)
                        to[l] = from[l * m.cols];
                    else
                        to[l] = factor * to_float(from[l * m.cols]);
                }
                std::memset(to + n, 0, (group - n) * sizeof(To));
            }
        }
}

// The AMX layout from vectors contiguous along i: pairs are zipped, then W × W blocks of pairs are transposed into pieces of W pairs.
void pack_column_groups(uint16_t* panels, const uint16_t* src, int64_t stride, int64_t rows, int64_t k, int32_t width, int32_t group,
                        int64_t size) {
    for (int64_t k0 = 0; k0 < (k + group - 1) / group * group; k0 += 2 * W)
        for (int64_t i0 = 0; i0 < (rows + width - 1) / width * width; i0 += W) {
            int64_t n = rows - i0 < W ? rows - i0 : W;
            F x[W];
            for (int l = 0; l < W; l++) {
                const uint16_t* from = src + (k0 + 2 * l) * stride + i0;
                x[l] = n <= 0 || k0 + 2 * l >= k ? zero() : zip(from, k0 + 2 * l + 1 < k ? from + stride : nullptr, n);
            }
            transpose(x);
            uint16_t* to = panels + i0 / width * size + k0 / group * group * width + i0 % width * group + k0 % group;
            for (int i = 0; i < W; i++) store(reinterpret_cast<float*>(to + i * group), x[i]);
        }
}

template <class T>
void pack_floats(float* panels, const Matrix& m, int64_t rows, int64_t k, int32_t width, int64_t size, float factor) {
    auto src = static_cast<const T*>(m.data);
    if (m.cols == 1)
        pack_rows<T, 1>(panels, src, m.rows, rows, k, width, size, factor);
    else if (m.rows == 1)
        pack_columns<T, 1>(panels, src, m.cols, rows, k, width, size, factor);
    else
        pack_any(panels, src, m, rows, k, width, 1, size, factor);
}

// The high or the low part of a run of floats.
void part_of_run(const float* from, int64_t length, float factor, bool high_part, uint16_t* to) {
    auto step = [&](int64_t j, int64_t n) __attribute__((always_inline)) {
        F x = mul(n == W ? load(from + j) : load(from + j, n), set1(factor));
        if (high_part) return n == W ? store(to + j, x) : store(to + j, x, n);
        uint16_t high[W];
        store(high, x);
        x = sub(x, load(high));
        n == W ? store(to + j, x) : store(to + j, x, n);
    };
    int64_t j = 0;
    for (; j + W <= length; j += W) step(j, W);
    if (j < length) step(j, length - j);
}

// The part of an F32 matrix that a product of BF16 registers takes, as a BF16 matrix of the same orientation; of joined parts k is three
// times as long.
Matrix part_of(const Matrix& m, int64_t rows, int64_t k, float factor, Part32 part) {
    thread_local Scratch memory;
    const bool along_k = m.cols == 1, joined = part >= JoinedA;
    const int64_t runs = along_k ? rows : k, length = along_k ? k : rows, distance = along_k ? m.rows : m.cols, parts = joined ? 3 : 1;
    uint16_t* out = memory.get<uint16_t>(parts * runs * length);
    const int low_at = part == JoinedA ? 1 : 2;
    for (int64_t i = 0; i < runs; i++)
        for (int64_t p = 0; p < parts; p++)
            part_of_run(static_cast<const float*>(m.data) + i * distance, length, factor, joined ? p != low_at : part == High,
                        out + (along_k ? i * parts + p : p * runs + i) * length);
    return along_k ? Matrix{out, 1, parts * length, 1} : Matrix{out, 1, 1, length};
}

void pack(void* panels, int32_t element, const Matrix& m, int64_t rows, int64_t k, int32_t width, int32_t group, int64_t k_padded,
          float factor, Part32 part) {
    if (element == 2 && m.type == 0)
        return pack(panels, element, part_of(m, rows, k, factor, part), rows, part >= JoinedA ? 3 * k : k, width, group, k_padded, 1,
                    Whole);
    int64_t done = (k + group - 1) / group * group, size = k_padded * width;
    if (done < k_padded)
        for (int64_t i = 0; i * width < rows; i++)
            std::memset(static_cast<char*>(panels) + (i * k_padded + done) * width * element, 0, (k_padded - done) * width * element);
    if (element == 4) {
        if (m.type == 0)
            pack_floats<float>(static_cast<float*>(panels), m, rows, k, width, size, factor);
        else
            pack_floats<uint16_t>(static_cast<float*>(panels), m, rows, k, width, size, factor);
        return;
    }
    auto src = static_cast<const uint16_t*>(m.data);
    if (group == 2 && m.cols == 1)
        pack_rows<uint16_t, 2>(static_cast<float*>(panels), src, m.rows, rows, k, width, size / 2, 1);
    else if (group == 2 && m.rows == 1)
        pack_columns<uint16_t, 2>(static_cast<float*>(panels), src, m.cols, rows, k, width, size / 2, 1);
    else if (group == 32 && m.rows == 1 && width % W == 0)
        pack_column_groups(static_cast<uint16_t*>(panels), src, m.cols, rows, k, width, group, size);
    else
        pack_any(static_cast<uint16_t*>(panels), src, m, rows, k, width, group, size, 1);
}

// ---- dot products ----------------------------------------------------------------------------------------------------------

// Rows of x against Cols rows of w at once: each vector of w is loaded once.
template <int Rows, int Cols, class X, class T>
KT_INLINE void dots_block(int64_t k, const X* x, int64_t ldx, const T* w, int64_t ldw, float scale, float* c, int64_t ldc,
                          bool accumulate) {
    F sums[Rows][Cols];
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < Cols; j++) sums[i][j] = zero();
    int64_t l = 0;
    for (; l + W <= k; l += W) {
        F vx[Rows];
        for (int i = 0; i < Rows; i++) vx[i] = load(x + i * ldx + l);
        for (int j = 0; j < Cols; j++) {
            F vw = load(w + j * ldw + l);
            for (int i = 0; i < Rows; i++) sums[i][j] = fma(vx[i], vw, sums[i][j]);
        }
    }
    if (l < k)
        for (int j = 0; j < Cols; j++) {
            F vw = load(w + j * ldw + l, k - l);
            for (int i = 0; i < Rows; i++) sums[i][j] = fma(load(x + i * ldx + l, k - l), vw, sums[i][j]);
        }
    for (int i = 0; i < Rows; i++)
        for (int j = 0; j < Cols; j++) {
            float* to = c + i * ldc + j;
            float s = scale * sum(sums[i][j]);
            *to = accumulate ? *to + s : s;
        }
}

template <int Rows, class X, class T>
void dots_rows(int64_t n, int64_t k, const X* x, int64_t ldx, const T* w, int64_t ldw, float scale, float* c, int64_t ldc,
               bool accumulate) {
    constexpr int Cols = W == 16 || Rows <= 2 ? 4 : 2;  // AVX2 has 16 registers
    int64_t j = 0;
    for (; j + Cols <= n; j += Cols) dots_block<Rows, Cols>(k, x, ldx, w + j * ldw, ldw, scale, c + j, ldc, accumulate);
    for (; j < n; j++) dots_block<Rows, 1>(k, x, ldx, w + j * ldw, ldw, scale, c + j, ldc, accumulate);
}

template <class X, class T>
void dots_typed(int64_t m, int64_t n, int64_t k, const void* x, int64_t ldx, const void* w, int64_t ldw, float scale, float* c, int64_t ldc,
                bool accumulate) {
    auto px = static_cast<const X*>(x);
    auto pw = static_cast<const T*>(w);
    if (m == 1) return dots_rows<1>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    if (m == 2) return dots_rows<2>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    if (m == 3) return dots_rows<3>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
    dots_rows<4>(n, k, px, ldx, pw, ldw, scale, c, ldc, accumulate);
}

void dots(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w, int64_t ldw,
          float scale, float* c, int64_t ldc, bool accumulate) {
    auto run = type_x == 0 ? (type_w == 0 ? dots_typed<float, float> : dots_typed<float, uint16_t>)
                           : (type_w == 0 ? dots_typed<uint16_t, float> : dots_typed<uint16_t, uint16_t>);
    run(m, n, k, x, ldx, w, ldw, scale, c, ldc, accumulate);
}

float inner(const void* a, const void* b, int32_t type, int64_t n) {
    float c;
    dots(1, 1, n, a, type, n, b, type, n, 1, &c, 1, false);
    return c;
}

// ---- results ---------------------------------------------------------------------------------------------------------------

template <class T>
void store_typed(const float* c, int64_t ldc, int64_t m, int64_t n, float alpha, float beta, T* out, int64_t rows, int64_t cols) {
    if (cols != 1) {  // transposed or strided: few elements (LoRA gradients)
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < m; i++) {
                T* to = out + i * rows + j * cols;
                put(to, alpha * c[i * ldc + j] + (beta == 0 ? 0 : beta * to_float(*to)));
            }
        return;
    }
    F va = set1(alpha), vb = set1(beta);
    for (int64_t i = 0; i < m; i++) {
        const float* from = c + i * ldc;
        T* to = out + i * rows;
        int64_t j = 0;
        if (beta == 0) {
            for (; j + W <= n; j += W) store(to + j, mul(va, load(from + j)));
            if (j < n) store(to + j, mul(va, load(from + j, n - j)), n - j);
        } else {
            for (; j + W <= n; j += W) store(to + j, fma(vb, load(to + j), mul(va, load(from + j))));
            if (j < n) store(to + j, fma(vb, load(to + j, n - j), mul(va, load(from + j, n - j))), n - j);
        }
    }
}

void store_matrix(const float* c, int64_t ldc, int64_t m, int64_t n, float alpha, float beta, void* out, int32_t type, int64_t rows,
                  int64_t cols) {
    if (type == 0)
        store_typed(c, ldc, m, n, alpha, beta, static_cast<float*>(out), rows, cols);
    else
        store_typed(c, ldc, m, n, alpha, beta, static_cast<uint16_t*>(out), rows, cols);
}

// ---- attention rows --------------------------------------------------------------------------------------------------------

float softmax_step(float* s, int64_t visible, int64_t n, float* row_max, float* row_sum) {
    float top = *row_max;
    int64_t j = 0;
    if (visible >= W) {
        F m = load(s);
        for (j = W; j + W <= visible; j += W) m = max(m, load(s + j));
        float part = max(m);
        if (part > top) top = part;
    }
    for (; j < visible; j++)
        if (s[j] > top) top = s[j];
    F total = zero();
    for (j = 0; j + W <= visible; j += W) {
        F p = exp(sub(load(s + j), set1(top)));
        total = add(total, p);
        store(s + j, p);
    }
    float rest = 0;
    if (j < visible) {
        float part[W];
        store(part, exp(sub(load(s + j, visible - j), set1(top))));
        for (int64_t i = 0; i < visible - j; i++) rest += s[j + i] = part[i];
    }
    for (j = visible; j < n; j++) s[j] = 0;
    float factor[W];
    store(factor, exp(set1(*row_max - top)));  // the first block: exp(-inf) = 0
    *row_sum = *row_sum * factor[0] + sum(total) + rest;
    *row_max = top;
    return factor[0];
}

void scale_row(float* x, int64_t n, float factor) {
    int64_t j = 0;
    for (; j + W <= n; j += W) store(x + j, mul(load(x + j), set1(factor)));
    for (; j < n; j++) x[j] *= factor;
}

void softmax_grad(float* s, float* dp, int64_t visible, int64_t n, float lse, float delta) {
    int64_t j = 0;
    for (; j < visible; j += W) {
        int64_t w = visible - j < W ? visible - j : W;
        F p = exp(sub(load(s + j, w), set1(lse)));
        store(s + j, p, w);
        store(dp + j, mul(p, sub(load(dp + j, w), set1(delta))), w);
    }
    for (j = visible; j < n; j++) s[j] = dp[j] = 0;
}

}  // namespace

// clang-format off
extern const Kernels KT_KERNELS = {
    Name,
    {4, MR, NR, NR, 1, 1, 1, 384, tile<Floats>, spin<Floats>, nullptr, nullptr},
    {}, {}, {},
    pack, dots, dots_tiled, {low_bit_bytes, low_bit_ready, low_bit_dots}, turn, nullptr, dequantize, store_matrix, softmax_step, scale_row, softmax_grad, inner,
    swiglu, swiglu_grad, outer, add_row,
};
// clang-format on

}  // namespace kt
