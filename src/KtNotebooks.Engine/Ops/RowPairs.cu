// Low-rank pairs of several adapters, each row its own, added to what the weight gave: see RowPairs.cs. T: x, OTHER: y. Sums are F32.

struct LowPair { const float *a, *b; int rank; float scale; }; // A [rank, in], B [out, rank]; a == nullptr: this module has none

__device__ __forceinline__ LowPair pair_of(const LowPair* pairs, int place)
{
    return place < 0 ? LowPair{} : pairs[place];
}

// p[row, i] = A[i] · x[row], of the adapter of token row / divide. grid: (rows, stride · SPLIT / 8 rounded up), 8 warps, SPLIT of them an i, each a part of K, which
// is a multiple of 4 · SPLIT then.
extern "C" __global__ void row_pairs_in(const T* x, const LowPair* pairs, const int* places, float* p, int K, int divide, int stride)
{
    __shared__ float partial[8];
    int row = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, i = blockIdx.y * (8 / SPLIT) + warp / SPLIT, from = warp % SPLIT * (K / SPLIT);
    LowPair q = pair_of(pairs, places[row / divide]);
    if (i < q.rank) // the same for the warps of an i
    {
        float sum = warp_dot<SPLIT == 1 ? 4 : 2>(q.a + (long long)i * K + from, x + (long long)row * K + from, K / SPLIT);
        if (lane == 0) partial[warp] = sum;
    }
    __syncthreads();
    if (i >= q.rank || lane != 0 || from != 0) return;
    float sum = 0;
    for (int part = 0; part < SPLIT; part++) sum += partial[warp + part];
    p[(long long)row * stride + i] = sum;
}

// y[row, n] += scale · B[(row % divide) · each + first + n] · p[row]. A thread an n. grid: (rows, N / threads rounded up).
extern "C" __global__ void row_pairs_add(const float* p, const LowPair* pairs, const int* places, OTHER* y, int N, int divide, int each, int first, int stride)
{
    int row = blockIdx.x, n = blockIdx.y * blockDim.x + threadIdx.x;
    LowPair q = pair_of(pairs, places[row / divide]);
    if (n >= N || q.rank == 0) return;
    y += (long long)row * N + n;
    store(y, widen(*y) + q.scale * rank_dot(q.b + ((long long)(row % divide) * each + first + n) * q.rank, p + (long long)row * stride, q.rank));
}

// Absorbed queries: y[t, h, 0 … R) += scale · (q_nope[t, h] B_h) A, q [T, H, n + r], y [T, H, R + r], A [rank, R], B [H·(n + v), rank].
// grid: (T, H); shared: stride floats.
extern "C" __global__ void row_pairs_queries(const T* q, const LowPair* pairs, const int* places, OTHER* y, int H, int n, int r, int v, int R)
{
    DYNAMIC_SHARED(memory);
    float* p = (float*)memory;
    int t = blockIdx.x, h = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    LowPair low = pair_of(pairs, places[t]);
    if (low.rank == 0) return;
    q += ((long long)t * H + h) * (n + r);
    const float* b = low.b + (long long)h * (n + v) * low.rank;
    for (int i = warp; i < low.rank; i += blockDim.x >> 5)
    {
        float sum = 0;
        for (int k = lane; k < n; k += 32) sum += widen(q[k]) * b[k * low.rank + i];
        sum = warp_sum(sum);
        if (lane == 0) p[i] = low.scale * sum;
    }
    __syncthreads();
    y += ((long long)t * H + h) * (R + r);
    for (int c = threadIdx.x; c < R; c += blockDim.x)
    {
        float sum = 0;
        for (int i = 0; i < low.rank; i++) sum += p[i] * low.a[(long long)i * R + c];
        store(y + c, widen(y[c]) + sum);
    }
}
