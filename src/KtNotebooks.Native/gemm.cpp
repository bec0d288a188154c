// The blocked GEMM. Work is cut into ranges of at most 512 rows of a product; a task computes one range times one block of columns, in an
// F32 block that stays in cache:
//
//   for each term, for each block of k:  pack B [k_block, columns] (cache-sized; the only copy of the weights)
//                                        for each panel of mr rows of A: for each panel of nr columns of B: register tile
//   store the block once, rounded once
//
// A is packed ahead, once for all its column blocks, when there are several; else by the task itself. Each number is summed over k in an
// order that depends on k_block alone: the bits depend neither on the number of threads nor on the sizes of blocks.
#include "gemm.h"

#include <algorithm>
#include <atomic>

#include "cpu.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t RangeRows = 512, BlockColumns = 256, DotRows = 4, ShortSide = 24;
// Rows of low-bit weights dequantized at a time: what dots reads together, small enough for the first cache.
constexpr int64_t DequantizedDots = 4;
constexpr int64_t PackedLimit = 32 << 20;  // bytes of A packed ahead at a time
constexpr int64_t PackRows = 96;           // a packing task; a multiple of every mr

thread_local bool row_invariant = false;  // read by the thread that asks for a product, never by those that help

int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// A term of a product with the register tile that computes it.
struct Plan {
    const Micro* micro;
    int64_t k_padded;
    int64_t packed_bytes(int64_t m) const { return round_up(m, micro->mr) * k_padded * micro->element; }
};

Plan plan(const Kernels& kernels, const Term& t) {
    bool bf16 = kernels.bf16.element && t.a.type == 1 && (t.b.type == 1 || t.b.is_low_bit()) && t.scale == 1;
    const Micro* micro = bf16 ? &kernels.bf16 : &kernels.f32;
    return {micro, round_up(t.k, micro->k_unit)};
}

struct Range {
    const Product* product;
    int64_t first, rows;
    char* packed[2];  // null: the task packs A itself
};

struct Task {
    const Range* range;
    int64_t first, columns;
};

struct PackTask {
    const Range* range;
    int term;
    int64_t first;
};

// The packed form of a range of A: [k block][panel of mr rows][k in the block][mr].
char* panel_at(const Plan& p, char* packed, int64_t rows, int64_t k0, int64_t k_length, int64_t row) {
    return packed + (round_up(rows, p.micro->mr) * k0 + row * k_length) * p.micro->element;
}

void pack_ahead(const Kernels& kernels, const PackTask& task) {
    const Range& range = *task.range;
    const Term& t = range.product->terms[task.term];
    Plan p = plan(kernels, t);
    const Micro& micro = *p.micro;
    for (int64_t k0 = 0; k0 < t.k; k0 += micro.k_block) {
        int64_t k = std::min<int64_t>(micro.k_block, t.k - k0), padded = round_up(k, micro.k_unit);
        kernels.pack(panel_at(p, range.packed[task.term], range.rows, k0, padded, task.first), micro.element,
                     t.a.from(range.first + task.first, k0), std::min(PackRows, range.rows - task.first), k, micro.mr, micro.group_a,
                     padded, t.scale);
    }
}

// A block of B as the kernels read it: low bits are dequantized to the type of A, in stored orientation, while the block is in cache.
Matrix readable(const Kernels& kernels, const Matrix& b, int64_t columns, int64_t k, int32_t type, Scratch& memory) {
    if (!b.is_low_bit()) return b;
    int64_t stored_rows = b.low.turned ? k : columns, stored_columns = b.low.turned ? columns : k;
    void* block = memory.get<char>(stored_rows * stored_columns * (type == 0 ? 4 : 2));
    kernels.dequantize(b, stored_rows, stored_columns, block, type);
    return b.low.turned ? Matrix{block, type, 1, stored_columns} : Matrix{block, type, stored_columns, 1};
}

