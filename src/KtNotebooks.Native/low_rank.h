// Gradients of low-rank pairs: sums of outer products over the rows of an expert.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace kt {

// to [r, n] = scale · Σ_i factors[i]ᵀ · x[i] over the rows of x, each of n numbers; `transposed`: to [n, r]. No rows: zeros.
struct OuterSum {
    OuterRowsOf x;
    const float* factors;  // [rows, r]
    int64_t r, n;
    float scale;
    float* to;
    bool transposed;
};

// Up to this rank rows are read once and nothing is packed; above it products on matrix registers are faster.
constexpr int64_t MostOuterRank = 16;

// x of a higher rank than MostOuterRank must lie in order (no index).
void add_up(const std::vector<OuterSum>& sums);

}  // namespace kt
