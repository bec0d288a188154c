// A layer of routed experts, forward and backward, as stages of products (gemm.h). Formulas and shapes: kt.h.
//
//   forward:  x rows, gathered → packed once:   p = x Aᵀ      then g = x Wᵀ + p Bᵀ, u likewise
//             silu(g) · u      → packed once:   p = h Aᵀ      then rows = h Wᵀ + p Bᵀ
//             y[t] = Σ weight · row over the token's rows
//   backward: dy rows, gathered → packed once:  q = dy B      then dh = dy W + q A           (not yet weighted)
//             per row: Σ dh · h → dWeights; dg, du from weight · dh
//             dg, du → packed once:             q = dg B      then rows = dg W + q A + the same of du
//             dx[t] = Σ of the token's rows ; dA = qᵀ input, dB = scale · dOutputᵀ p: products over the rows of an expert
#include <algorithm>
#include <vector>

#include "check.h"
#include "cpu.h"
#include "experts_few.h"
#include "gemm.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t GroupBytes = 96 << 20;  // of packed rows at a time: experts are taken in groups
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

    // In groups whose packed rows of `width` fit the limit.
    template <class Body>
    void each_group(int64_t width, Body&& body) const {
        std::vector<Slice> group;
        int64_t bytes = 0;
        for (const Slice& s : slices) {
            const int64_t more = s.rows * width * 4;
            if (!group.empty() && bytes + more > GroupBytes) {
                body(group);
                group.clear();
                bytes = 0;
            }
            group.push_back(s);
            bytes += more;
        }
        if (!group.empty()) body(group);
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
void project(std::vector<std::vector<Product>>& stages, const kt_experts& x, const kt_projection& w, const Input& input, const Slice& s,
             int64_t in, int64_t out_width, float* p, void* out) {
    if (has_pair(w)) {
        Product low = onto(p, KT_F32, w.r, s);
        add(low, input, s, {w.A[s.e], KT_F32, in, 1}, in, true);
        stages[0].push_back(low);
    }
    if (!out) return;
    Product full = onto(out, KT_BF16, out_width, s);
    add(full, input, s, weights_of(w, s.e, in), in);
    if (has_pair(w)) add_pair(full, p, w.r, s, {w.B[s.e], KT_F32, w.r, 1}, x.scale);
    stages[1].push_back(full);
}

// q = scale · dOut B, and onto a product: dOut W + q A. in, out: widths of the projection forward.
void back_project(std::vector<std::vector<Product>>& stages, Product& to, const kt_experts& x, const kt_projection& w, const Input& input,
                  const Slice& s, int64_t in, int64_t out_width, float* q) {
    if (has_pair(w)) {
        Product low = onto(q, KT_F32, w.r, s, x.scale);
        add(low, input, s, {w.B[s.e], KT_F32, 1, w.r}, out_width, true);
        stages[0].push_back(low);
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
    work.each_group(e.D, [&](const std::vector<Slice>& group) {
        std::vector<std::vector<Product>> stages(2);
        for (const Slice& s : group) {
            project(stages, e, e.gate, tokens, s, e.D, e.I, pGate, g);
            project(stages, e, e.up, tokens, s, e.D, e.I, pUp, u);
        }
        multiply_stages(stages);
    });
    if (y || has_pair(e.down))
        work.each_group(e.I, [&](const std::vector<Slice>& group) {
            std::vector<std::vector<Product>> stages(2);
            for (const Slice& s : group) project(stages, e, e.down, inner, s, e.I, e.D, pDown, y ? rows : nullptr);
            multiply_stages(stages);
        });
    if (y) work.combine(rows, weights, y, typeY);
}

// rows [R, width] = those of a source.
void gather(const RowSource& source, int64_t R, int64_t width, void* rows) {
    parallel_for((R + RowsATask - 1) / RowsATask, [&](int64_t task) {
        const int64_t first = task * RowsATask;
        source.fill(source, first, std::min(RowsATask, R - first), row_at(rows, first, width));
    });
}

// to[i] = weight of row i · from[i], rows of r.
void weigh(const kt_experts& e, const float* weights, const float* from, int64_t r, float* to) {
    for (int64_t i = 0; i < e.offsets[e.E]; i++)
        for (int64_t a = 0; a < r; a++) to[i * r + a] = weights[e.routes[i]] * from[i * r + a];
}

// dA_e [r, in] = qᵀ input over the rows of e; zero where there are none.
void grad_a(std::vector<Product>& products, const kt_experts& x, int64_t r, const float* q, const void* input, int64_t in,
            float* const* dA) {
    for (int32_t e = 0; e < x.E; e++) {
        const int64_t first = x.offsets[e], rows = x.offsets[e + 1] - first;
        Product p = kt::onto(dA[e], KT_F32, in, 0, r, 1);
        const Matrix q_turned{q + first * r, KT_F32, 1, r}, input_turned{row_at(input, first, in), KT_BF16, 1, in};
        if (rows > 0) p.terms[p.term_count++] = {q_turned, input_turned, rows, 1, true};
        products.push_back(p);
    }
}

// dB_e [out, r] = factor · dOutᵀ p.
void grad_b(std::vector<Product>& products, const kt_experts& x, int64_t r, const float* p, const void* d_out, int64_t out, float factor,
            float* const* dB) {
    for (int32_t e = 0; e < x.E; e++) {
        const int64_t first = x.offsets[e], rows = x.offsets[e + 1] - first;
        Product b = kt::onto(dB[e], KT_F32, r, 0, out, factor);
        const Matrix out_turned{row_at(d_out, first, out), KT_BF16, 1, out}, p_turned{p + first * r, KT_F32, 1, r};
        if (rows > 0) b.terms[b.term_count++] = {out_turned, p_turned, rows, 1, true};
        products.push_back(b);
    }
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
    work.each_group(e.D, [&](const std::vector<Slice>& group) {
        std::vector<std::vector<Product>> stages(2);
        for (const Slice& s : group) {
            Product dh = onto(w->dh, KT_BF16, e.I, s);
            back_project(stages, dh, e, e.down, dys, s, e.I, e.D, w->qDown);
            stages[1].push_back(dh);
        }
        multiply_stages(stages);
    });
    parallel_for((work.R + RowsATask - 1) / RowsATask, [&](int64_t task) {
        for (int64_t i = task * RowsATask; i < std::min(work.R, (task + 1) * RowsATask); i++) {
            uint16_t* dh = row_at(w->dh, i, e.I);
            dWeights[e.routes[i]] = kernels().swiglu_grad(dh, row_at(g, i, e.I), row_at(u, i, e.I), weights[e.routes[i]],
                                                          row_at(w->h, i, e.I), dh, row_at(w->du, i, e.I), e.I);
        }
    });
    const Input dg(w->dh), du(w->du);
    work.each_group(2 * e.I, [&](const std::vector<Slice>& group) {
        std::vector<std::vector<Product>> stages(2);
        for (const Slice& s : group) {
            Product rows = onto(w->rows, KT_BF16, e.D, s);
            back_project(stages, rows, e, e.gate, dg, s, e.D, e.I, w->qGate);
            back_project(stages, rows, e, e.up, du, s, e.D, e.I, w->qUp);
            stages[1].push_back(rows);
        }
        multiply_stages(stages);
    });
    work.combine(w->rows, nullptr, dx, typeDx);
    if (!w->dAGate) return;
    // The rows' memory is free now, and holds x, then dy.
    thread_local Scratch weighed_memory;
    std::vector<Product> of_x, others;
    gather(tokens, work.R, e.D, w->rows);
    grad_a(of_x, e, e.gate.r, w->qGate, w->rows, e.D, w->dAGate);
    grad_a(of_x, e, e.up.r, w->qUp, w->rows, e.D, w->dAUp);
    grad_b(of_x, e, e.gate.r, pGate, w->dh, e.I, e.scale, w->dBGate);
    grad_b(of_x, e, e.up.r, pUp, w->du, e.I, e.scale, w->dBUp);
    multiply(std::move(of_x));
    float* weighed = weighed_memory.get<float>(work.R * e.down.r);
    weigh(e, weights, w->qDown, e.down.r, w->qDown);
    weigh(e, weights, pDown, e.down.r, weighed);
    gather(dys, work.R, e.D, w->rows);
    grad_a(others, e, e.down.r, w->qDown, w->h, e.I, w->dADown);
    grad_b(others, e, e.down.r, weighed, w->rows, e.D, e.scale, w->dBDown);
    multiply(std::move(others));
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
