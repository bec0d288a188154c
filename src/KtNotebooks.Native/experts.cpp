// A layer of routed experts, forward and backward, as chains of products (gemm.h). Formulas and shapes: kt.h.
//
//   forward:  x rows, gathered → packed once:   p = x Aᵀ      then g = x Wᵀ + p Bᵀ, u likewise
//             silu(g) · u      → packed once:   p = h Aᵀ      then rows = h Wᵀ + p Bᵀ
//             y[t] = Σ weight · row over the token's rows
//   backward: dy rows, gathered → packed once:  q = dy B      then dh = dy W + q A           (not yet weighted)
//             per row: Σ dh · h → dWeights; dg, du from weight · dh
//             dg, du → packed once:             q = dg B      then rows = dg W + q A + the same of du
//             dx[t] = Σ of the token's rows ; dA = qᵀ input, dB = scale · dOutputᵀ p over the rows of an expert (low_rank.h)
#include <algorithm>
#include <vector>

#include "check.h"
#include "cpu.h"
#include "experts_few.h"
#include "gemm.h"
#include "low_rank.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t RowsATask = 32;

uint16_t* row_at(void* rows, int64_t i, int64_t width) { return static_cast<uint16_t*>(rows) + i * width; }
const uint16_t* row_at(const void* rows, int64_t i, int64_t width) { return static_cast<const uint16_t*>(rows) + i * width; }

// Rows of tokens in the order of the experts.
struct Gathered : RowSource {
    const void* x;
    const int32_t* routes;
    int64_t width;
    int32_t top_k;
    Gathered(const void* x, const kt_experts& experts)
        : RowSource{copy}, x(x), routes(experts.routes), width(experts.D), top_k(experts.top_k) {}
    const uint16_t* row(int64_t i) const { return row_at(x, routes[i] / top_k, width); }
    static void copy(const RowSource& self, int64_t first, int64_t rows, uint16_t* out) {
        auto& me = static_cast<const Gathered&>(self);
        for (int64_t i = 0; i < rows; i++) std::copy_n(me.row(first + i), me.width, out + i * me.width);
    }
};

// silu(g) · u.
struct Activated : RowSource {
    const void *g, *u;
    int64_t width;
    Activated(const void* g, const void* u, int64_t width) : RowSource{make}, g(g), u(u), width(width) {}
    static void make(const RowSource& self, int64_t first, int64_t rows, uint16_t* out) {
        auto& me = static_cast<const Activated&>(self);
        for (int64_t i = 0; i < rows; i++)
            kernels().swiglu(row_at(me.g, first + i, me.width), row_at(me.u, first + i, me.width), out + i * me.width, me.width);
    }
};

// What goes into a projection: rows that are made where they are packed, or [R, width] in memory.
struct Input {
    const RowSource* source;
    const void* rows;
    Input(const RowSource& source) : source(&source), rows(nullptr) {}
    explicit Input(const void* rows) : source(nullptr), rows(rows) {}
};

struct Work {
    const kt_experts& experts;
    const int64_t R;
    std::vector<Slice> slices;  // experts with rows

    // One chain an expert: body(chain, slice) says of which products.
    template <class Body>
    void chains(Body&& body) const {
        std::vector<Chain> chains(slices.size());
        for (size_t i = 0; i < slices.size(); i++) body(chains[i], slices[i]);
        multiply(chains);
    }

    // y[t] = Σ_j weight · rows[row of route t·top_k + j]; weights null: 1.
    void combine(const void* rows, const float* weights, void* y, int32_t type) const {
        const int64_t k = experts.top_k, D = experts.D;
        std::vector<int32_t> row_of(experts.T * k, -1);
        for (int64_t i = 0; i < R; i++) row_of[experts.routes[i]] = static_cast<int32_t>(i);
        parallel_for((experts.T + RowsATask - 1) / RowsATask, [&](int64_t task) {
            thread_local Scratch memory;
            float* sum = memory.get<float>(D);
            for (int64_t t = task * RowsATask; t < std::min(experts.T, (task + 1) * RowsATask); t++) {
                std::fill_n(sum, D, 0.0f);
                for (int64_t j = 0; j < k; j++)
                    if (int64_t i = row_of[t * k + j]; i >= 0)
                        kernels().add_row(sum, row_at(rows, i, D), weights ? weights[t * k + j] : 1, D);
                kernels().store(sum, D, 1, D, 1, 0, static_cast<char*>(y) + t * D * (type == KT_F32 ? 4 : 2), type, D, 1);
            }
        });
    }
};

