// The blocked GEMM. Work is cut into ranges of rows of a product, whose A stays in the second cache; a task computes one range times some
// columns:
//
//   for each stretch of columns (one panel of nr where every K is one block of k; else all columns):
//       for each group of passes (a term, a block of k, a part of B; all passes where every K is one block):
//           B [k_block, stretch] in strips: where it lies, if it is tiled; else packed
//           for each panel of nr columns of B: for each panel of mr rows of A: register tile over all passes of the group
//       store the stretch once, rounded once
//
// A is packed ahead, once for all its column tasks, unless there is one panel of columns. Each number is summed over k in an order that
// depends on k_block alone: the bits depend neither on the number of threads nor on the sizes of ranges and tasks.
#include "gemm.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "cpu.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t RangeRows = 512, LeastRows = 96, BlockColumns = 384, LeastColumns = 64, DotRows = 4, DotColumns = 64, ShortSide = 24;
constexpr int64_t TurnedColumns = 128;   // a block of FP8 scales, four groups of 4 bits
constexpr int64_t RangeBytes = 5 << 18;  // of a block of A that is read again for every panel of B: it shares the second cache
// Rows of low-bit weights dequantized at a time: what dots reads together, small enough for the first cache.
constexpr int64_t DequantizedDots = 4;
constexpr int64_t PackedLimit = 96 << 20;  // bytes of A packed ahead at a time
constexpr int64_t PackRows = 96;           // a packing task; a multiple of every mr
constexpr int64_t TileLines = 16;          // cache lines of a strip a k_unit, where strips are tiles

thread_local bool row_invariant = false;  // read by the thread that asks for a product, never by those that help

int64_t shares(int64_t n, int64_t most) { return (n + most - 1) / most; }
int64_t round_up(int64_t x, int64_t unit) { return shares(x, unit) * unit; }
// n cut into equal shares of at most `most`, each (but the last) a multiple of the unit.
int64_t even_share(int64_t n, int64_t most, int64_t unit) { return round_up(shares(n, shares(n, most)), unit); }

constexpr Part32 BothParts[2] = {High, Low};

// A term of a product with the register tile that computes it. `parts` of an F32 side that is split are multiplied: high · high + low ·
// high + high · low.
struct Plan {
    const Micro* micro;
    int64_t k_padded;
    int a_parts, b_parts;
    bool is_int8() const { return micro->element == 1; }
    // Of one part. Quantized rows are followed by their scales.
    int64_t scales_at(int64_t m) const { return round_up(m, micro->mr) * k_padded * micro->element; }
    int64_t packed_bytes(int64_t m) const { return scales_at(m) + (is_int8() ? round_up(m, 16) * 4 : 0); }
    bool joined = false;  // all parts of both sides along one short k
    Part32 part_a(int index) const { return joined ? JoinedA : a_parts == 1 ? Whole : BothParts[index]; }
    Part32 part_b(int index) const { return joined ? JoinedB : b_parts == 1 ? Whole : BothParts[index]; }
};

Plan plan(const Kernels& kernels, const Term& t) {
    if (kernels.int8.element && t.a.type == KT_BF16 && t.b.type == KT_INT8 && t.scale == 1)
        return {&kernels.int8, round_up(t.k, kernels.int8.k_unit), 1, 1};
    bool stored = t.a.type == 1 && (t.b.type == 1 || t.b.is_low_bit() || t.b.is_tiled()) && t.scale == 1;
    bool bf16 = kernels.bf16.element && (stored || t.split);
    if (!bf16) return {&kernels.f32, round_up(t.k, kernels.f32.k_unit), 1, 1};
    if (t.a.type == 0 && t.b.type == 0 && 3 * t.k <= kernels.bf16.k_unit) return {&kernels.bf16, kernels.bf16.k_unit, 1, 1, true};
    return {&kernels.bf16, round_up(t.k, kernels.bf16.k_unit), t.a.type == 0 ? 2 : 1, t.b.type == 0 ? 2 : 1};
}

struct Range {
    const Product* product;
    int64_t first, rows;
    char* packed[4][2];  // of a term and a part; null: the task packs A itself
};

struct Task {
    const Range* range;
    int64_t first, columns;
};

struct PackTask {
    const Range* range;
    int term, part;
    int64_t first;
};

