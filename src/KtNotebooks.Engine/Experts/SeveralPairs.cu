// Low-rank pairs of several adapters beside the products of sorted rows: see SeveralPairs.cs. Route r = t·k + j of token t stands in sorted row row_of[r].

struct Low { const float *a, *b; int rank; };                    // A [E, rank, in], B [E, out, rank]
struct Pairs { Low gate, up, down; float scale; int unused; };   // as FewRows.cu has them; ranks of 0: none

// p[i] = row(i) · x over K, i < count, by a block, for all its threads to read: SPLIT warps an i, each a part of K (a multiple of 4 · SPLIT where that is not 1).
// p: shared, count · (SPLIT + 1) floats.
template <class V, class Row>
__device__ void block_dots(Row row, int count, const V* x, int K, float* p)
{
    float* parts = SPLIT == 1 ? p : p + count;
    int warps = blockDim.x >> 5, each = K / SPLIT;
    for (int at = threadIdx.x >> 5; at < count * SPLIT; at += warps)
    {
        int from = at % SPLIT * each;
        float sum = warp_dot<8>(row(at / SPLIT) + from, x + from, each);
        if ((threadIdx.x & 31) == 0) parts[at] = sum;
    }
    __syncthreads();
    if (SPLIT == 1) return;
    for (int i = threadIdx.x; i < count; i += blockDim.x)
    {
        float sum = 0;
        for (int part = 0; part < SPLIT; part++) sum += parts[i * SPLIT + part];
        p[i] = sum;
    }
    __syncthreads();
}

// y[row_of[r] - from, n] += scale · B_e[n] · (A_e · row): of gate and up with the row of token r / k, or (down) of down alone with that sorted row, where it is one of the
// `count` rows at hand. grid: routes; shared: the ranks · (SPLIT + 1) floats.
extern "C" __global__ void several_pairs(const T* rows, const int* row_of, const Pairs* pairs, const int* places, const int* indices, T* gate, T* up, int N, int K, int k,
    int from, int count, int down)
{
    DYNAMIC_SHARED(memory);
    float* p = (float*)memory;
    int r = blockIdx.x, place = places[r / k], expert = indices[r], sorted = row_of[r] - from;
    if (place < 0 || sorted < 0 || sorted >= count) return;
    Pairs q = pairs[place];
    Low first = down ? q.down : q.gate, second = down ? Low{} : q.up;
    const float *a = first.a + (long long)expert * first.rank * K, *a2 = second.a + (long long)expert * second.rank * K;
    block_dots([&](int i) { return i < first.rank ? a + (long long)i * K : a2 + (long long)(i - first.rank) * K; }, first.rank + second.rank,
        rows + (long long)(down ? sorted : r / k) * K, K, p);
    for (int n = threadIdx.x; n < N; n += blockDim.x)
    {
        T *y = gate + (long long)sorted * N + n, *y2 = up + (long long)sorted * N + n;
        store(y, widen(*y) + q.scale * rank_dot(first.b + ((long long)expert * N + n) * first.rank, p, first.rank));
        if (!down) store(y2, widen(*y2) + q.scale * rank_dot(second.b + ((long long)expert * N + n) * second.rank, p + first.rank, second.rank));
    }
}