bool has_pair(const kt_projection& p) { return p.A != nullptr; }

Matrix weights_of(const kt_projection& p, int32_t e, int64_t K) {
    return kt::weights_of(p.W[e], p.typeW, p.scalesW ? p.scalesW[e] : nullptr, K);
}

Product onto(void* out, int32_t type, int64_t width, const Slice& s, float alpha = 1) {
    return kt::onto(out, type, width, s.first, s.rows, alpha);
}

void add(Product& p, const Input& input, const Slice& s, const Matrix& b, int64_t k, bool split = false) {
    const void* rows = input.rows ? row_at(input.rows, s.first, k) : nullptr;
    p.terms[p.term_count++] = {{rows, KT_BF16, k, 1}, b, k, 1, split, input.source, s.first};
}

void add_pair(Product& p, const float* low, int64_t r, const Slice& s, const Matrix& b, float scale) {
    p.terms[p.term_count++] = {{low + s.first * r, KT_F32, r, 1}, b, r, scale, true, nullptr, 0};
}

// out = source Wᵀ + scale · p Bᵀ, p = source Aᵀ. in, out: widths.
void project(Chain& chain, const kt_experts& x, const kt_projection& w, const Input& input, const Slice& s, int64_t in, int64_t out_width,
             float* p, void* out) {
    if (has_pair(w)) {
        Product low = onto(p, KT_F32, w.r, s);
        add(low, input, s, {w.A[s.e], KT_F32, in, 1}, in, true);
        chain.narrow.push_back(low);
    }
    if (!out) return;
    Product full = onto(out, KT_BF16, out_width, s);
    add(full, input, s, weights_of(w, s.e, in), in);
    if (has_pair(w)) add_pair(full, p, w.r, s, {w.B[s.e], KT_F32, w.r, 1}, x.scale);
    chain.wide.push_back(full);
}

// q = scale · dOut B, and onto a product: dOut W + q A. in, out: widths of the projection forward.
void back_project(Chain& chain, Product& to, const kt_experts& x, const kt_projection& w, const Input& input, const Slice& s, int64_t in,
                  int64_t out_width, float* q) {
    if (has_pair(w)) {
        Product low = onto(q, KT_F32, w.r, s, x.scale);
        add(low, input, s, {w.B[s.e], KT_F32, 1, w.r}, out_width, true);
        chain.narrow.push_back(low);
    }
    add(to, input, s, weights_of(w, s.e, in).transposed(), out_width);
    if (has_pair(w)) add_pair(to, q, w.r, s, {w.A[s.e], KT_F32, 1, in}, 1);
}

Work check(const kt_experts* x) {
    need("experts", x);
    int64_t R = check_offsets(x->E, x->offsets);
    check_size("top_k", x->top_k), check_size("D", x->D), check_size("I", x->I), check_extent("T", x->T);
    if (R > 0) need("routes", x->routes);
    for (int64_t i = 0; i < R; i++)
        if (x->routes[i] < 0 || x->routes[i] >= x->T * x->top_k)
            throw Error(InvalidArgument, "routes[%lld] is %d, but there are %lld", static_cast<long long>(i), x->routes[i],
                        static_cast<long long>(x->T * x->top_k));
    for (const kt_projection* p : {&x->gate, &x->up, &x->down}) {
        need("W", p->W);
        check_weights(p->typeW, p == &x->down ? x->I : x->D, KT_BF16);
        if (p->A) need("B", p->B), check_size("r", p->r);
        if (is_low_bit(p->typeW)) need("scalesW", p->scalesW);
        for (int32_t e = 0; e < x->E; e++)
            if (x->offsets[e + 1] > x->offsets[e] && !p->W[e]) throw Error(InvalidArgument, "W[%d] is null, but expert %d has rows", e, e);
    }
    Work work{*x, R, {}};
    for (int32_t e = 0; e < x->E; e++)
        if (x->offsets[e + 1] > x->offsets[e]) work.slices.push_back({e, x->offsets[e], x->offsets[e + 1] - x->offsets[e]});
    return work;
}

