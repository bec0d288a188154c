// A few tokens through a layer of routed experts (experts_few.cpp).
#pragma once
#include "kt.h"

namespace kt {

// Whether rows are so few that dot products are the way: also every expert's, whose weights are read once for four rows.
bool fits_few(const kt_experts& experts);

// As kt_experts_forward, which has checked everything; the rows of the down projection are not rounded before they are summed.
void forward_few(const kt_experts& experts, const void* x, const float* weights, void* g, void* u, float* pGate, float* pUp, float* pDown,
                 void* y, int32_t typeY);

}  // namespace kt
