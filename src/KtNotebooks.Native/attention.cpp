// Block-diagonal causal attention without a T × T matrix: scores exist for one block of queries × one block of keys at a time.
// All arithmetic is F32 (BF16 is widened while packing), on the same register tiles as the GEMM.
//
// forward   a task is (sequence, head, block of queries); it walks over the blocks of keys with an online softmax.
// backward  with P = softmax(S), delta_i = Σ out_i · dout_i and dS = P ∘ (dP − delta):
//             pass 1, a task per (sequence, head, block of queries):    dq = scale · Σ_keys dS k
//             pass 2, a task per (sequence, key head, block of keys):   dv = Σ Pᵀ dout, dk = scale · Σ dSᵀ q over its query heads and
//             queries
//           Scores are computed in both passes; in return nothing of size T × T or T × heads × D is kept, no two tasks write to the same
//           place, and every sum has a fixed order: the same bits with any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention_tiles.h"
#include "check.h"
#include "cpu.h"
#include "pool.h"

namespace kt {
namespace {

struct Shape {
    const int32_t *startsQ, *startsK;
    int64_t H, Hk, D, Dv, window;
    float scale;
    int32_t type;

    int64_t group() const { return H / Hk; }
    int64_t queries(int32_t s) const { return startsQ[s + 1] - startsQ[s]; }
    int64_t keys(int32_t s) const { return startsK[s + 1] - startsK[s]; }
    // Row t, head h of a tensor [T, heads, d].
    Matrix at(const void* x, int64_t heads, int64_t d, int64_t t, int64_t h) const { return Matrix{x, type, heads * d, 1}.from(t, h * d); }
};

struct Task {
    int32_t sequence;
    int64_t head, first;  // first query or key of the block, within the sequence
};

struct Workspace {
    Packed q, k, v, p, dout, ds;
    Scratch scores, dscores, out, out2, stats;
};

Workspace& workspace() {
    thread_local Workspace w;
    return w;
}

// How many of the keys [first, first + n) lie no later than query i of the sequence.
int64_t visible(int64_t i, int64_t cached, int64_t first, int64_t n) { return std::clamp<int64_t>(cached + i + 1 - first, 0, n); }

// How many of these lie before the query's window: it sees [hidden, visible).
int64_t hidden(const Shape& s, int64_t i, int64_t cached, int64_t first, int64_t n) {
    return s.window ? std::clamp<int64_t>(cached + i + 1 - s.window - first, 0, n) : 0;
}

// The first block of keys that query i, and so any later one, sees.
int64_t first_block(const Shape& s, int64_t i, int64_t cached) {
    return s.window ? std::max<int64_t>(0, cached + i + 1 - s.window) / KeyBlock * KeyBlock : 0;
}

std::vector<Task> cut(int32_t nseq, const int32_t* starts, int64_t heads, int64_t block) {
    std::vector<Task> tasks;
    for (int32_t s = 0; s < nseq; s++)
        for (int64_t first = round_up(starts[s + 1] - starts[s], block) - block; first >= 0; first -= block)  // the longest first
            for (int64_t h = 0; h < heads; h++) tasks.push_back({s, h, first});
    return tasks;
}

void forward(const Kernels& kernels, const Shape& s, const Task& task, const void* q, const void* k, const void* v, void* out, float* lse) {
    const Micro& micro = kernels.f32;
    Workspace& w = workspace();
    int64_t cached = s.keys(task.sequence) - s.queries(task.sequence), kv = task.head / s.group();
    int64_t rows = std::min(QueryBlock, s.queries(task.sequence) - task.first), t0 = s.startsQ[task.sequence] + task.first;
    int64_t end = cached + task.first + rows;  // keys that any of the rows sees
    int64_t ldo = round_up(s.Dv, micro.nr), lds = KeyBlock;
    float* o = w.out.get<float>(QueryBlock * ldo);
    float* scores = w.scores.get<float>(QueryBlock * lds);
    float top[QueryBlock], sum[QueryBlock];
    std::fill(o, o + rows * ldo, 0.0f);
    std::fill(top, top + rows, -std::numeric_limits<float>::infinity());
    std::fill(sum, sum + rows, 0.0f);
    w.q.pack(kernels, s.at(q, s.H, s.D, t0, task.head), rows, s.D, micro.mr, s.scale);
    for (int64_t first = first_block(s, task.first, cached); first < end; first += KeyBlock) {
        int64_t n = std::min(KeyBlock, end - first), key = s.startsK[task.sequence] + first;
        w.k.pack(kernels, s.at(k, s.Hk, s.D, key, kv), n, s.D, micro.nr);
        w.v.pack(kernels, s.at(v, s.Hk, s.Dv, key, kv).transposed(), s.Dv, n, micro.nr);
        auto part = [&](int64_t i) { return Part{0, visible(task.first + std::min(i + micro.mr, rows) - 1, cached, first, n)}; };
        scores_of(micro, w.q, w.k, rows, s.D, scores, lds, part);
        for (int64_t i = 0; i < rows; i++) {
            int64_t seen = visible(task.first + i, cached, first, n), before = hidden(s, task.first + i, cached, first, n);
            float shrink = 1;
            std::fill(scores + i * lds, scores + i * lds + before, 0.0f);
            if (seen > before)
                shrink = kernels.softmax_step(scores + i * lds + before, seen - before, n - before, &top[i], &sum[i]);
            else
                std::fill(scores + i * lds, scores + i * lds + n, 0.0f);
            if (shrink != 1) kernels.scale(o + i * ldo, s.Dv, shrink);
        }
        w.p.pack(kernels, plain(scores, lds), rows, n, micro.mr);
        add_product(micro, w.p, w.v, rows, s.Dv, n, o, ldo, true, part);
    }
    for (int64_t i = 0; i < rows; i++) {
        void* to = const_cast<void*>(s.at(out, s.H, s.Dv, t0 + i, task.head).data);
        kernels.store(o + i * ldo, ldo, 1, s.Dv, 1 / sum[i], 0, to, s.type, s.Dv, 1);
        lse[(t0 + i) * s.H + task.head] = top[i] + std::log(sum[i]);
    }
}

struct Gradients {
    const void *q, *k, *v, *out, *dout;
    const float *lse, *delta;
};

// P and dS of a block: `rows` queries from `i0` on, `n` keys from `first` on. w.q (scaled) and w.dout hold the queries as panels of rows,
// w.k and w.v the keys as panels of columns.
void score_block(const Kernels& kernels, const Shape& s, Workspace& w, const Task& task, const Gradients& g, int64_t head, int64_t i0,
                 int64_t rows, int64_t first, int64_t n, float* p, float* ds) {
    int64_t cached = s.keys(task.sequence) - s.queries(task.sequence), t0 = s.startsQ[task.sequence] + i0;
    auto part = [&](int64_t i) { return Part{0, visible(i0 + std::min(i + kernels.f32.mr, rows) - 1, cached, first, n)}; };
    scores_of(kernels.f32, w.q, w.k, rows, s.D, p, KeyBlock, part);
    scores_of(kernels.f32, w.dout, w.v, rows, s.Dv, ds, KeyBlock, part);
    for (int64_t i = 0; i < rows; i++) {
        int64_t at = (t0 + i) * s.H + head, seen = visible(i0 + i, cached, first, n);
        int64_t before = std::min(seen, hidden(s, i0 + i, cached, first, n));
        float *row = p + i * KeyBlock, *gradients = ds + i * KeyBlock;
        std::fill(row, row + before, 0.0f);
        std::fill(gradients, gradients + before, 0.0f);
        kernels.softmax_grad(row + before, gradients + before, seen - before, n - before, g.lse[at], g.delta[at]);
    }
}

void backward_queries(const Kernels& kernels, const Shape& s, const Task& task, const Gradients& g, void* dq) {
    const Micro& micro = kernels.f32;
    Workspace& w = workspace();
    int64_t cached = s.keys(task.sequence) - s.queries(task.sequence), kv = task.head / s.group();
    int64_t rows = std::min(QueryBlock, s.queries(task.sequence) - task.first), t0 = s.startsQ[task.sequence] + task.first;
    int64_t end = cached + task.first + rows, ldq = round_up(s.D, micro.nr);
    float* sum = w.out.get<float>(QueryBlock * ldq);
    float* p = w.scores.get<float>(QueryBlock * KeyBlock);
    float* ds = w.dscores.get<float>(QueryBlock * KeyBlock);
    w.q.pack(kernels, s.at(g.q, s.H, s.D, t0, task.head), rows, s.D, micro.mr, s.scale);
    w.dout.pack(kernels, s.at(g.dout, s.H, s.Dv, t0, task.head), rows, s.Dv, micro.mr);
    int64_t begin = first_block(s, task.first, cached);
    for (int64_t first = begin; first < end; first += KeyBlock) {
        int64_t n = std::min(KeyBlock, end - first), key = s.startsK[task.sequence] + first;
        Matrix keys = s.at(g.k, s.Hk, s.D, key, kv);
        w.k.pack(kernels, keys, n, s.D, micro.nr);
        w.v.pack(kernels, s.at(g.v, s.Hk, s.Dv, key, kv), n, s.Dv, micro.nr);
        score_block(kernels, s, w, task, g, task.head, task.first, rows, first, n, p, ds);
        w.ds.pack(kernels, plain(ds, KeyBlock), rows, n, micro.mr);
        w.k.pack(kernels, keys.transposed(), s.D, n, micro.nr);
        add_product(micro, w.ds, w.k, rows, s.D, n, sum, ldq, first > begin, [&](int64_t i) {
            return Part{0, visible(task.first + std::min(i + micro.mr, rows) - 1, cached, first, n)};
        });
    }
    void* to = const_cast<void*>(s.at(dq, s.H, s.D, t0, task.head).data);
    kernels.store(sum, ldq, rows, s.D, s.scale, 0, to, s.type, s.H * s.D, 1);
}

void backward_keys(const Kernels& kernels, const Shape& s, const Task& task, const Gradients& g, void* dk, void* dv) {
    const Micro& micro = kernels.f32;
    Workspace& w = workspace();
    int64_t cached = s.keys(task.sequence) - s.queries(task.sequence), queries = s.queries(task.sequence);
    int64_t n = std::min(KeyBlock, s.keys(task.sequence) - task.first), key = s.startsK[task.sequence] + task.first;
    int64_t ldk = round_up(s.D, micro.nr), ldv = round_up(s.Dv, micro.nr);
    float* sum_k = w.out.get<float>(KeyBlock * ldk);
    float* sum_v = w.out2.get<float>(KeyBlock * ldv);
    float* p = w.scores.get<float>(QueryBlock * KeyBlock);
    float* ds = w.dscores.get<float>(QueryBlock * KeyBlock);
    std::fill(sum_k, sum_k + n * ldk, 0.0f);
    std::fill(sum_v, sum_v + n * ldv, 0.0f);
    w.k.pack(kernels, s.at(g.k, s.Hk, s.D, key, task.head), n, s.D, micro.nr);
    w.v.pack(kernels, s.at(g.v, s.Hk, s.Dv, key, task.head), n, s.Dv, micro.nr);
    int64_t begin = std::max<int64_t>(0, task.first - cached) / QueryBlock * QueryBlock;           // earlier queries do not see these keys
    int64_t end = s.window ? std::min(queries, task.first + n - 1 - cached + s.window) : queries;  // nor do later ones than a window
    for (int64_t head = task.head * s.group(); head < (task.head + 1) * s.group(); head++)
        for (int64_t i0 = begin; i0 < end; i0 += QueryBlock) {
            int64_t rows = std::min(QueryBlock, queries - i0), t0 = s.startsQ[task.sequence] + i0;
            Matrix q = s.at(g.q, s.H, s.D, t0, head), dout = s.at(g.dout, s.H, s.Dv, t0, head);
            w.q.pack(kernels, q, rows, s.D, micro.mr, s.scale);
            w.dout.pack(kernels, dout, rows, s.Dv, micro.mr);
            score_block(kernels, s, w, task, g, head, i0, rows, task.first, n, p, ds);
            // Key first + i is seen from query first + i - cached on.
            auto part = [&](int64_t i) { return Part{std::clamp<int64_t>(task.first + i - cached - i0, 0, rows), rows}; };
            w.p.pack(kernels, plain(p, KeyBlock).transposed(), n, rows, micro.mr);
            w.dout.pack(kernels, dout.transposed(), s.Dv, rows, micro.nr);
            add_product(micro, w.p, w.dout, n, s.Dv, rows, sum_v, ldv, true, part);
            w.ds.pack(kernels, plain(ds, KeyBlock).transposed(), n, rows, micro.mr);
            w.q.pack(kernels, q.transposed(), s.D, rows, micro.nr);
            add_product(micro, w.ds, w.q, n, s.D, rows, sum_k, ldk, true, part);
        }
    kernels.store(sum_k, ldk, n, s.D, s.scale, 0, const_cast<void*>(s.at(dk, s.Hk, s.D, key, task.head).data), s.type, s.Hk * s.D, 1);
    kernels.store(sum_v, ldv, n, s.Dv, 1, 0, const_cast<void*>(s.at(dv, s.Hk, s.Dv, key, task.head).data), s.type, s.Hk * s.Dv, 1);
}

// Checks the arguments; false when there is nothing to do.
bool check(int32_t nseq, const Shape& s) {
    check_extent("nseq", nseq);
    check_type("type", s.type);
    check_extent("window", s.window);
    check_size("H", s.H), check_size("Hk", s.Hk), check_size("D", s.D), check_size("Dv", s.Dv);
    if (s.H % s.Hk)
        throw Error(InvalidArgument, "H must be a multiple of Hk, but H = %lld and Hk = %lld", static_cast<long long>(s.H),
                    static_cast<long long>(s.Hk));
    if (nseq == 0) return false;
    check_starts("startsQ", nseq, s.startsQ);
    int64_t keys = check_starts("startsK", nseq, s.startsK);
    for (int32_t i = 0; i < nseq; i++)
        if (s.keys(i) < s.queries(i))
            throw Error(InvalidArgument, "sequence %d has %lld keys, fewer than its %lld queries", i, static_cast<long long>(s.keys(i)),
                        static_cast<long long>(s.queries(i)));
    return keys > 0;
}

void attention(int32_t nseq, const Shape& s, const void* q, const void* k, const void* v, void* out, float* lse) {
    if (!check(nseq, s) || s.startsQ[nseq] == 0) return;
    need("q", q), need("k", k), need("v", v), need("out", out), need("lse", lse);
    const Kernels& kernels = kt::kernels();
    std::vector<Task> tasks = cut(nseq, s.startsQ, s.H, QueryBlock);
    parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) { forward(kernels, s, tasks[i], q, k, v, out, lse); });
}