// The packed form of a range of A: [k block][panel of mr rows][k in the block][mr].
char* panel_at(const Plan& p, char* packed, int64_t rows, int64_t k0, int64_t k_length, int64_t row) {
    return packed + (round_up(rows, p.micro->mr) * k0 + row * k_length) * p.micro->element;
}

// Scales of INT8 weights: of the columns of B as stored, of k turned.
const float* int8_scales(const Matrix& b, int64_t at) { return static_cast<const float*>(b.stored.scales) + b.stored.row + at; }

// Rows [first, first + rows) of a range as codes and scales; what turned weights have for scales goes into the rows before.
void quantize_ahead(const Kernels& kernels, const Plan& p, const Term& t, const Range& range, const Matrix& a, int64_t first,
                    int64_t rows) {
    char* packed = range.packed[&t - range.product->terms][0];
    float* scales = reinterpret_cast<float*>(packed + p.scales_at(range.rows));
    const int64_t mr = p.micro->mr;
    for (int64_t i = first; i < first + rows; i++)
        for (int64_t k0 = 0; k0 < t.k; k0 += p.micro->k_block) {
            const int64_t k = std::min<int64_t>(p.micro->k_block, t.k - k0), padded = round_up(k, p.micro->k_unit);
            char* panel = panel_at(p, packed, range.rows, k0, padded, i / mr * mr);
            auto codes = reinterpret_cast<int8_t*>(panel) + i % mr * p.micro->group_a;
            scales[i] = kernels.int8_rows.quantize(static_cast<const uint16_t*>(a.at(i - first, k0)),
                                                   t.b.stored.turned ? int8_scales(t.b, k0) : nullptr, k, codes, mr * p.micro->group_a);
        }
}

void pack_ahead(const Kernels& kernels, const PackTask& task) {
    thread_local Scratch made;
    const Range& range = *task.range;
    const Term& t = range.product->terms[task.term];
    Plan p = plan(kernels, t);
    const Micro& micro = *p.micro;
    const int64_t rows = std::min(PackRows, range.rows - task.first), first = range.first + task.first;
    Matrix a = t.source ? Matrix{made.get<uint16_t>(rows * t.k), KT_BF16, t.k, 1} : t.a.from(first, 0);
    if (t.source) t.source->fill(*t.source, t.source_first + first, rows, static_cast<uint16_t*>(const_cast<void*>(a.data)));
    if (p.is_int8()) return quantize_ahead(kernels, p, t, range, a, task.first, rows);
    for (int64_t k0 = 0; k0 < t.k; k0 += micro.k_block) {
        int64_t k = std::min<int64_t>(micro.k_block, t.k - k0), padded = round_up(k, micro.k_unit);
        kernels.pack(panel_at(p, range.packed[task.term][task.part], range.rows, k0, padded, task.first), micro.element, a.from(0, k0),
                     rows, k, micro.mr, micro.group_a, padded, t.scale, p.part_a(task.part));
    }
}

// A block of B as the kernels read it: low bits are dequantized to the type of A, in stored orientation, while the block is in cache.
Matrix readable(const Kernels& kernels, const Matrix& b, int64_t columns, int64_t k, int32_t type, Scratch& memory) {
    if (!b.is_low_bit()) return b;
    int64_t stored_rows = b.stored.turned ? k : columns, stored_columns = b.stored.turned ? columns : k;
    void* block = memory.get<char>(stored_rows * stored_columns * (type == 0 ? 4 : 2));
    kernels.dequantize(b, stored_rows, stored_columns, block, type);
    return b.stored.turned ? Matrix{block, type, 1, stored_columns} : Matrix{block, type, stored_columns, 1};
}

// A block of k of a term, and one part of its B: strips that meet parts of A. Their sums stay in registers together.
struct Pass {
    const Term* term;
    Plan plan;
    int index, b_part;
    int64_t k0, k, padded;
    const char* strips;
    int64_t distance;  // between strips

    int a_parts() const { return plan.a_parts == 2 ? 2 - b_part : 1; }  // without low · low
};