void compute(const Kernels& kernels, const Task& task) {
    thread_local Scratch block_memory, b_memory, a_memory, block_values;
    const Range& range = *task.range;
    const Product& product = *range.product;
    const int64_t ldc = round_up(task.columns, 32);
    float* c = block_memory.get<float>(round_up(range.rows, 32) * ldc);
    bool written = false;
    for (int index = 0; index < product.term_count; index++) {
        const Term& t = product.terms[index];
        if (t.k == 0) continue;
        Plan p = plan(kernels, t);
        const Micro& micro = *p.micro;
        int64_t longest = std::min<int64_t>(p.k_padded, micro.k_block);
        char* b = b_memory.get<char>(round_up(task.columns, micro.nr) * longest * micro.element);
        char* own = range.packed[index] ? nullptr : a_memory.get<char>(micro.mr * longest * micro.element);
        if (micro.begin) micro.begin();
        for (int64_t k0 = 0; k0 < t.k; k0 += micro.k_block) {
            int64_t k = std::min<int64_t>(micro.k_block, t.k - k0), padded = round_up(k, micro.k_unit);
            Matrix block = readable(kernels, t.b.from(task.first, k0), task.columns, k, t.a.type, block_values);
            kernels.pack(b, micro.element, block, task.columns, k, micro.nr, micro.group_b, padded, 1);
            for (int64_t i = 0; i < range.rows; i += micro.mr) {
                int32_t rows = static_cast<int32_t>(std::min<int64_t>(micro.mr, range.rows - i));
                char* a = own;
                if (own)
                    kernels.pack(a, micro.element, t.a.from(range.first + i, k0), rows, k, micro.mr, micro.group_a, padded, t.scale);
                else
                    a = panel_at(p, range.packed[index], range.rows, k0, padded, i);
                for (int64_t j = 0; j < task.columns; j += micro.nr)
                    micro.tile(padded, a, b + j * padded * micro.element, c + i * ldc + j, ldc, rows,
                               static_cast<int32_t>(std::min<int64_t>(micro.nr, task.columns - j)), written);
            }
            written = true;
        }
        if (micro.end) micro.end();
    }
    if (!written) std::fill(c, c + range.rows * ldc, 0.0f);
    char* out = static_cast<char*>(product.out) + (range.first * product.rows + task.first * product.cols) * (product.type == 0 ? 4 : 2);
    kernels.store(c, ldc, range.rows, task.columns, product.alpha, product.beta, out, product.type, product.rows, product.cols);
}

// A few rows times stored rows of weights (generation): bound by reading B once, so nothing is packed. A dot product sums in another order
// than a tile, so a row's bits then depend on how many rows come with it.
bool fits_dots(const Product& p) {
    if (p.m > DotRows || row_invariant) return false;
    for (int t = 0; t < p.term_count; t++)
        if (p.terms[t].a.cols != 1 || (p.terms[t].b.is_low_bit() ? p.terms[t].b.low.turned : p.terms[t].b.cols != 1)) return false;
    return true;
}

void compute_dots(const Kernels& kernels, const Product& p, int64_t first, int64_t columns) {
    thread_local Scratch block_values;
    float c[DotRows * BlockColumns] = {};
    for (int index = 0; index < p.term_count; index++) {
        const Term& t = p.terms[index];
        int64_t step = t.b.is_low_bit() ? DequantizedDots : columns;
        for (int64_t j = 0; j < columns; j += step) {
            int64_t n = std::min(step, columns - j);
            Matrix b = readable(kernels, t.b.from(first + j, 0), n, t.k, t.a.type, block_values);
            kernels.dots(p.m, n, t.k, t.a.data, t.a.type, t.a.rows, b.data, b.type, b.rows, t.scale, c + j, BlockColumns, index > 0);
        }
    }
    char* out = static_cast<char*>(p.out) + first * p.cols * (p.type == 0 ? 4 : 2);
    kernels.store(c, BlockColumns, p.m, columns, p.alpha, p.beta, out, p.type, p.rows, p.cols);
}