void attention_grad(int32_t nseq, const Shape& s, Gradients g, void* dq, void* dk, void* dv) {
    if (!check(nseq, s)) return;
    need("k", g.k), need("v", g.v), need("dk", dk), need("dv", dv);
    if (s.startsQ[nseq] > 0) need("q", g.q), need("out", g.out), need("lse", g.lse), need("dout", g.dout), need("dq", dq);
    const Kernels& kernels = kt::kernels();
    thread_local Scratch delta_memory;
    int64_t T = s.startsQ[nseq];
    float* delta = delta_memory.get<float>(T * s.H);
    g.delta = delta;
    parallel_for(T, [&](int64_t t) {
        for (int64_t h = 0; h < s.H; h++)
            delta[t * s.H + h] = kernels.inner(s.at(g.out, s.H, s.Dv, t, h).data, s.at(g.dout, s.H, s.Dv, t, h).data, s.type, s.Dv);
    });
    std::vector<Task> queries = cut(nseq, s.startsQ, s.H, QueryBlock), keys = cut(nseq, s.startsK, s.Hk, KeyBlock);
    int64_t first = static_cast<int64_t>(queries.size()), all = first + static_cast<int64_t>(keys.size());
    parallel_for(all, [&](int64_t i) {
        if (i < first)
            backward_queries(kernels, s, queries[i], g, dq);
        else
            backward_keys(kernels, s, keys[i - first], g, dk, dv);
    });
}

}  // namespace
}  // namespace kt

int32_t kt_attention(int32_t nseq, const int32_t* startsQ, const int32_t* startsK, int32_t H, int32_t Hk, int32_t D, int32_t Dv,
                     int32_t window, float scale, const void* q, const void* k, const void* v, int32_t type, void* out, float* lse) {
    return kt::guarded("kt_attention", [&] {
        kt::attention(nseq, {startsQ, startsK, H, Hk, D, Dv, window, scale, type}, q, k, v, out, lse);
    });
}

int32_t kt_attention_grad(int32_t nseq, const int32_t* startsQ, const int32_t* startsK, int32_t H, int32_t Hk, int32_t D, int32_t Dv,
                          int32_t window, float scale, const void* q, const void* k, const void* v, const void* out, const float* lse,
                          const void* dout, int32_t type, void* dq, void* dk, void* dv) {
    return kt::guarded("kt_attention_grad", [&] {
        kt::attention_grad(nseq, {startsQ, startsK, H, Hk, D, Dv, window, scale, type}, {q, k, v, out, dout, lse, nullptr}, dq, dk, dv);
    });
}