// The strips of columns [first, first + columns) of a pass: where they lie, if they are tiled; else packed.
void find_strips(const Kernels& kernels, Pass& pass, int64_t first, int64_t columns, Scratch& memory) {
    thread_local Scratch block_values;
    const Micro& micro = *pass.plan.micro;
    const Matrix b = pass.term->b.from(first, pass.k0);
    if (b.is_tiled() && !b.stored.turned) {
        pass.strips = b.strip(), pass.distance = b.strip_bytes();
        return;
    }
    const bool decodes = b.is_low_bit() && micro.element == 2 && kernels.decode, int8 = pass.plan.is_int8();
    const int64_t padded = round_up(pass.k, b.is_tiled() || decodes ? TileUnit : micro.k_unit);
    pass.distance = micro.strip * padded * micro.element;
    char* strips = memory.get<char>(round_up(columns, micro.nr) / micro.strip * pass.distance);
    if (int8)
        kernels.int8_rows.strips(strips, b, columns, pass.k);
    else if (b.is_tiled())
        kernels.turn(strips, b, round_up(columns, TileUnit), pass.k);
    else if (decodes)
        kernels.decode(strips, b, columns, pass.k);
    else
        kernels.pack(strips, micro.element, readable(kernels, b, columns, pass.k, pass.term->a.type, block_values), columns, pass.k,
                     micro.strip, micro.group_b, padded, 1, pass.plan.part_b(pass.b_part));
    pass.strips = strips;
}

// Tiled weights of the next panel of columns, which begins at `column`: each of the rows of panels of this one brings its share.
Ahead ahead_of(const Pass& pass, int64_t column, int64_t panel, int64_t panels) {
    if (!pass.term->b.is_tiled()) return {};
    const Matrix b = pass.term->b.from(column, pass.k0);
    const int64_t from = panel * TileLines / panels, to = (panel + 1) * TileLines / panels, strip = b.strip_bytes();
    return {b.strip() + from * 64, strip, b.stored.turned ? 2 * strip : TileUnit * TileRows * 2, static_cast<int32_t>(to - from)};
}

constexpr int MostPasses = 8, MostSegments = 16;

// Adds the passes, all of one register tile's kind, to c [rows, columns] of the range, whose first column is `first` of B.
void add_passes(const Kernels& kernels, const Task& task, Pass* passes, int count, int64_t first, int64_t columns, float* c, int64_t ldc,
                bool accumulate) {
    thread_local Scratch b_memory[MostPasses], a_memory[MostSegments], integers;
    const Range& range = *task.range;
    const Micro& micro = *passes[0].plan.micro;
    const int64_t panels = shares(range.rows, micro.mr);
    const bool int8 = passes[0].plan.is_int8();
    float* sums = int8 ? integers.get<float>(round_up(range.rows, 32) * ldc) : c;
    for (int p = 0; p < count; p++) find_strips(kernels, passes[p], first, columns, b_memory[p]);
    if (micro.begin) micro.begin();
    for (int64_t j = 0; j < columns; j += micro.nr)
        for (int64_t i = 0; i < range.rows; i += micro.mr) {
            const int32_t rows = static_cast<int32_t>(std::min<int64_t>(micro.mr, range.rows - i));
            const bool last = first + j + micro.nr >= task.first + task.columns;
            Segment segments[MostSegments];
            int n = 0;
            for (int p = 0; p < count; p++)
                for (int part = 0; part < passes[p].a_parts(); part++, n++) {
                    const Pass& pass = passes[p];
                    char* a = range.packed[pass.index][part];
                    if (a)
                        a = panel_at(pass.plan, a, range.rows, pass.k0, pass.padded, i);
                    else
                        kernels.pack(a = a_memory[n].get<char>(micro.mr * pass.padded * micro.element), micro.element,
                                     pass.term->a.from(range.first + i, pass.k0), rows, pass.k, micro.mr, micro.group_a, pass.padded,
                                     pass.term->scale, pass.plan.part_a(part));
                    segments[n] = {pass.padded, a, pass.strips + j / micro.strip * pass.distance, pass.distance, {}};
                    const bool in_strips = pass.term->b.stored.turned && j + micro.nr < columns;  // what comes next is there
                    if (part == 0 && !last && !in_strips) segments[n].ahead = ahead_of(pass, first + j + micro.nr, i / micro.mr, panels);
                }
            micro.tile(segments, n, sums + i * ldc + j, ldc, rows, static_cast<int32_t>(std::min<int64_t>(micro.nr, columns - j)),
                       accumulate && !int8);
        }
    if (micro.end) micro.end();
    if (!int8) return;
    const Pass& pass = passes[0];  // alone in its group
    const Matrix& b = pass.term->b;
    kernels.int8_rows.add(reinterpret_cast<const int32_t*>(sums), ldc, range.rows, columns,
                          reinterpret_cast<const float*>(range.packed[pass.index][0] + pass.plan.scales_at(range.rows)),
                          b.stored.turned ? nullptr : int8_scales(b, first), c, ldc, accumulate);
}

