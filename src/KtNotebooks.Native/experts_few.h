// The experts of a layer that have few rows, when tokens are few (experts_few.cpp).
#pragma once
#include <vector>

#include "kt.h"

namespace kt {

// The rows [first, first + rows) of expert e.
struct Slice {
    int32_t e;
    int64_t first, rows;
};

// Whether any expert may be computed by dot products: tokens are few, and rows need not be alike.
bool has_few(const kt_experts& experts);
// Whether so many rows of an expert are.
bool is_few(const kt_experts& experts, int64_t rows);

// As kt_experts_forward, which has checked everything, for the slices that are few; the rows of the down projection are not rounded before
// they are summed. y is the sum over all slices, given in the order of the experts: those of the others lie in `rows` [R, D].
void forward_few(const kt_experts& experts, const std::vector<Slice>& slices, const void* x, const float* weights, void* g, void* u,
                 float* pGate, float* pUp, float* pDown, const void* rows, void* y, int32_t typeY);

}  // namespace kt
