// A layer of routed experts for a few tokens (generation): bound by reading the chosen experts' weights once, so nothing is packed and rows
// are multiplied by dot products with weights as they are stored. Two loops over the threads, four with low-rank pairs:
//   (p = x Aᵀ of gate and up)    an expert and a projection a task
//   g, u, h = silu(g) · u        an expert's columns a task: gate and up of the same columns
//   (p = h Aᵀ of down)           an expert a task
//   y                            columns a task, over all experts: rows are weighted and summed in F32 where they are made, in the order of
//                                the experts, whatever the number of threads
#include "experts_few.h"

#include <algorithm>
#include <vector>

#include "cpu.h"
#include "gemm.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

// Above: tiles, which meet a block of weights with many rows at once; low bits must become such a block first, which costs as much as some
// rows.
constexpr int64_t MostTokens = 256, MostRows = 8, MostLowBitRows = 16;
// A token of DeepSeek-V2-Lite in INT4 beside a card: 64 columns a task 86 to 92 tokens/s, 32 (tasks end together, stretches are short) 81.
constexpr int64_t Together = 4, InColumns = 64, OutColumns = 32;
constexpr int64_t FirstBytes = 2048;  // of a stretch of weights: as far ahead as the dots themselves look

// R rows as the dots of a projection want them, `bytes` apart.
struct Rows {
    const char* data;
    int64_t bytes;
};

struct Few {
    const Kernels& kernels;
    const kt_experts& experts;
    const std::vector<Slice>& slices;

    Few(const kt_experts& x, const std::vector<Slice>& slices) : kernels(kt::kernels()), experts(x), slices(slices) {}
    int64_t routes() const { return experts.offsets[experts.E]; }

    bool is_low_bit(const kt_projection& p) const { return p.typeW > KT_BF16 && !(p.typeW & KT_TILED); }

    // row(i) is row i of width k in BF16.
    template <class Row>
    Rows ready(const kt_projection& p, int64_t k, Scratch& memory, Row&& row) const {
        const bool low_bit = is_low_bit(p);
        const int64_t bytes = low_bit ? kernels.low_bit.bytes(p.typeW, k) : (k * 2 + 63) / 64 * 64, R = routes();
        char* data = memory.get<char>(R * bytes);
        auto make = [&](int64_t i) {
            if (low_bit)
                kernels.low_bit.ready(p.typeW, row(i), k, data + i * bytes);
            else
                std::copy_n(row(i), k, reinterpret_cast<uint16_t*>(data + i * bytes));
        };
        if (R > 2 * Together)
            parallel_for(R, make);
        else
            for (int64_t i = 0; i < R; i++) make(i);
        return {data, bytes};
    }

    // c[i, j] = Σ_k row first + i · W_e[column + j] + scale · p[first + i] · B_e[column + j] for m <= Together rows.
    void dots(const kt_projection& w, const Slice& s, int64_t from, int64_t m, const Rows& rows, int64_t k, int64_t column, int64_t columns,
              const float* p, float* c, int64_t ldc) const {
        const char* x = rows.data + (s.first + from) * rows.bytes;
        const Matrix matrix = weights_of(w.W[s.e], w.typeW, w.scalesW ? w.scalesW[s.e] : nullptr, k).from(column, 0);
        if (matrix.is_tiled())
            kernels.dots_tiled(m, (columns + TileRows - 1) / TileRows, k, x, rows.bytes / 2, matrix, c, ldc, false);
        else if (is_low_bit(w))
            kernels.low_bit.dots(m, columns, k, x, matrix, c, ldc, false);
        else
            kernels.dots(m, columns, k, x, KT_BF16, rows.bytes / 2, matrix.data, w.typeW, matrix.rows, 1, c, ldc, false);
        if (w.A)
            kernels.dots(m, columns, w.r, p + (s.first + from) * w.r, KT_F32, w.r, w.B[s.e] + column * w.r, KT_F32, w.r, experts.scale, c,
                         ldc, true);
    }

    // The beginning of an expert's columns, which nothing foretells, is on its way while others are computed.
    void foretell(const kt_projection& w, int32_t e, int64_t k, int64_t column) const {
        const Matrix m = weights_of(w.W[e], w.typeW, nullptr, k).from(column, 0);
        const int64_t row_bytes = w.typeW >= KT_INT4 ? k / 2 : k;
        const char* from = m.is_tiled()    ? m.strip()
                           : is_low_bit(w) ? static_cast<const char*>(m.data) + m.stored.row * row_bytes
                                           : static_cast<const char*>(m.data);
        for (int64_t i = 0; i < FirstBytes; i += 64) __builtin_prefetch(from + i);
    }

