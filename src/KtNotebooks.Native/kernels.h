// What an instruction set contributes: a table of functions. Everything that is not in this table is compiled once, for any x86-64.
#pragma once
#include <cstdint>

namespace kt {

// What a low-bit matrix has beside its codes: scales, the stored width, and where in the stored matrix it begins (for 4 bits a column that
// is a multiple of the group); turned: element (i, k) is the stored (k, i).
struct LowBit {
    const void* scales;
    int64_t width, row, column;
    bool turned;
};

// A read-only matrix: element (i, k) stands at data[i * rows + k * cols] (distances in elements), so a transpose is a swap of the two.
// Low-bit matrices (type 2 and above) have no addresses of elements: they are dequantized block by block, see formats.h.
struct Matrix {
    const void* data;
    int32_t type;
    int64_t rows, cols;
    LowBit low{};

    bool is_low_bit() const { return type > 1; }
    const void* at(int64_t i, int64_t k) const { return static_cast<const char*>(data) + (i * rows + k * cols) * (type == 0 ? 4 : 2); }
    Matrix from(int64_t i, int64_t k) const {
        if (!is_low_bit()) return {at(i, k), type, rows, cols};
        Matrix m = *this;
        m.low.row += low.turned ? k : i;
        m.low.column += low.turned ? i : k;
        return m;
    }
    Matrix transposed() const {
        Matrix m{data, type, cols, rows, low};
        m.low.turned = !low.turned;
        return m;
    }
};

// A register tile: C[rows, nr] (+)= A·B, where A is a packed panel of mr rows and B one of nr columns.
// A panel of `width` vectors of length K holds element k of vector i at [k / group][i][k % group]; K is padded with zeros to a multiple of
// k_unit.
struct Micro {
    int32_t element;           // bytes of a packed element: 4 (F32) or 2 (BF16); 0: this variant has no such kernel
    int32_t mr, nr;            // the tile
    int32_t group_a, group_b;  // see above
    int32_t k_unit;
    int32_t k_block;  // K is cut into blocks of this length, so that panels stay in cache
    // `rows` <= mr rows of the tile are wanted and at least the first `cols` <= nr columns; c must have room for nr columns (and, when
    // tall_c, for mr rows). accumulate = false overwrites c.
    void (*tile)(int64_t k, const void* a, const void* b, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate);
    void (*begin)();  // around a run of tiles on one thread; may be null
    void (*end)();
};

struct Kernels {
    const char* name;
    Micro f32, bf16;
    // Packs `rows` vectors of length k (those of `src`) as panels of `width` vectors, one after the other, zero where there is nothing.
    // element 4: F32, times scale; element 2: BF16 unchanged (src must be BF16).
    void (*pack)(void* panels, int32_t element, const Matrix& src, int64_t rows, int64_t k, int32_t width, int32_t group, int64_t k_padded,
                 float scale);
    // c[i, j] (+)= scale · Σ_k x[i, k] w[j, k] for m <= 4 rows of x: reads w once, packs nothing.
    void (*dots)(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w, int64_t ldw,
                 float scale, float* c, int64_t ldc, bool accumulate);
    // Decodes rows × columns from the beginning of a low-bit matrix, in its stored orientation, to a dense block of `type` (F32 or BF16).
    void (*dequantize)(const Matrix& m, int64_t rows, int64_t columns, void* out, int32_t type);
    // out = alpha · c + beta · out, rounded once. out is a matrix of `type` with distances rows, cols.
    void (*store)(const float* c, int64_t ldc, int64_t m, int64_t n, float alpha, float beta, void* out, int32_t type, int64_t rows,
                  int64_t cols);
    // One step of the online softmax over a row of n scores, of which the first `visible` are seen: s becomes exp(s - max); max and sum
    // are carried on; returns the factor by which what was summed before must shrink.
    float (*softmax_step)(float* s, int64_t visible, int64_t n, float* max, float* sum);
    void (*scale)(float* x, int64_t n, float factor);
    // s becomes the probabilities exp(s - lse), zero from `visible` on; dp becomes p · (dp - delta).
    void (*softmax_grad)(float* s, float* dp, int64_t visible, int64_t n, float lse, float delta);
    float (*inner)(const void* a, const void* b, int32_t type, int64_t n);
};

extern const Kernels kernels_avx2, kernels_avx512;
extern const Micro micro_avx512bf16, micro_amx, micro_amx_emulated;
void dots_avx512bf16(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w,
                     int64_t ldw, float scale, float* c, int64_t ldc, bool accumulate);

}  // namespace kt
