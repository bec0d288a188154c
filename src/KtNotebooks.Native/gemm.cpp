// The blocked GEMM. Work is cut into ranges of rows of a product, whose A stays in the second cache; a task computes one range times some
// columns (gemm_range.h). A is packed ahead, once for all its column tasks, unless there is one panel of columns. A few rows are multiplied
// by dot products instead.
#include "gemm.h"

#include <algorithm>
#include <vector>

#include "cpu.h"
#include "gemm_range.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t RangeRows = 512, TaskColumns = 384, DotRows = 4, DotColumns = 64, ShortSide = 24;
// Rows of low-bit weights dequantized at a time: what dots reads together, small enough for the first cache.
constexpr int64_t DequantizedDots = 4;
constexpr int64_t PackedLimit = 96 << 20;  // bytes of A packed ahead at a time

thread_local bool row_invariant = false;  // read by the thread that asks for a product, never by those that help

// A few rows times stored rows of weights (generation): bound by reading B once, so nothing is packed. A dot product sums in another order
// than a tile, so a row's bits then depend on how many rows come with it.
bool fits_dots(const Product& p) {
    if (p.m > DotRows || row_invariant) return false;
    for (int t = 0; t < p.term_count; t++)
        if (p.terms[t].source || p.terms[t].a.cols != 1 ||
            (p.terms[t].b.type > KT_BF16 ? p.terms[t].b.stored.turned : p.terms[t].b.cols != 1))
            return false;
    return true;
}

void compute_dots(const Kernels& kernels, const Product& p, int64_t first, int64_t columns) {
    thread_local Scratch block_values, ready_rows;
    float c[DotRows * DotColumns] = {};
    for (int index = 0; index < p.term_count; index++) {
        const Term& t = p.terms[index];
        if (t.b.is_tiled()) {
            kernels.dots_tiled(p.m, (columns + TileRows - 1) / TileRows, t.k, t.a.data, t.a.rows, t.b.from(first, 0), c, DotColumns,
                               index > 0);
            continue;
        }
        if (t.b.is_low_bit() && t.a.type == KT_BF16) {
            const int64_t bytes = kernels.low_bit.bytes(t.b.type, t.k);
            char* rows = ready_rows.get<char>(p.m * bytes);
            for (int64_t i = 0; i < p.m; i++)
                kernels.low_bit.ready(t.b.type, static_cast<const uint16_t*>(t.a.at(i, 0)), t.k, rows + i * bytes);
            kernels.low_bit.dots(p.m, columns, t.k, rows, t.b.from(first, 0), c, DotColumns, index > 0);
            continue;
        }
        int64_t step = t.b.is_low_bit() ? DequantizedDots : columns;
        for (int64_t j = 0; j < columns; j += step) {
            int64_t n = std::min(step, columns - j);
            Matrix b = readable(kernels, t.b.from(first + j, 0), n, t.k, t.a.type, block_values);
            kernels.dots(p.m, n, t.k, t.a.data, t.a.type, t.a.rows, b.data, b.type, b.rows, t.scale, c + j, DotColumns, index > 0);
        }
    }
    char* out = static_cast<char*>(p.out) + first * p.cols * (p.type == 0 ? 4 : 2);
    kernels.store(c, DotColumns, p.m, columns, p.alpha, p.beta, out, p.type, p.rows, p.cols);
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
    std::vector<Piece> pieces;
    for (const Product* p : products)
        for (int64_t j = 0; j < p->n; j += DotColumns) pieces.push_back({p, j});
    parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        compute_dots(kernels, *pieces[i].product, pieces[i].first, std::min(DotColumns, pieces[i].product->n - pieces[i].first));
    });
}

// A range is packed ahead where its panels are met by more than one panel of columns.
bool packs_ahead(const Plan& plan, const Product& p, const Term& t) { return p.n > plan.micro->nr || t.source || plan.is_int8(); }

int64_t ahead_bytes(const Kernels& kernels, const Range& range) {
    int64_t bytes = 0;
    for (int t = 0; t < range.product->term_count; t++) {
        Plan p = plan(kernels, range.product->terms[t]);
        if (packs_ahead(p, *range.product, range.product->terms[t])) bytes += p.a_parts * p.packed_bytes(range.rows);
    }
    return bytes;
}

struct Task {
    const Range* range;
    int64_t first, columns;
};

struct PackTask {
    const Range* range;
    int term, part;
    int64_t first;
};