    // p = rows Aᵀ of an expert; row(i) as above, one a call: they lie where they lie.
    template <class Row>
    void low_rank(const kt_projection& w, const Slice& s, int64_t k, Row&& row, float* p) const {
        for (int64_t i = s.first; i < s.first + s.rows; i++)
            kernels.dots(1, w.r, k, row(i), KT_BF16, k, w.A[s.e], KT_F32, k, 1, p + i * w.r, w.r, false);
    }
};

}  // namespace

bool fits_few(const kt_experts& x) {
    if (is_row_invariant() || x.T > MostTokens) return false;
    bool low_bit = true;
    for (const kt_projection* p : {&x.gate, &x.up, &x.down}) low_bit = low_bit && p->typeW > KT_BF16 && !(p->typeW & KT_TILED);
    for (int32_t e = 0; e < x.E; e++)
        if (x.offsets[e + 1] - x.offsets[e] > (low_bit ? MostLowBitRows : MostRows)) return false;
    return true;
}

void forward_few(const kt_experts& x, const std::vector<Slice>& slices, const void* tokens, const float* weights, void* g, void* u,
                 float* pGate, float* pUp, float* pDown, void* y, int32_t typeY) {
    thread_local Scratch in_memory, up_memory, h_memory, out_memory;
    const Few few(x, slices);
    const int64_t D = x.D, I = x.I, count = static_cast<int64_t>(few.slices.size());
    auto token = [&](int64_t i) { return static_cast<const uint16_t*>(tokens) + x.routes[i] / x.top_k * D; };
    if (x.gate.A)
        parallel_for(2 * count, [&](int64_t i) { few.low_rank(i % 2 ? x.up : x.gate, few.slices[i / 2], D, token, i % 2 ? pUp : pGate); });
    const Rows in = few.ready(x.gate, D, in_memory, token), in_up = x.up.typeW == x.gate.typeW ? in : few.ready(x.up, D, up_memory, token);
    uint16_t* h = h_memory.get<uint16_t>(few.routes() * I);
    const int64_t blocks = (I + InColumns - 1) / InColumns;
    parallel_for(count * blocks, [&](int64_t task) {
        const Slice& s = few.slices[task / blocks];
        const int64_t column = task % blocks * InColumns, columns = std::min(InColumns, I - column);
        for (int64_t from = 0; from < s.rows; from += Together) {
            const int64_t m = std::min(Together, s.rows - from);
            float gates[Together * InColumns], ups[Together * InColumns];
            if (from == 0) few.foretell(x.up, s.e, D, column);
            few.dots(x.gate, s, from, m, in, D, column, columns, pGate, gates, InColumns);
            few.dots(x.up, s, from, m, in_up, D, column, columns, pUp, ups, InColumns);
            const int64_t at = (s.first + from) * I + column;
            uint16_t *to_g = static_cast<uint16_t*>(g) + at, *to_u = static_cast<uint16_t*>(u) + at;
            few.kernels.store(gates, InColumns, m, columns, 1, 0, to_g, KT_BF16, I, 1);
            few.kernels.store(ups, InColumns, m, columns, 1, 0, to_u, KT_BF16, I, 1);
            for (int64_t i = 0; i < m; i++) few.kernels.swiglu(to_g + i * I, to_u + i * I, h + at + i * I, columns);
        }
    });
    auto inner = [&](int64_t i) { return h + i * I; };
    if (x.down.A) parallel_for(count, [&](int64_t i) { few.low_rank(x.down, few.slices[i], I, inner, pDown); });
    if (!y) return;
    const Rows out = few.ready(x.down, I, out_memory, inner);
    parallel_for((D + OutColumns - 1) / OutColumns, [&](int64_t task) {
        const int64_t column = task * OutColumns, columns = std::min(OutColumns, D - column);
        thread_local Scratch memory;
        float* sums = memory.get<float>(x.T * OutColumns);
        std::fill_n(sums, x.T * OutColumns, 0.0f);
        for (const Slice& s : slices) {
            if (&s != &slices.back()) few.foretell(x.down, (&s + 1)->e, I, column);
            for (int64_t from = 0; from < s.rows; from += Together) {
                const int64_t m = std::min(Together, s.rows - from);
                float c[Together * OutColumns];
                few.dots(x.down, s, from, m, out, I, column, columns, pDown, c, OutColumns);
                for (int64_t i = 0; i < m; i++) {
                    const int32_t route = x.routes[s.first + from + i];
                    float* sum = sums + route / x.top_k * OutColumns;
                    for (int64_t j = 0; j < columns; j++) sum[j] += weights[route] * c[i * OutColumns + j];
                }
            }
        }
        few.kernels.store(sums, OutColumns, x.T, columns, 1, 0, static_cast<char*>(y) + column * (typeY == KT_F32 ? 4 : 2), typeY, D, 1);
    });
}

}  // namespace kt