// The passes of a product in order, of which [begin, end) are added together: all of them where each term is one block of k.
struct Group {
    size_t begin, end;
};

void compute(const Kernels& kernels, const Task& task) {
    thread_local Scratch sums;
    thread_local std::vector<Pass> passes;
    thread_local std::vector<Group> groups;
    const Range& range = *task.range;
    const Product& product = *range.product;
    passes.clear(), groups.clear();
    bool whole = true, turned_codes = false, int8 = false;
    const Micro* micro = nullptr;
    for (int index = 0; index < product.term_count; index++) {
        const Term& t = product.terms[index];
        turned_codes = turned_codes || (t.b.is_low_bit() && t.b.stored.turned);
        const Plan p = plan(kernels, t);
        const int64_t k_block = p.micro->k_block;
        int8 = int8 || p.is_int8();
        for (int64_t k0 = 0; k0 < t.k; k0 += k_block) {
            const int64_t k = std::min<int64_t>(k_block, t.k - k0);
            groups.push_back({passes.size(), passes.size() + p.b_parts});
            for (int part = 0; part < p.b_parts; part++)
                passes.push_back({&t, p, index, part, k0, k, round_up(k, p.micro->k_unit), nullptr, 0});
        }
        if (t.k > 0) whole = whole && t.k <= k_block && (!micro || micro == p.micro), micro = p.micro;
    }
    whole = whole && !passes.empty() && passes.size() <= (int8 ? 1 : MostPasses);  // integers of two terms have no common scale
    if (whole) groups.assign(1, {0, passes.size()});
    // Codes along the columns: a stretch of whole cache lines of them, or each line is read for every panel again.
    const int64_t narrow = turned_codes || int8 ? TurnedColumns : micro ? micro->nr : task.columns;
    const int64_t stretch = whole || int8 ? std::min(narrow, task.columns) : task.columns, ldc = round_up(stretch, 32);
    float* c = sums.get<float>(round_up(range.rows, 32) * ldc);
    for (int64_t first = 0; first < task.columns; first += stretch) {
        const int64_t columns = std::min(stretch, task.columns - first), element = product.type == 0 ? 4 : 2;
        char* out = static_cast<char*>(product.out) + (range.first * product.rows + (task.first + first) * product.cols) * element;
        if (product.cols == 1 && columns <= TurnedColumns)  // what is written at the end is on its way meanwhile
            for (int64_t i = 0; i < range.rows; i++)
                for (int64_t j = 0; j < columns * element; j += 64) __builtin_prefetch(out + i * product.rows * element + j, 1, 2);
        for (const Group& g : groups)
            add_passes(kernels, task, passes.data() + g.begin, static_cast<int>(g.end - g.begin), task.first + first, columns, c, ldc,
                       g.begin > 0);
        if (groups.empty()) std::fill(c, c + range.rows * ldc, 0.0f);
        kernels.store(c, ldc, range.rows, columns, product.alpha, product.beta, out, product.type, product.rows, product.cols);
    }
}

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

// What was packed: an A is known by where it comes from.
struct PackedKey {
    const void* data;
    const RowSource* source;
    int64_t first, rows, k;
    const Micro* micro;
    int part;
    const void* factors;
    bool operator<(const PackedKey& o) const {
        return std::tie(data, source, first, rows, k, micro, part, factors) <
               std::tie(o.data, o.source, o.first, o.rows, o.k, o.micro, o.part, o.factors);
    }
};
using PackedRows = std::map<PackedKey, char*>;

