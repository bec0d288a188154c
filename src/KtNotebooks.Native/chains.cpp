// Chains of products over the same rows: a task packs the rows of a chain into its own cache, computes the narrow products, and then its
// share of the columns of the wide ones. No task waits for another, and A never leaves the core's second cache.
#include <algorithm>
#include <vector>

#include "cpu.h"
#include "error.h"
#include "gemm.h"
#include "gemm_range.h"
#include "pool.h"
#include "scratch.h"

namespace kt {
namespace {

constexpr int64_t MostNarrow = 32;

// A range of rows of a chain and one of so many equal shares of its columns.
struct Link {
    const Chain* chain;
    int64_t first, rows;
    int share, shares;
};

// Multiplications of a row; the narrow products count little.
int64_t row_cost(const Chain& chain) {
    int64_t cost = 1;
    for (const auto* products : {&chain.narrow, &chain.wide})
        for (const Product& p : *products)
            for (int t = 0; t < p.term_count; t++) cost += p.n * p.terms[t].k;
    return cost;
}

int64_t most_rows(const Kernels& kernels, const Chain& chain) {
    int64_t rows = INT64_MAX;
    for (const auto* products : {&chain.narrow, &chain.wide})
        for (const Product& p : *products) rows = std::min(rows, cached_rows(kernels, p));
    return rows;
}

// The most work first, whole; towards the end in shares, none larger than a part of what is left for each thread: so all threads end
// together whatever experts are hot. A share packs the rows again, so there are no more than it takes.
std::vector<Link> cut(const Kernels& kernels, const std::vector<Chain>& chains) {
    constexpr int64_t LeastShares = 4;  // that the last links may be cut into
    struct Unit {
        Link link;
        int64_t cost, columns;
    };
    std::vector<Unit> units;
    int64_t left = 0;
    for (const Chain& chain : chains) {
        const Product& any = chain.wide.empty() ? chain.narrow.front() : chain.wide.front();
        if (any.m == 0) continue;
        const int64_t rows = even_share(any.m, most_rows(kernels, chain), LeastRows), cost = row_cost(chain);
        for (int64_t i = 0; i < any.m; i += rows) {
            const int64_t n = std::min(rows, any.m - i);
            units.push_back({{&chain, i, n, 0, 1},
                             cost * round_up(n, kernels.bf16.element ? kernels.bf16.mr : kernels.f32.mr),
                             chain.wide.empty() ? 0 : any.n});
            left += units.back().cost;
        }
    }
    std::stable_sort(units.begin(), units.end(), [](const Unit& a, const Unit& b) { return a.cost > b.cost; });
    const int64_t threads = pool_threads(), count = std::max<int64_t>(1, units.size());
    const int64_t most = threads == 1 ? 1 : std::max(LeastShares, shares(4 * threads, count));
    std::vector<Link> links;
    for (Unit& unit : units) {
        const int64_t wanted = std::min(most, shares(2 * threads * unit.cost, left)),
                      columns = std::max<int64_t>(1, unit.columns / LeastColumns);
        unit.link.shares = static_cast<int>(std::min(wanted, columns));
        for (; unit.link.share < unit.link.shares; unit.link.share++) links.push_back(unit.link);
        left -= unit.cost;
    }
    return links;
}

// Whether the narrow products are more than one panel of columns.
bool is_broad(const Chain& chain) {
    return std::any_of(chain.narrow.begin(), chain.narrow.end(), [](const Product& p) { return p.n > MostNarrow; });
}

// Whether panels of one term serve another.
bool is_same(const Plan& p, const Term& a, const Plan& q, const Term& b) {
    auto factors = [](const Plan& plan, const Term& t) { return plan.is_int8() && t.b.stored.turned ? int8_scales(t.b, 0) : nullptr; };
    return p.micro == q.micro && a.k == b.k && a.scale == b.scale && a.source == b.source && a.source_first == b.source_first &&
           a.a.data == b.a.data && p.joined == q.joined && factors(p, a) == factors(q, b);
}

// The panels that a link has made so far.
struct Panels {
    struct Made {
        Plan plan;
        Term term;
        char* at[2];
    };
    static constexpr int Most = 8;  // an expert's have at most 6: rows as they are and quantized, of two inputs, and two narrow results
    Made made[Most];
    int count = 0;
};

// The rows of a link of one of its products.
Product rows_of(const Product& p, const Link& link) {
    Product part = p;
    part.m = link.rows;
    part.out = static_cast<char*>(p.out) + link.first * p.rows * (p.type == KT_F32 ? 4 : 2);
    for (int t = 0; t < p.term_count; t++) {
        part.terms[t].source_first += link.first;
        if (!p.terms[t].source) part.terms[t].a = p.terms[t].a.from(link.first, 0);
    }
    return part;
}

// `narrow_done`: what the narrow products give is there.
void run(const Kernels& kernels, const Link& link, bool narrow_done) {
    thread_local Scratch panel_memory[2 * Panels::Most], narrow_memory[4];
    Panels panels;
    auto multiply = [&](const Product& p, int64_t first, int64_t columns) {
        Range range{&p, 0, p.m, {}};
        for (int t = 0; t < p.term_count; t++) {
            const Plan q = plan(kernels, p.terms[t]);
            int at = 0;
            while (at < panels.count && !is_same(q, p.terms[t], panels.made[at].plan, panels.made[at].term)) at++;
            if (at == panels.count) {
                if (++panels.count > Panels::Most) throw Error(InvalidArgument, "a chain of more than %d packed factors", Panels::Most);
                panels.made[at] = {q, p.terms[t], {}};
            }
            for (int part = 0; part < q.a_parts; part++) {
                char*& to = panels.made[at].at[part];
                range.packed[t][part] = to ? to : panel_memory[2 * at + part].get<char>(q.packed_bytes(p.m));
                for (int64_t i = 0; i < p.m && !to; i += PackRows) pack(kernels, range, t, part, i);
                to = range.packed[t][part];
            }
        }
        compute(kernels, range, first, columns);
    };
    const float* instead[4];
    for (size_t i = 0; i < link.chain->narrow.size(); i++) {
        Product p = rows_of(link.chain->narrow[i], link);
        if (narrow_done) {
            instead[i] = static_cast<const float*>(p.out);
            continue;
        }
        if (link.share > 0) p.out = narrow_memory[i].get<float>(p.m * p.rows);  // the first share's is the one that is kept
        instead[i] = static_cast<const float*>(p.out);
        multiply(p, 0, p.n);
    }
    for (const Product& whole : link.chain->wide) {
        Product p = rows_of(whole, link);
        for (int t = 0; t < p.term_count; t++)
            for (size_t i = 0; i < link.chain->narrow.size(); i++)
                if (whole.terms[t].a.data == link.chain->narrow[i].out) p.terms[t].a.data = instead[i];
        const int64_t columns = even_share(p.n, shares(p.n, link.shares), TileUnit), first = link.share * columns;
        if (first < p.n) multiply(p, first, std::min(columns, p.n - first));
    }
}

}  // namespace

void multiply(const std::vector<Chain>& chains) {
    const Kernels& kernels = kt::kernels();
    const std::vector<Link> links = cut(kernels, chains);
    // Narrow products that are not so narrow are not computed again by every share.
    auto is_apart = [](const Link& link) { return link.shares > 1 && is_broad(*link.chain); };
    std::vector<Chain> narrow;
    for (const Link& link : links)
        if (link.share == 0 && is_apart(link)) {
            narrow.emplace_back();
            for (const Product& p : link.chain->narrow) narrow.back().wide.push_back(rows_of(p, link));
        }
    if (!narrow.empty()) multiply(narrow);
    parallel_for(static_cast<int64_t>(links.size()), [&](int64_t i) { run(kernels, links[i], is_apart(links[i])); });
}

}  // namespace kt
