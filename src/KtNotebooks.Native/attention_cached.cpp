// Attention over a paged cache: the keys of a sequence lie in pages of page_rows rows anywhere in one tensor, and are read where they are.
//
// All query heads that share a key head are rows of one matrix, query by query: a key is packed once for all of them. Keys are cut into
// parts of PartKeys, counted from the first key of the sequence. A part is walked with an online softmax that begins anew, and the parts
// are merged in their order, whether one task walks them all or each is a task of its own: the bits of a row depend neither on the number
// of threads, nor on the rows computed with it, nor on where the pages lie.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "attention_tiles.h"
#include "check.h"
#include "cpu.h"
#include "pool.h"

namespace kt {
namespace {

constexpr int64_t PartKeys = 4 * KeyBlock;

struct Shape {
    const int32_t *starts_q, *counts, *first_page, *pages;
    int64_t page_rows, H, Hk, D, Dv, window, pitch_k, pitch_v;
    float scale;
    int32_t type;

    int64_t group() const { return H / Hk; }
    int64_t queries(int32_t s) const { return starts_q[s + 1] - starts_q[s]; }
    int64_t bytes() const { return type == KT_F32 ? 4 : 2; }
    int64_t row_of(int32_t s, int64_t key) const { return int64_t{pages[first_page[s] + key / page_rows]} * page_rows + key % page_rows; }
};

// Rows [first, first + rows) of a sequence's queries × group; `end` keys are seen by one of them.
struct Task {
    int32_t sequence;
    int64_t head, first, rows, end;
    int64_t parts() const { return (end + PartKeys - 1) / PartKeys; }
};

// What is summed of some keys: Σ exp(s − top) v as rows of length ld, the largest scaled score, Σ exp(s − top).
struct Sums {
    float *out, *top, *sum;
};

struct Workspace {
    Packed q, k, v, p;
    Scratch queries, keys, scores, part, all, stats;
};

Workspace& workspace() {
    thread_local Workspace w;
    return w;
}

// The queries of a task as one matrix; gathered where they do not lie at one distance.
Matrix queries_of(const Shape& s, const Task& t, const void* q, Workspace& w) {
    int64_t G = s.group(), t0 = s.starts_q[t.sequence] + t.first / G, g0 = t.first % G;
    Matrix all{q, s.type, s.D, 1};
    if (s.Hk == 1 || g0 + t.rows <= G) return all.from(t0 * s.H + t.head * G + g0, 0);
    char* rows = w.queries.get<char>(t.rows * s.D * s.bytes());
    for (int64_t r = 0; r < t.rows; r++)
        std::memcpy(rows + r * s.D * s.bytes(), all.at((t0 + (g0 + r) / G) * s.H + t.head * G + (g0 + r) % G, 0), s.D * s.bytes());
    return {rows, s.type, s.D, 1};
}

// n keys from `first` on as a matrix of `width` columns: in place where their pages follow one another, else gathered, block by block.
Matrix keys_of(const Shape& s, int32_t sequence, int64_t first, int64_t n, const void* data, int64_t pitch, int64_t column, int64_t width,
               Workspace& w) {
    Matrix all{data, s.type, pitch, 1};
    int64_t begin = s.row_of(sequence, first);
    bool together = true;
    for (int64_t page = first / s.page_rows + 1; page * s.page_rows < first + n; page++)
        together &= s.row_of(sequence, page * s.page_rows) == begin + page * s.page_rows - first;
    if (together) return all.from(begin, column);
    char* rows = w.keys.get<char>(n * width * s.bytes());
    for (int64_t i = 0; i < n; i++)
        std::memcpy(rows + i * width * s.bytes(), all.at(s.row_of(sequence, first + i), column), width * s.bytes());
    return {rows, s.type, width, 1};
}

// One part of the keys, summed anew.
void walk(const Kernels& kernels, const Shape& s, const Task& t, int64_t part, const void* k, const void* v, Sums to, int64_t ld) {
    const Micro& micro = kernels.f32;
    Workspace& w = workspace();
    int64_t G = s.group(), cached = s.counts[t.sequence] - s.queries(t.sequence), last = std::min(t.end, (part + 1) * PartKeys);
    float* scores = w.scores.get<float>(QueryBlock * KeyBlock);
    std::fill(to.out, to.out + t.rows * ld, 0.0f);
    std::fill(to.top, to.top + t.rows, -std::numeric_limits<float>::infinity());
    std::fill(to.sum, to.sum + t.rows, 0.0f);
    for (int64_t first = part * PartKeys; first < last; first += KeyBlock) {
        int64_t n = std::min(KeyBlock, last - first);
        auto visible = [&](int64_t row) { return std::clamp<int64_t>(cached + (t.first + row) / G + 1 - first, 0, n); };
        // Of the visible ones, those before a row's window are hidden.
        auto hidden = [&](int64_t row) {
            return s.window ? std::clamp<int64_t>(cached + (t.first + row) / G + 1 - s.window - first, 0, n) : 0;
        };
        if (hidden(0) == n) continue;
        auto seen_by = [&](int64_t i) { return Part{0, visible(std::min<int64_t>(i + micro.mr, t.rows) - 1)}; };
        w.k.pack(kernels, keys_of(s, t.sequence, first, n, k, s.pitch_k, t.head * s.D, s.D, w), n, s.D, micro.nr);
        w.v.pack(kernels, keys_of(s, t.sequence, first, n, v, s.pitch_v, t.head * s.Dv, s.Dv, w).transposed(), s.Dv, n, micro.nr);
        scores_of(micro, w.q, w.k, t.rows, s.D, scores, KeyBlock, seen_by);
        for (int64_t i = 0; i < t.rows; i++) {
            int64_t seen = visible(i), before = hidden(i);
            float shrink = 1;
            std::fill(scores + i * KeyBlock, scores + i * KeyBlock + before, 0.0f);
            if (seen > before)
                shrink = kernels.softmax_step(scores + i * KeyBlock + before, seen - before, n - before, &to.top[i], &to.sum[i]);
            else
                std::fill(scores + i * KeyBlock, scores + i * KeyBlock + n, 0.0f);
            if (shrink != 1) kernels.scale(to.out + i * ld, s.Dv, shrink);
        }
        w.p.pack(kernels, plain(scores, KeyBlock), t.rows, n, micro.mr);
        add_product(micro, w.p, w.v, t.rows, s.Dv, n, to.out, ld, true, seen_by);
    }
}

// all += part.
void merge(const Shape& s, int64_t rows, const Sums& all, const Sums& part, int64_t ld) {
    for (int64_t i = 0; i < rows; i++) {
        if (part.sum[i] == 0) continue;  // the row sees none of these keys
        float top = std::max(all.top[i], part.top[i]), a = std::exp(all.top[i] - top), b = std::exp(part.top[i] - top);
        for (int64_t d = 0; d < s.Dv; d++) all.out[i * ld + d] = all.out[i * ld + d] * a + part.out[i * ld + d] * b;
        all.sum[i] = all.sum[i] * a + part.sum[i] * b;
        all.top[i] = top;
    }
}

void finish(const Kernels& kernels, const Shape& s, const Task& t, const Sums& all, int64_t ld, void* out, float* lse) {
    Matrix rows{out, s.type, s.Dv, 1};
    for (int64_t i = 0; i < t.rows; i++) {
        int64_t r = t.first + i, row = (s.starts_q[t.sequence] + r / s.group()) * s.H + t.head * s.group() + r % s.group();
        kernels.store(all.out + i * ld, ld, 1, s.Dv, 1 / all.sum[i], 0, const_cast<void*>(rows.at(row, 0)), s.type, s.Dv, 1);
        if (lse) lse[row] = all.top[i] + std::log(all.sum[i]);
    }
}

Sums sums_at(float* memory, int64_t ld) { return {memory, memory + QueryBlock * ld, memory + QueryBlock * (ld + 1)}; }

void attention_cached(int32_t nseq, const Shape& s, const void* q, const void* k, const void* v, void* out, float* lse) {
    check_extent("nseq", nseq), check_type("type", s.type);
    check_extent("window", s.window);
    check_size("H", s.H), check_size("Hk", s.Hk), check_size("D", s.D), check_size("Dv", s.Dv), check_size("pageRows", s.page_rows);
    check_stride("pitchK", s.pitch_k, s.Hk * s.D), check_stride("pitchV", s.pitch_v, s.Hk * s.Dv);
    if (s.H % s.Hk)
        throw Error(InvalidArgument, "H must be a multiple of Hk, but H = %lld and Hk = %lld", static_cast<long long>(s.H),
                    static_cast<long long>(s.Hk));
    if (nseq == 0 || check_starts("startsQ", nseq, s.starts_q) == 0) return;
    need("counts", s.counts), need("firstPage", s.first_page), need("pages", s.pages);
    need("q", q), need("k", k), need("v", v), need("out", out);
    std::vector<Task> tasks;
    int64_t pieces = 0, most = 0;
    for (int32_t i = 0; i < nseq; i++) {
        int64_t rows = s.queries(i) * s.group(), cached = s.counts[i] - s.queries(i);
        if (cached < 0)
            throw Error(InvalidArgument, "sequence %d has %d keys, fewer than its %lld queries", i, s.counts[i],
                        static_cast<long long>(s.queries(i)));
        for (int64_t first = 0; first < rows; first += QueryBlock)
            for (int64_t head = 0; head < s.Hk; head++) {
                int64_t n = std::min(QueryBlock, rows - first);
                tasks.push_back({i, head, first, n, cached + (first + n - 1) / s.group() + 1});
                pieces += tasks.back().parts(), most = std::max(most, tasks.back().parts());
            }
    }
    const Kernels& kernels = kt::kernels();
    const int64_t ld = round_up(s.Dv, kernels.f32.nr), room = QueryBlock * (ld + 2), count = static_cast<int64_t>(tasks.size());
    auto pack = [&](const Task& t) {
        Workspace& w = workspace();
        w.q.pack(kernels, queries_of(s, t, q, w), t.rows, s.D, kernels.f32.mr, s.scale);
    };
    if (most > 1 && count < 4 * pool_threads()) {
        // Few rows behind many keys: a task a part.
        thread_local Scratch memory;
        float* sums = memory.get<float>(pieces * room);
        std::vector<std::pair<int64_t, int64_t>> work;
        std::vector<int64_t> begins;
        for (int64_t i = 0; i < count; i++) {
            begins.push_back(static_cast<int64_t>(work.size()));
            for (int64_t part = 0; part < tasks[i].parts(); part++) work.push_back({i, part});
        }
        parallel_for(pieces, [&](int64_t i) {
            const Task& t = tasks[work[i].first];
            pack(t);
            walk(kernels, s, t, work[i].second, k, v, sums_at(sums + i * room, ld), ld);
        });
        parallel_for(count, [&](int64_t i) {
            Sums all = sums_at(sums + begins[i] * room, ld);
            for (int64_t part = 1; part < tasks[i].parts(); part++)
                merge(s, tasks[i].rows, all, sums_at(sums + (begins[i] + part) * room, ld), ld);
            finish(kernels, s, tasks[i], all, ld, out, lse);
        });
        return;
    }
    parallel_for(count, [&](int64_t i) {
        const Task& t = tasks[count - 1 - i];  // the longest walks first
        Workspace& w = workspace();
        pack(t);
        Sums all = sums_at(w.all.get<float>(room), ld);
        walk(kernels, s, t, 0, k, v, all, ld);
        for (int64_t part = 1; part < t.parts(); part++) {
            Sums one = sums_at(w.part.get<float>(room), ld);
            walk(kernels, s, t, part, k, v, one, ld);
            merge(s, t.rows, all, one, ld);
        }
        finish(kernels, s, t, all, ld, out, lse);
    });
}

}  // namespace
}  // namespace kt

int32_t kt_attention_cached(int32_t nseq, const int32_t* startsQ, const int32_t* counts, const int32_t* firstPage, const int32_t* pages,
                            int32_t pageRows, int32_t H, int32_t Hk, int32_t D, int32_t Dv, int32_t window, float scale, const void* q,
                            const void* k, int64_t pitchK, const void* v, int64_t pitchV, int32_t type, void* out, float* lse) {
    return kt::guarded("kt_attention_cached", [&] {
        kt::attention_cached(nseq, {startsQ, counts, firstPage, pages, pageRows, H, Hk, D, Dv, window, pitchK, pitchV, scale, type}, q, k,
                             v, out, lse);
    });
}
