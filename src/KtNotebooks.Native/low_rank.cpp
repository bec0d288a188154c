#include "low_rank.h"

#include <algorithm>

#include "cpu.h"
#include "gemm.h"
#include "pool.h"

namespace kt {

namespace {

Product product_of(const OuterSum& s) {
    Product p = onto(s.to, KT_F32, s.transposed ? s.r : s.n, 0, s.transposed ? s.n : s.r, s.scale);
    const Matrix factors{s.factors, KT_F32, 1, s.r}, x{s.x.data, s.x.type, 1, s.x.distance};
    if (s.x.count > 0)
        p.terms[p.term_count++] = {s.transposed ? x : factors, s.transposed ? factors : x, s.x.count, 1, s.x.type == KT_BF16};
    return p;
}

// Each row is read where it lies, by sums that stay in registers.
void add_outer(const std::vector<OuterSum>& sums) {
    struct Piece {
        const OuterSum* sum;
        int64_t first;
    };
    constexpr int64_t Most = 256, Least = 64;  // columns of a task
    int64_t columns = Most, all = 0;
    for (const OuterSum& s : sums) all += s.n;
    while (columns > Least && all / columns < 8 * pool_threads()) columns /= 2;
    std::vector<Piece> pieces;
    for (const OuterSum& s : sums)
        for (int64_t j = 0; j < s.n; j += columns) pieces.push_back({&s, j});
    parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        const OuterSum& s = *pieces[i].sum;
        kernels().outer(s.x, s.factors, s.r, pieces[i].first, std::min(columns, s.n - pieces[i].first), s.scale, s.to,
                        s.transposed ? 1 : s.n, s.transposed ? s.r : 1);
    });
}

}  // namespace

void add_up(const std::vector<OuterSum>& sums) {
    std::vector<OuterSum> few;
    std::vector<Product> many;
    for (const OuterSum& s : sums)
        if (s.r <= MostOuterRank)
            few.push_back(s);
        else
            many.push_back(product_of(s));
    add_outer(few);
    multiply(std::move(many));
}

}  // namespace kt