PackedKey key_of(const Plan& plan, const Term& t, const Range& range, int part) {
    return {t.source ? nullptr : t.a.from(range.first, 0).data,
            t.source,
            t.source ? t.source_first + range.first : 0,
            range.rows,
            t.k,
            plan.micro,
            part,
            plan.is_int8() && t.b.stored.turned ? int8_scales(t.b, 0) : nullptr};
}

// A range is packed ahead where its panels are met by more than one panel of columns, or by other products.
bool packs_ahead(const Plan& plan, const Product& p, const Term& t, bool shared) {
    return p.n > plan.micro->nr || shared || t.source || plan.is_int8();
}

int64_t ahead_bytes(const Kernels& kernels, const Range& range, bool shared) {
    int64_t bytes = 0;
    for (int t = 0; t < range.product->term_count; t++) {
        Plan p = plan(kernels, range.product->terms[t]);
        if (packs_ahead(p, *range.product, range.product->terms[t], shared)) bytes += p.a_parts * round_up(p.packed_bytes(range.rows), 64);
    }
    return bytes;
}

// One wave: the ranges [first, last) whose A fits the limit. `shared`: what was packed for them and before them.
void run_wave(const Kernels& kernels, std::vector<Range>& ranges, size_t first, size_t last, int64_t bytes, int64_t most_columns,
              Scratch& memory, PackedRows* shared) {
    char* next = bytes ? memory.get<char>(bytes) : nullptr;
    std::vector<PackTask> packs;
    std::vector<Task> tasks;
    for (size_t r = first; r < last; r++) {
        Range& range = ranges[r];
        const Product& product = *range.product;
        for (int t = 0; t < product.term_count; t++) {
            const Term& term = product.terms[t];
            Plan p = plan(kernels, term);
            for (int part = 0; part < p.a_parts && packs_ahead(p, product, term, shared); part++) {
                char* fresh = next;
                if (shared) {
                    auto [at, is_new] = shared->insert({key_of(p, term, range, part), next});
                    range.packed[t][part] = at->second;
                    if (!is_new) continue;
                } else {
                    range.packed[t][part] = fresh;
                }
                next += round_up(p.packed_bytes(range.rows), 64);
                for (int64_t i = 0; i < range.rows; i += PackRows) packs.push_back({&range, t, part, i});
            }
        }
        const int64_t columns = even_share(product.n, most_columns, TileUnit);
        for (int64_t j = 0; j < product.n; j += columns) tasks.push_back({&range, j, std::min(columns, product.n - j)});
    }
    parallel_for(static_cast<int64_t>(packs.size()), [&](int64_t i) { pack_ahead(kernels, packs[i]); });
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) { compute(kernels, tasks[i]); });
}

// Rows whose A, a block of k of it, stays in the second cache.
int64_t cached_rows(const Kernels& kernels, const Product& p) {
    int64_t bytes = 1;
    for (int t = 0; t < p.term_count; t++) {
        Plan q = plan(kernels, p.terms[t]);
        bytes = std::max<int64_t>(bytes, q.a_parts * std::min<int64_t>(q.k_padded, q.micro->k_block) * q.micro->element);
    }
    return std::max(LeastRows, RangeBytes / bytes / LeastRows * LeastRows);
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
    int64_t columns = BlockColumns, rows = RangeRows;
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
            int64_t more = ahead_bytes(kernels, ranges[last], false);
            if (last > first && bytes + more > PackedLimit) break;
            bytes += more;
        }
        run_wave(kernels, ranges, first, last, bytes, columns, packed_memory, nullptr);
        first = last;
    }
}

void multiply_stages(const std::vector<std::vector<Product>>& stages) {
    thread_local std::vector<Scratch> memories(4);
    const Kernels& kernels = kt::kernels();
    PackedRows shared;
    for (size_t stage = 0; stage < stages.size(); stage++) {
        std::vector<const Product*> products;
        for (const Product& p : stages[stage])
            if (p.m > 0 && p.n > 0) products.push_back(&p);
        auto [ranges, columns] = cut(kernels, products);
        int64_t bytes = 0;
        for (const Range& range : ranges) bytes += ahead_bytes(kernels, range, true);
        run_wave(kernels, ranges, 0, ranges.size(), bytes, columns, memories[stage], &shared);
    }
}

}  // namespace kt
