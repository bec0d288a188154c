// Low-rank pairs of several adapters beside the products of sorted rows: see SeveralPairs.cs. Route r = t·k + j of token t stands in sorted row row_of[r].

struct Low { const float *a, *b; int rank; };                    // A [E, rank, in], B [E, out, rank]
struct Pairs { Low gate, up, down; float scale; int unused; };   // as FewRows.cu has them; ranks of 0: none

// target[row_of[r], n] += scale · B_e[n] · (A_e · row): of gate and up with the row of token r / k, or (down) of down alone with sorted row row_of[r]. grid: routes;
// shared: the ranks · (SPLIT + 1) floats.
extern "C" __global__ void several_pairs(const T* rows, const int* row_of, const Pairs* pairs, const int* places, const int* indices, T* gate, T* up, int N, int K, int k,
    int down)
{
    DYNAMIC_SHARED(memory);
    float* p = (float*)memory;
    int r = blockIdx.x, place = places[r / k], expert = indices[r], sorted = row_of[r];
    if (place < 0) return;
    Pairs q = pairs[place];
    Low first = down ? q.down : q.gate, second = down ? Low{} : q.up;
    const float *a = first.a + (long long)expert * first.rank * K, *a2 = second.a + (long long)expert * second.rank * K;
    block_dots<SPLIT>([&](int i) { return i < first.rank ? a + (long long)i * K : a2 + (long long)(i - first.rank) * K; }, first.rank + second.rank,
        rows + (long long)(down ? sorted : r / k) * K, K, p);
    for (int n = threadIdx.x; n < N; n += blockDim.x)
    {
        T *y = gate + (long long)sorted * N + n, *y2 = up + (long long)sorted * N + n;
        store(y, widen(*y) + q.scale * rank_dot(first.b + ((long long)expert * N + n) * first.rank, p, first.rank));
        if (!down) store(y2, widen(*y2) + q.scale * rank_dot(second.b + ((long long)expert * N + n) * second.rank, p + first.rank, second.rank));
    }
}
