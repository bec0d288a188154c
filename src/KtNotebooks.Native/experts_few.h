// A layer of routed experts for a few tokens (experts_few.cpp).
#pragma once
#include <vector>

#include "kt.h"

namespace kt {

// The rows [first, first + rows) of expert e.
struct Slice {
    int32_t e;
    int64_t first, rows;
};

// Whether all experts are computed by dot products: tokens are few, and so are the rows of each, and rows need not be alike. All or none:
// dot products round otherwise than tiles, and otherwise for each format, so a small training window whose experts were shared out between
// both would not have the bits of the same window on converted weights.
bool fits_few(const kt_experts& experts);

// As kt_experts_forward, which has checked everything, for the experts with rows; the rows of the down projection are not rounded before
// they are summed.
void forward_few(const kt_experts& experts, const std::vector<Slice>& slices, const void* x, const float* weights, void* g, void* u,
                 float* pGate, float* pUp, float* pDown, void* y, int32_t typeY);

}  // namespace kt