void forward(const kt_experts* experts, const void* x, const float* weights, void* g, void* u, float* pGate, float* pUp, float* pDown,
             void* rows, void* y, int32_t typeY) {
    const Work work = check(experts);
    const kt_experts& e = *experts;
    if (y) check_type("typeY", typeY);
    if (work.R > 0) {
        need("x", x), need("g", g), need("u", u);
        if (y) need("rows", rows), need("weights", weights);
    }
    if (fits_few(e)) return forward_few(e, work.slices, x, weights, g, u, pGate, pUp, pDown, y, typeY);
    const Gathered tokens(x, e);
    const Activated inner(g, u, e.I);
    work.chains([&](Chain& chain, const Slice& s) {
        project(chain, e, e.gate, tokens, s, e.D, e.I, pGate, g);
        project(chain, e, e.up, tokens, s, e.D, e.I, pUp, u);
    });
    if (y || has_pair(e.down))
        work.chains([&](Chain& chain, const Slice& s) { project(chain, e, e.down, inner, s, e.I, e.D, pDown, y ? rows : nullptr); });
    if (y) work.combine(rows, weights, y, typeY);
}

// to[i] = weight of row i · from[i], rows of r.
void weigh(const kt_experts& e, const float* weights, const float* from, int64_t r, float* to) {
    const int64_t R = e.offsets[e.E];
    parallel_for((R + RowsATask - 1) / RowsATask, [&](int64_t task) {
        for (int64_t i = task * RowsATask; i < std::min(R, (task + 1) * RowsATask); i++)
            for (int64_t a = 0; a < r; a++) to[i * r + a] = weights[e.routes[i]] * from[i * r + a];
    });
}

// rows [R, width] = those of a source.
void gather(const RowSource& source, int64_t R, int64_t width, void* rows) {
    parallel_for((R + RowsATask - 1) / RowsATask, [&](int64_t task) {
        const int64_t first = task * RowsATask;
        source.fill(source, first, std::min(RowsATask, R - first), row_at(rows, first, width));
    });
}

// The rows of expert e: of a matrix [R, width] in the order of the experts, or of tokens.
OuterRowsOf rows_of(const kt_experts& x, int32_t e, const void* rows, int64_t width, const std::vector<int32_t>* tokens = nullptr) {
    const int64_t first = x.offsets[e], count = x.offsets[e + 1] - first;
    return {tokens ? rows : row_at(rows, first, width), KT_BF16, width, count, tokens ? tokens->data() + first : nullptr};
}

