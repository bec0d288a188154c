// Sums of matrix products, many at once: the one routine under the dense GEMM and all grouped linear functions.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace kt {

// scale · A·B with A [m, k] and B [k, n]; B is given transposed, as [n, k]. BF16 instructions are used when both are BF16 and scale is 1.
// A low-bit B (only in the first term of a product) counts as A's type: it is dequantized to that.
struct Term {
    Matrix a, b;
    int64_t k;
    float scale = 1;
};

// out [m, n] = alpha · Σ terms + beta · out: all terms are summed in F32 and rounded to the type of `out` once.
struct Product {
    int64_t m, n;
    Term terms[2];
    int term_count;
    float alpha, beta;
    void* out;
    int32_t type;
    int64_t rows, cols;  // distances in out
};

void multiply(std::vector<Product> products);

// On: a row of a product that this thread asks for gets the same bits whatever other rows are computed with it.
void set_row_invariant(bool on);

}  // namespace kt
