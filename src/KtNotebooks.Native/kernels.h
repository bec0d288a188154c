// What an instruction set contributes: a table of functions. Everything that is not in this table is compiled once, for any x86-64.
#pragma once
#include <cstdint>

#include "formats.h"

namespace kt {

// What a matrix has that is not an array of numbers: for low bits scales; the stored width (of tiles: K padded), and where in the stored
// matrix it begins (for 4 bits a column that is a multiple of the group, for tiles a row and a column that are multiples of a tile's);
// turned: element (i, k) is the stored (k, i).
struct Stored {
    const void* scales;
    int64_t width, row, column;
    bool turned;
};

// A read-only matrix: element (i, k) stands at data[i * rows + k * cols] (distances in elements), so a transpose is a swap of the two.
// Low-bit matrices (type 2 and above) have no addresses of elements: they are dequantized block by block, see formats.h. Nor have tiles.
struct Matrix {
    const void* data;
    int32_t type;
    int64_t rows, cols;
    Stored stored{};

    bool is_low_bit() const { return type > 1 && !is_tiled(); }
    bool is_tiled() const { return type & KT_TILED; }
    const void* at(int64_t i, int64_t k) const { return static_cast<const char*>(data) + (i * rows + k * cols) * (type == 0 ? 4 : 2); }
    Matrix from(int64_t i, int64_t k) const {
        if (type <= 1) return {at(i, k), type, rows, cols};
        Matrix m = *this;
        m.stored.row += stored.turned ? k : i;
        m.stored.column += stored.turned ? i : k;
        return m;
    }
    Matrix transposed() const {
        Matrix m{data, type, cols, rows, stored};
        m.stored.turned = !stored.turned;
        return m;
    }
    // Of tiles: the strip of the stored row where it begins, at the stored column where it begins.
    const char* strip() const {
        return static_cast<const char*>(data) + (stored.row / TileRows * stored.width + stored.column) * TileRows * 2;
    }
    int64_t strip_bytes() const { return stored.width * TileRows * 2; }
};

// What is brought to the second cache while a tile is computed: at each 32 of k some lines of the KB at `at` and of the KB at at + second,
// then `step` bytes on. Null: nothing.
struct Ahead {
    const char* at;
    int64_t second, step;
    int32_t lines;
};

// A factor pair of a register tile: a packed panel of A, and strips of B that are strip_bytes apart, over k.
struct Segment {
    int64_t k;
    const void *a, *b;
    int64_t strip_bytes;
    Ahead ahead{};
};

// A register tile: C[rows, nr] (+)= Σ segments A·B, where A is a packed panel of mr rows and B a panel of nr columns in strips of `strip`
// columns; the sums stay in registers over all segments.
// A panel (strip) of `width` vectors of length K holds element k of vector i at [k / group][i][k % group]; K is padded with zeros to a
// multiple of k_unit.
struct Micro {
    int32_t element;           // bytes of a packed element: 4 (F32), 2 (BF16) or 1 (INT8); 0: this variant has no such kernel
    int32_t mr, nr, strip;     // the tile; nr is a multiple of strip
    int32_t group_a, group_b;  // see above
    int32_t k_unit;
    int32_t k_block;  // K is cut into blocks of this length, so that panels stay in cache
    // `rows` <= mr rows of the tile are wanted and at least the first `cols` <= nr columns; c must have room for nr columns and for mr
    // rows. accumulate = false overwrites c.
    void (*tile)(const Segment* segments, int32_t count, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate);
    // Multiplies registers alone, so many rounds; returns the floating-point operations: what no product can be faster than.
    double (*spin)(int64_t rounds);
    void (*begin)();  // around a run of tiles on one thread; may be null
    void (*end)();
};

// A product of BF16 registers takes an F32 matrix as the sum of two BF16 parts: what rounding leaves, and the rest, rounded. Where k is
// short the parts of both sides stand beside each other along k: [high | low | high] of A, [high | high | low] of B, three products in one.
enum Part32 : int32_t { Whole, High, Low, JoinedA, JoinedB };

// A few BF16 rows against low-bit weights. Rows are made ready for a format once: what the registers take beside its unpacked codes.
struct LowBitDots {
    int64_t (*bytes)(int32_t format, int64_t k);  // of a row that was made ready; a multiple of 64
    void (*ready)(int32_t format, const uint16_t* x, int64_t k, void* out);
    // m <= 4 such rows, `bytes` apart.
    void (*dots)(int64_t m, int64_t n, int64_t k, const void* x, const Matrix& w, float* c, int64_t ldc, bool accumulate);
};

// Around register tiles of bytes, whose sums are 32-bit integers: BF16 rows quantized by row, INT8 weights as stored.
struct Int8Rows {
    // Codes of x · factors (null: x), 64 together, such pieces `distance` bytes apart; returns their scale.
    float (*quantize)(const uint16_t* x, const float* factors, int64_t k, int8_t* to, int64_t distance);
    // Columns [0, columns) of B over k, turned or not, padded with zeros to 64.
    void (*strips)(void* strips, const Matrix& weights, int64_t columns, int64_t k);
    // c (+)= sums · row scale · column scale (null: 1)
    void (*add)(const int32_t* sums, int64_t lds, int64_t m, int64_t n, const float* row_scales, const float* column_scales, float* c,
                int64_t ldc, bool accumulate);
};

// Rows of F32 or BF16 numbers that are read where they lie: row i stands at data[at(i) · distance].
struct OuterRowsOf {
    const void* data;
    int32_t type;
    int64_t distance, count;
    const int32_t* index;  // null: in order
    int64_t at(int64_t i) const { return index ? index[i] : i; }
};

struct Kernels {
    const char* name;
    Micro f32, bf16;
    Micro int8;  // what INT8 weights meet BF16 rows with, where this variant quantizes rows; sums are integers
    Int8Rows int8_rows;
    // Packs `rows` vectors of length k (those of `src`) as panels of `width` vectors, one after the other, zero where there is nothing.
    // element 4: F32, times scale; element 2: BF16 unchanged, or of an F32 source times scale the part that is asked for.
    void (*pack)(void* panels, int32_t element, const Matrix& src, int64_t rows, int64_t k, int32_t width, int32_t group, int64_t k_padded,
                 float scale, Part32 part);
    // c[i, j] (+)= scale · Σ_k x[i, k] w[j, k] for m <= 4 rows of x: reads w once, packs nothing.
    void (*dots)(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w, int64_t ldw,
                 float scale, float* c, int64_t ldc, bool accumulate);
    // The same for tiled BF16 weights that are not turned and BF16 rows, over `strips` strips: c[i, 16 s + j].
    void (*dots_tiled)(int64_t m, int64_t strips, int64_t k, const void* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc,
                       bool accumulate);
    // The same for low-bit weights that are not turned, whose rows begin at column 0, and BF16 rows: Σ code · x in F32 over the codes of a
    // scale, times the scale, so nearer to the definition than weights that were rounded to BF16.
    LowBitDots low_bit;
    // Strips of the columns [0, columns) of turned tiles over k stored rows: the transpose, made in registers.
    void (*turn)(void* strips, const Matrix& tiles, int64_t columns, int64_t k);
    // The same of low-bit weights, turned or not: columns [0, columns) of B over k, dequantized to BF16. Null: none (dequantize and pack).
    void (*decode)(void* strips, const Matrix& weights, int64_t columns, int64_t k);
    // Dequantizes rows × columns from the beginning of a low-bit matrix, in its stored orientation, to a dense block of `type` (F32 or
    // BF16).
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
    // Rows of n BF16 between the projections of experts: h = silu(g) · u.
    void (*swiglu)(const uint16_t* g, const uint16_t* u, uint16_t* h, int64_t n);
    // With d = weight · dh: dg = d · u · σ(g) · (1 + g · (1 − σ(g))), du = d · silu(g), and h again; returns Σ dh · h. dg may be dh.
    float (*swiglu_grad)(const uint16_t* dh, const uint16_t* g, const uint16_t* u, float weight, uint16_t* h, uint16_t* dg, uint16_t* du,
                         int64_t n);
    // out[a · out_rows + j · out_columns] = scale · Σ_i factors[i · r + a] · x[i, j] for a < r and columns [first, first + columns) of x.
    void (*outer)(const OuterRowsOf& x, const float* factors, int64_t r, int64_t first, int64_t columns, float scale, float* out,
                  int64_t out_rows, int64_t out_columns);
    // sum += weight · row
    void (*add_row)(float* sum, const uint16_t* row, float weight, int64_t n);
};

extern const Kernels kernels_avx2, kernels_avx512;
extern const Micro micro_avx512bf16, micro_amx, micro_amx_int8, micro_amx_emulated, micro_amx_int8_emulated;
extern const Int8Rows int8_rows_avx512;
void dots_avx512bf16(int64_t m, int64_t n, int64_t k, const void* x, int32_t type_x, int64_t ldx, const void* w, int32_t type_w,
                     int64_t ldw, float scale, float* c, int64_t ldc, bool accumulate);
// Takes what it does not know to those of AVX-512; FP8 is its own where the processor permutes bytes (VBMI).
LowBitDots low_bit_avx512bf16(bool vbmi);
// As kernels_avx512.store, but numbers below 2^-126 become zero where they are rounded to BF16.
void store_avx512bf16(const float* c, int64_t ldc, int64_t m, int64_t n, float alpha, float beta, void* out, int32_t type, int64_t rows,
                      int64_t cols);
void decode_avx512bf16(void* strips, const Matrix& weights, int64_t columns, int64_t k);
void dots_tiled_avx512bf16(int64_t m, int64_t strips, int64_t k, const void* x, int64_t ldx, const Matrix& w, float* c, int64_t ldc,
                           bool accumulate);

}  // namespace kt