void grad(const kt_experts* experts, const void* dy, const void* x, const float* weights, const void* g, const void* u, const float* pGate,
          const float* pUp, const float* pDown, const kt_experts_backward* w, void* dx, int32_t typeDx, float* dWeights) {
    const Work work = check(experts);
    const kt_experts& e = *experts;
    check_type("typeDx", typeDx), need("work", w), need("dx", dx), need("dWeights", dWeights);
    if (work.R > 0)
        need("dy", dy), need("x", x), need("weights", weights), need("g", g), need("u", u), need("rows", w->rows), need("h", w->h),
            need("dh", w->dh), need("du", w->du);
    const Gathered dys(dy, e), tokens(x, e);
    work.chains([&](Chain& chain, const Slice& s) {
        Product dh = onto(w->dh, KT_BF16, e.I, s);
        back_project(chain, dh, e, e.down, dys, s, e.I, e.D, w->qDown);
        chain.wide.push_back(dh);
    });
    parallel_for((work.R + RowsATask - 1) / RowsATask, [&](int64_t task) {
        for (int64_t i = task * RowsATask; i < std::min(work.R, (task + 1) * RowsATask); i++) {
            uint16_t* dh = row_at(w->dh, i, e.I);
            dWeights[e.routes[i]] = kernels().swiglu_grad(dh, row_at(g, i, e.I), row_at(u, i, e.I), weights[e.routes[i]],
                                                          row_at(w->h, i, e.I), dh, row_at(w->du, i, e.I), e.I);
        }
    });
    const Input dg(w->dh), du(w->du);
    work.chains([&](Chain& chain, const Slice& s) {
        Product rows = onto(w->rows, KT_BF16, e.D, s);
        back_project(chain, rows, e, e.gate, dg, s, e.D, e.I, w->qGate);
        back_project(chain, rows, e, e.up, du, s, e.D, e.I, w->qUp);
        chain.wide.push_back(rows);
    });
    work.combine(w->rows, nullptr, dx, typeDx);
    if (!w->dAGate) return;
    thread_local Scratch weighed_memory;
    float* weighed = weighed_memory.get<float>(work.R * e.down.r);
    weigh(e, weights, w->qDown, e.down.r, w->qDown);
    weigh(e, weights, pDown, e.down.r, weighed);
    std::vector<int32_t> token(work.R);
    for (int64_t i = 0; i < work.R; i++) token[i] = e.routes[i] / e.top_k;
    // dA [r, in] = qᵀ input ; dB [out, r] = scale · dOutᵀ p
    std::vector<OuterSum> of_x, of_dy;
    // The rows' memory is free now: rows of tokens in order, where they cannot be read where they lie.
    const bool x_in_order = std::max(e.gate.r, e.up.r) > MostOuterRank, dy_in_order = e.down.r > MostOuterRank;
    for (int32_t i = 0; i < e.E; i++) {
        const int64_t at = e.offsets[i];
        const OuterRowsOf xs = x_in_order ? rows_of(e, i, w->rows, e.D) : rows_of(e, i, x, e.D, &token);
        const OuterRowsOf out = dy_in_order ? rows_of(e, i, w->rows, e.D) : rows_of(e, i, dy, e.D, &token);
        of_x.push_back({xs, w->qGate + at * e.gate.r, e.gate.r, e.D, 1, w->dAGate[i], false});
        of_x.push_back({xs, w->qUp + at * e.up.r, e.up.r, e.D, 1, w->dAUp[i], false});
        of_x.push_back({rows_of(e, i, w->dh, e.I), pGate + at * e.gate.r, e.gate.r, e.I, e.scale, w->dBGate[i], true});
        of_x.push_back({rows_of(e, i, w->du, e.I), pUp + at * e.up.r, e.up.r, e.I, e.scale, w->dBUp[i], true});
        of_dy.push_back({rows_of(e, i, w->h, e.I), w->qDown + at * e.down.r, e.down.r, e.I, 1, w->dADown[i], false});
        of_dy.push_back({out, weighed + at * e.down.r, e.down.r, e.D, e.scale, w->dBDown[i], true});
    }
    if (x_in_order) gather(tokens, work.R, e.D, w->rows);
    add_up(of_x);
    if (dy_in_order) gather(dys, work.R, e.D, w->rows);
    add_up(of_dy);
}

}  // namespace
}  // namespace kt

using kt::guarded;

int32_t kt_experts_forward(const kt_experts* experts, const void* x, const float* weights, void* g, void* u, float* pGate, float* pUp,
                           float* pDown, void* rows, void* y, int32_t typeY) {
    return guarded("kt_experts_forward", [&] { kt::forward(experts, x, weights, g, u, pGate, pUp, pDown, rows, y, typeY); });
}

int32_t kt_experts_grad(const kt_experts* experts, const void* dy, const void* x, const float* weights, const void* g, const void* u,
                        const float* pGate, const float* pUp, const float* pDown, const kt_experts_backward* work, void* dx, int32_t typeDx,
                        float* dWeights) {
    return guarded("kt_experts_grad", [&] { kt::grad(experts, dy, x, weights, g, u, pGate, pUp, pDown, work, dx, typeDx, dWeights); });
}
