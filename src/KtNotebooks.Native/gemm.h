// Sums of matrix products, many at once: the one routine under the dense GEMM and all grouped linear functions.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace kt {

// BF16 rows that are made where they are packed: gathered, or computed from others. Writes rows [first, first + rows) of length k.
struct RowSource {
    void (*fill)(const RowSource& self, int64_t first, int64_t rows, uint16_t* out);
};

// scale · A·B with A [m, k] and B [k, n]; B is given transposed, as [n, k]. BF16 instructions are used when both are BF16 and scale is 1,
// and where `split` says so: then an F32 side is multiplied as the sum of two BF16 parts (2^-17 of it is lost, as much as F32 sums lose).
// A low-bit B (only in the first term of a product) counts as A's type: it is dequantized to that. A tiled one wants a BF16 A.
struct Term {
    Matrix a, b;
    int64_t k;
    float scale = 1;
    bool split = false;
    const RowSource* source = nullptr;  // of A, in the place of its data
    int64_t source_first = 0;           // the row of the source that is A's first
};

// out [m, n] = alpha · Σ terms + beta · out: all terms are summed in F32 and rounded to the type of `out` once.
struct Product {
    int64_t m, n;
    Term terms[4];
    int term_count;
    float alpha, beta;
    void* out;
    int32_t type;
    int64_t rows, cols;  // distances in out
};

// Without terms yet: rows [first, first + rows) of a matrix [R, width], overwritten.
inline Product onto(void* out, int32_t type, int64_t width, int64_t first, int64_t rows, float alpha) {
    Product p{};
    p.m = rows;
    p.n = width;
    p.alpha = alpha;
    p.out = static_cast<char*>(out) + first * width * (type == KT_F32 ? 4 : 2);
    p.type = type;
    p.rows = width;
    p.cols = 1;
    return p;
}

// Stored weights [N, K] of any format.
inline Matrix weights_of(const void* data, int32_t type, const void* scales, int64_t K) {
    Matrix m{data, type, K, 1};
    if (m.is_low_bit()) m.stored = {scales, K, 0, 0, false};
    if (m.is_tiled()) m.stored = {nullptr, (K + TileUnit - 1) / TileUnit * TileUnit, 0, 0, false};
    return m;
}

void multiply(std::vector<Product> products);

// Products over the same rows. Terms of wide ones may read what narrow ones (at most 4, F32, contiguous) wrote; an A that stands in several
// is packed once.
struct Chain {
    std::vector<Product> narrow, wide;
};
void multiply(const std::vector<Chain>& chains);

// On: a row of a product that this thread asks for gets the same bits whatever other rows are computed with it.
void set_row_invariant(bool on);
bool is_row_invariant();

}  // namespace kt
