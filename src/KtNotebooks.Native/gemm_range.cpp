#include "gemm_range.h"

#include <vector>

#include "cpu.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t BlockColumns = 384;   // whose sums wait in cache while K is added block by block,
constexpr int64_t RoundColumns = 64;    // or, where the strips of all of them would push A out of it, a part of them at a time
constexpr int64_t TurnedColumns = 128;  // a block of FP8 scales, four groups of 4 bits
constexpr int64_t TileLines = 16;       // cache lines of a strip a k_unit, where strips are tiles
constexpr Part32 BothParts[2] = {High, Low};

}  // namespace

int64_t cached_bytes() {
    static const int64_t bytes = second_cache_bytes() / 8 * 5;
    return bytes;
}

Part32 Plan::part_a(int index) const { return joined ? JoinedA : a_parts == 1 ? Whole : BothParts[index]; }
Part32 Plan::part_b(int index) const { return joined ? JoinedB : b_parts == 1 ? Whole : BothParts[index]; }

Plan plan(const Kernels& kernels, const Term& t) {
    if (kernels.int8.element && t.a.type == KT_BF16 && t.b.type == KT_INT8 && t.scale == 1)
        return {&kernels.int8, round_up(t.k, kernels.int8.k_unit), 1, 1};
    bool stored = t.a.type == 1 && (t.b.type == 1 || t.b.is_low_bit() || t.b.is_tiled()) && t.scale == 1;
    bool bf16 = kernels.bf16.element && (stored || t.split);
    if (!bf16) return {&kernels.f32, round_up(t.k, kernels.f32.k_unit), 1, 1};
    if (t.a.type == 0 && t.b.type == 0 && 3 * t.k <= kernels.bf16.k_unit) return {&kernels.bf16, kernels.bf16.k_unit, 1, 1, true};
    return {&kernels.bf16, round_up(t.k, kernels.bf16.k_unit), t.a.type == 0 ? 2 : 1, t.b.type == 0 ? 2 : 1};
}

// Panels of all terms are met together where every K is one block.
int64_t cached_rows(const Kernels& kernels, const Product& p) {
    int64_t most = 1, all = 0;
    bool whole = true;
    for (int t = 0; t < p.term_count; t++) {
        const Plan q = plan(kernels, p.terms[t]);
        const int64_t bytes = q.a_parts * std::min<int64_t>(q.k_padded, q.micro->k_block) * q.micro->element;
        most = std::max(most, bytes), all += bytes;
        whole = whole && p.terms[t].k <= q.micro->k_block;
    }
    return std::max(LeastRows, cached_bytes() / (whole && all ? all : most) / LeastRows * LeastRows);
}