// One wave: the ranges [first, last) whose A fits the limit.
void run_wave(const Kernels& kernels, std::vector<Range>& ranges, size_t first, size_t last, int64_t bytes, int64_t most_columns,
              Scratch& memory) {
    char* next = bytes ? memory.get<char>(bytes) : nullptr;
    std::vector<PackTask> packs;
    std::vector<Task> tasks;
    for (size_t r = first; r < last; r++) {
        Range& range = ranges[r];
        const Product& product = *range.product;
        for (int t = 0; t < product.term_count; t++) {
            const Term& term = product.terms[t];
            Plan p = plan(kernels, term);
            for (int part = 0; part < p.a_parts && packs_ahead(p, product, term); part++) {
                range.packed[t][part] = next;
                next += p.packed_bytes(range.rows);
                for (int64_t i = 0; i < range.rows; i += PackRows) packs.push_back({&range, t, part, i});
            }
        }
        const int64_t columns = even_share(product.n, most_columns, TileUnit);
        for (int64_t j = 0; j < product.n; j += columns) tasks.push_back({&range, j, std::min(columns, product.n - j)});
    }
    parallel_for(static_cast<int64_t>(packs.size()),
                 [&](int64_t i) { pack(kernels, *packs[i].range, packs[i].term, packs[i].part, packs[i].first); });
    parallel_for(static_cast<int64_t>(tasks.size()),
                 [&](int64_t i) { compute(kernels, *tasks[i].range, tasks[i].first, tasks[i].columns); });
}

}  // namespace

void set_row_invariant(bool on) { row_invariant = on; }
bool is_row_invariant() { return row_invariant; }

namespace {

struct Cut {
    std::vector<Range> ranges;
    int64_t columns;
};

// Ranges and columns of tasks, so many that every thread has a few.
Cut cut(const Kernels& kernels, std::vector<const Product*> products) {
    // Hot experts first, so that no long task begins when all others have ended.
    std::stable_sort(products.begin(), products.end(), [](const Product* a, const Product* b) { return a->m > b->m; });
    int64_t columns = TaskColumns, rows = RangeRows;
    auto rows_of = [&](const Product& p) { return even_share(p.m, std::min(rows, cached_rows(kernels, p)), LeastRows); };
    auto count_tasks = [&] {
        int64_t count = 0;
        for (const Product* p : products) count += shares(p->m, rows_of(*p)) * shares(p->n, columns);
        return count;
    };
    for (const int64_t enough = 4 * pool_threads(); count_tasks() < enough && (columns > LeastColumns || rows > LeastRows);) {
        if (columns > LeastColumns) columns /= 2;
        if (count_tasks() < enough && rows > LeastRows) rows = rows == RangeRows ? 2 * LeastRows : LeastRows;
    }
    Cut result{{}, columns};
    for (const Product* p : products)
        for (int64_t i = 0, share = rows_of(*p); i < p->m; i += share) result.ranges.push_back({p, i, std::min(share, p->m - i), {}});
    return result;
}

// Sides may be swapped without a change of bits unless both are sums of parts.
bool may_flip(const Product& p) {
    for (int t = 0; t < p.term_count; t++)
        if (p.terms[t].b.type > KT_BF16 || (p.terms[t].split && p.terms[t].a.type == KT_F32 && p.terms[t].b.type == KT_F32)) return false;
    return p.n <= ShortSide && p.n < p.m && p.m > DotRows;
}

}  // namespace

void multiply(std::vector<Product> products) {
    thread_local Scratch packed_memory;
    const Kernels& kernels = kt::kernels();
    for (Product& p : products)
        if (may_flip(p)) flip(p);
    std::vector<const Product*> small, large;
    for (const Product& p : products)
        if (p.m > 0 && p.n > 0) (fits_dots(p) ? small : large).push_back(&p);
    if (!small.empty()) multiply_dots(kernels, small);
    auto [ranges, columns] = cut(kernels, large);
    for (size_t first = 0; first < ranges.size();) {
        int64_t bytes = 0;
        size_t last = first;
        for (; last < ranges.size(); last++) {
            int64_t more = ahead_bytes(kernels, ranges[last]);
            if (last > first && bytes + more > PackedLimit) break;
            bytes += more;
        }
        run_wave(kernels, ranges, first, last, bytes, columns, packed_memory);
        first = last;
    }
}

}  // namespace kt
