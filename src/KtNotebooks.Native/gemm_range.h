// One range of rows of a product: its A in panels, and register tiles over them. What gemm.cpp and chains.cpp cut work into.
//
//   for each stretch of columns (one panel of nr where every K is one block of k; else some):
//       for each group of passes (a term, a block of k, a part of B; all passes where every K is one block), a round of columns at a time:
//           B [k_block, round] in strips: where it lies, if it is tiled; else packed
//           for each panel of nr columns of B: for each panel of mr rows of A: register tile over all passes of the group
//       store the stretch once, rounded once
//
// Each number is summed over k in an order that depends on k_block alone: the bits depend neither on the number of threads nor on how work
// is cut.
#pragma once
#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "scratch.h"

namespace kt {

constexpr int64_t LeastRows = 96, LeastColumns = 64;
constexpr int64_t PackRows = 96;  // packed at a time; a multiple of every mr

inline int64_t shares(int64_t n, int64_t most) { return (n + most - 1) / most; }
inline int64_t round_up(int64_t x, int64_t unit) { return shares(x, unit) * unit; }
// n cut into equal shares of at most `most`, each (but the last) a multiple of the unit.
inline int64_t even_share(int64_t n, int64_t most, int64_t unit) { return round_up(shares(n, shares(n, most)), unit); }

// Bytes of A whose panels are read again for every panel of B: they share a core's second cache with B and what comes next of it.
int64_t cached_bytes();

// A term of a product with the register tile that computes it. `parts` of an F32 side that is split are multiplied: high · high + low ·
// high + high · low.
struct Plan {
    const Micro* micro;
    int64_t k_padded;
    int a_parts, b_parts;
    bool is_int8() const { return micro->element == 1; }
    // Of one part. Quantized rows are followed by their scales.
    int64_t scales_at(int64_t m) const { return round_up(m, micro->mr) * k_padded * micro->element; }
    int64_t packed_bytes(int64_t m) const { return round_up(scales_at(m) + (is_int8() ? round_up(m, 16) * 4 : 0), 64); }
    bool joined = false;  // all parts of both sides along one short k
    Part32 part_a(int index) const;
    Part32 part_b(int index) const;
};

Plan plan(const Kernels& kernels, const Term& t);

// Scales of INT8 weights: of the columns of B as stored, of k turned.
inline const float* int8_scales(const Matrix& b, int64_t at) { return static_cast<const float*>(b.stored.scales) + b.stored.row + at; }

struct Range {
    const Product* product;
    int64_t first, rows;
    char* packed[4][2];  // of a term and a part; null: packed panel by panel where it is multiplied
};

// A block of B as the kernels read it: low bits are dequantized to the type of A, in stored orientation, while the block is in cache.
Matrix readable(const Kernels& kernels, const Matrix& b, int64_t columns, int64_t k, int32_t type, Scratch& memory);
// The most rows of a range of this product whose A stays in the second cache.
int64_t cached_rows(const Kernels& kernels, const Product& p);
// Rows [first, first + PackRows) of a range go into its panels.
void pack(const Kernels& kernels, const Range& range, int term, int part, int64_t first);
// The product's columns [first, first + columns) of a range.
void compute(const Kernels& kernels, const Range& range, int64_t first, int64_t columns);

}  // namespace kt