namespace {

// The packed form of a range of A: [k block][panel of mr rows][k in the block][mr].
char* panel_at(const Plan& p, char* packed, int64_t rows, int64_t k0, int64_t k_length, int64_t row) {
    return packed + (round_up(rows, p.micro->mr) * k0 + row * k_length) * p.micro->element;
}

// Rows [first, first + rows) of a range as codes and scales; what turned weights have for scales goes into the rows before.
void quantize(const Kernels& kernels, const Plan& p, const Term& t, const Range& range, const Matrix& a, int64_t first, int64_t rows) {
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

}  // namespace

void pack(const Kernels& kernels, const Range& range, int term, int part, int64_t at) {
    thread_local Scratch made;
    const Term& t = range.product->terms[term];
    Plan p = plan(kernels, t);
    const Micro& micro = *p.micro;
    const int64_t end = std::min(at + PackRows, range.rows), step = t.source ? micro.mr : end - at;
    for (; at < end; at += step) {  // what a source makes is packed while it is in cache
        const int64_t rows = std::min(step, end - at), first = range.first + at;
        Matrix a = t.source ? Matrix{made.get<uint16_t>(rows * t.k), KT_BF16, t.k, 1} : t.a.from(first, 0);
        if (t.source) t.source->fill(*t.source, t.source_first + first, rows, static_cast<uint16_t*>(const_cast<void*>(a.data)));
        if (p.is_int8()) {
            quantize(kernels, p, t, range, a, at, rows);
            continue;
        }
        for (int64_t k0 = 0; k0 < t.k; k0 += micro.k_block) {
            int64_t k = std::min<int64_t>(micro.k_block, t.k - k0), padded = round_up(k, micro.k_unit);
            kernels.pack(panel_at(p, range.packed[term][part], range.rows, k0, padded, at), micro.element, a.from(0, k0), rows, k, micro.mr,
                         micro.group_a, padded, t.scale, p.part_a(part));
        }
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

namespace {

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

// Adds the passes, all of one register tile's kind, to c [rows, columns] of the range, whose first column is `first` of B; columns up to
// `end` follow.
void add_passes(const Kernels& kernels, const Range& range, int64_t end, Pass* passes, int count, int64_t first, int64_t columns, float* c,
                int64_t ldc, bool accumulate) {
    thread_local Scratch b_memory[MostPasses], a_memory[MostSegments], integers;
    const Micro& micro = *passes[0].plan.micro;
    const int64_t panels = shares(range.rows, micro.mr);
    const bool int8 = passes[0].plan.is_int8();
    float* sums = int8 ? integers.get<float>(round_up(range.rows, 32) * ldc) : c;
    for (int p = 0; p < count; p++) find_strips(kernels, passes[p], first, columns, b_memory[p]);
    if (micro.begin) micro.begin();
    for (int64_t j = 0; j < columns; j += micro.nr)
        for (int64_t i = 0; i < range.rows; i += micro.mr) {
            const int32_t rows = static_cast<int32_t>(std::min<int64_t>(micro.mr, range.rows - i));
            const bool last = first + j + micro.nr >= end;
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

// Whether a block's strips of so many columns fit into what A leaves of the second cache. Of 1 MB they do not: a backward pass over few
// rows took up to 1.7 times as long as with RoundColumns.
bool fits_beside(const Micro* micro, int64_t columns) {
    return !micro || columns * micro->k_block * micro->element <= second_cache_bytes() - cached_bytes();
}

// The passes of a product in order, of which [begin, end) are added together: all of them where each term is one block of k.
struct PassGroup {
    size_t begin, end;
};

}  // namespace

void compute(const Kernels& kernels, const Range& range, int64_t first_column, int64_t all_columns) {
    thread_local Scratch sums;
    thread_local std::vector<Pass> passes;
    thread_local std::vector<PassGroup> groups;
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
    const int64_t narrow = turned_codes || int8 ? TurnedColumns : micro ? micro->nr : all_columns;
    const int64_t stretch = std::min(whole || int8 ? narrow : BlockColumns, all_columns), ldc = round_up(stretch, 32);
    const int64_t round = whole || int8 || fits_beside(micro, stretch) ? stretch : RoundColumns;
    float* c = sums.get<float>(round_up(range.rows, 32) * ldc);
    for (int64_t first = 0; first < all_columns; first += stretch) {
        const int64_t columns = std::min(stretch, all_columns - first), element = product.type == 0 ? 4 : 2;
        char* out = static_cast<char*>(product.out) + (range.first * product.rows + (first_column + first) * product.cols) * element;
        if (product.cols == 1 && columns <= TurnedColumns)  // what is written at the end is on its way meanwhile
            for (int64_t i = 0; i < range.rows; i++)
                for (int64_t j = 0; j < columns * element; j += 64) __builtin_prefetch(out + i * product.rows * element + j, 1, 2);
        for (const PassGroup& g : groups)
            for (int64_t at = 0; at < columns; at += round)
                add_passes(kernels, range, first_column + all_columns, passes.data() + g.begin, static_cast<int>(g.end - g.begin),
                           first_column + first + at, std::min(round, columns - at), c + at, ldc, g.begin > 0);
        if (groups.empty()) std::fill(c, c + range.rows * ldc, 0.0f);
        kernels.store(c, ldc, range.rows, columns, product.alpha, product.beta, out, product.type, product.rows, product.cols);
    }
}

}  // namespace kt