// The same product as outᵀ = Bᵀ·Aᵀ. A tile takes any number of rows, but columns by the vector: a short side (a LoRA rank) belongs in A.
void flip(Product& p) {
    std::swap(p.m, p.n);
    std::swap(p.rows, p.cols);
    for (int t = 0; t < p.term_count; t++) std::swap(p.terms[t].a, p.terms[t].b);
}

void multiply_dots(const Kernels& kernels, const std::vector<const Product*>& products) {
    struct Piece {
        const Product* product;
        int64_t first;
    };
    constexpr int64_t Columns = 64;
    std::vector<Piece> pieces;
    for (const Product* p : products)
        for (int64_t j = 0; j < p->n; j += Columns) pieces.push_back({p, j});
    parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        compute_dots(kernels, *pieces[i].product, pieces[i].first, std::min(Columns, pieces[i].product->n - pieces[i].first));
    });
}

// One wave: the ranges [first, last) whose A fits the limit.
void run_wave(const Kernels& kernels, std::vector<Range>& ranges, size_t first, size_t last, int64_t columns) {
    thread_local Scratch packed_memory;
    int64_t bytes = 0;
    for (size_t r = first; r < last; r++)
        if (ranges[r].product->n > columns)
            for (int t = 0; t < ranges[r].product->term_count; t++)
                bytes += round_up(plan(kernels, ranges[r].product->terms[t]).packed_bytes(ranges[r].rows), 64);
    char* memory = bytes ? packed_memory.get<char>(bytes) : nullptr;
    std::vector<PackTask> packs;
    std::vector<Task> tasks;
    for (size_t r = first; r < last; r++) {
        Range& range = ranges[r];
        const Product& p = *range.product;
        for (int t = 0; t < p.term_count && p.n > columns; t++) {
            range.packed[t] = memory;
            memory += round_up(plan(kernels, p.terms[t]).packed_bytes(range.rows), 64);
            for (int64_t i = 0; i < range.rows; i += PackRows) packs.push_back({&range, t, i});
        }
        for (int64_t j = 0; j < p.n; j += columns) tasks.push_back({&range, j, std::min(columns, p.n - j)});
    }
    parallel_for(static_cast<int64_t>(packs.size()), [&](int64_t i) { pack_ahead(kernels, packs[i]); });
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) { compute(kernels, tasks[i]); });
}

}  // namespace

void set_row_invariant(bool on) { row_invariant = on; }

void multiply(std::vector<Product> products) {
    const Kernels& kernels = kt::kernels();
    for (Product& p : products)
        if (p.n <= ShortSide && p.n < p.m && p.m > DotRows && !p.terms[0].b.is_low_bit()) flip(p);
    std::vector<const Product*> small;
    std::vector<Range> ranges;
    int64_t blocks = 0;
    // Blocks get smaller until every thread has a few tasks.
    int64_t columns = BlockColumns, rows = RangeRows, enough = 4 * pool_threads();
    auto count_blocks = [&] {
        blocks = 0;
        for (const Product& p : products)
            if (!fits_dots(p)) blocks += (p.m + rows - 1) / rows * ((p.n + columns - 1) / columns);
        return blocks;
    };
    while (count_blocks() < enough && (columns > 64 || rows > 96)) {
        if (columns > 64) columns /= 2;
        if (count_blocks() < enough && rows > 96) rows = rows == RangeRows ? 192 : 96;
    }
    for (const Product& p : products) {
        if (p.m == 0 || p.n == 0) continue;
        if (fits_dots(p))
            small.push_back(&p);
        else
            for (int64_t i = 0; i < p.m; i += rows) ranges.push_back({&p, i, std::min(rows, p.m - i), {}});
    }
    if (!small.empty()) multiply_dots(kernels, small);
    for (size_t first = 0; first < ranges.size();) {
        size_t last = first;
        for (int64_t bytes = 0; last < ranges.size() && (last == first || bytes <= PackedLimit); last++)
            for (int t = 0; t < ranges[last].product->term_count; t++)
                bytes += plan(kernels, ranges[last].product->terms[t]).packed_bytes(ranges[last].rows);
        run_wave(kernels, ranges, first, last, columns);
        first = last;
    }
}

}  // namespace kt
