// Low-rank pairs of several adapters, each row its own, added to what the weight gave: see RowPairs.cs. T: x, OTHER: y. Sums are F32.

struct LowPair { const float *a, *b; int rank; float scale; }; // A [rank, in], B [out, rank]; a == nullptr: this module has none

__device__ __forceinline__ LowPair pair_of(const LowPair* pairs, int place)
{
    return place < 0 ? LowPair{} : pairs[place];
}

struct Output { const LowPair* pairs; OTHER* y; int N, blocks; }; // y [rows, N] of one module, and how many blocks of a row it has
struct Rows { const T* x; const int* places; Output outputs[3]; int K, divide, each, first; };

// y[row, n] += scale · B[(row % divide) · each + first + n] · (A · x[row]) with the pair of token row / divide, for the modules that read this x. Each block makes its
// A · x anew: of few rows that takes less than a kernel in front. grid: (rows, blocks of all modules); shared: rank · (SPLIT + 1) floats.
extern "C" __global__ void row_pairs(Rows rows)
{
    DYNAMIC_SHARED(memory);
    float* p = (float*)memory;
    int row = blockIdx.x, block = blockIdx.y, module = 0;
    while (block >= rows.outputs[module].blocks) block -= rows.outputs[module++].blocks;
    Output to = rows.outputs[module];
    LowPair low = pair_of(to.pairs, rows.places[row / rows.divide]);
    if (low.rank == 0) return;
    block_dots<SPLIT>([&](int i) { return low.a + (long long)i * rows.K; }, low.rank, rows.x + (long long)row * rows.K, rows.K, p);
    const float* b = low.b + ((long long)(row % rows.divide) * rows.each + rows.first) * low.rank;
    OTHER* y = to.y + (long long)row * to.N;
    for (int n = block * blockDim.x + threadIdx.x; n < to.N; n += to.blocks * blockDim.x)
        store(y + n, widen(y[n]) + low.scale * rank_dot(b + (long long)n * low.rank, p, low.rank));
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
