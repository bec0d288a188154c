// Low-rank pairs of several adapters, each row its own, added to what the weight gave: see RowPairs.cs. T: x, OTHER: y. Sums are F32.

struct LowPair { const float *a, *b; int rank; float scale; }; // A [rank, in], B [out, rank]; a == nullptr: this module has none

__device__ __forceinline__ LowPair pair_of(const LowPair* pairs, int place)
{
    return place < 0 ? LowPair{} : pairs[place];
}

struct Output { const LowPair* pairs; OTHER* y; int N, blocks; }; // y [rows, N] of one module, and how many blocks of row_pairs_add a row of it has
struct Rows { const T* x; const int* places; float* p; Output outputs[3]; int K, divide, each, first, stride; }; // p [modules, rows, stride]

// Not rows.outputs[module]: an argument that is indexed by what is known at run time alone is copied to each thread's own memory first. With it row_pairs_in took
// 6.7 us of 512 rows on an H200, and 3.6 where it had no such argument.
__device__ __forceinline__ Output output_of(const Rows& rows, int module)
{
    return module == 0 ? rows.outputs[0] : module == 1 ? rows.outputs[1] : rows.outputs[2];
}

// p[module, row, i] = A[i] · x[row], of the adapter of token row / divide, for the modules that read this x: SPLIT warps of the block an i, each a part of K, which is a
// multiple of 4 · SPLIT where that is not 1. grid: (rows, stride · SPLIT / 8 rounded up, modules), 8 warps.
extern "C" __global__ void row_pairs_in(Rows rows)
{
    __shared__ float partial[8];
    int row = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, i = blockIdx.y * (8 / SPLIT) + warp / SPLIT, part = warp % SPLIT, K = rows.K;
    LowPair low = pair_of(output_of(rows, blockIdx.z).pairs, rows.places[row / rows.divide]);
    if (i < low.rank) // the same for the warps of an i
    {
        int from = part * (K / SPLIT);
        float sum = warp_dot<SPLIT == 1 ? 4 : 2>(low.a + (long long)i * K + from, rows.x + (long long)row * K + from, K / SPLIT);
        if (lane == 0) partial[warp] = sum;
    }
    __syncthreads();
    if (i >= low.rank || lane != 0 || part != 0) return;
    float sum = 0;
    for (int other = 0; other < SPLIT; other++) sum += partial[warp + other];
    rows.p[((long long)blockIdx.z * gridDim.x + row) * rows.stride + i] = sum;
}

// y[row, n] += scale · B[(row % divide) · each + first + n] · p[row]. A thread an n. grid: (rows, blocks of all modules).
extern "C" __global__ void row_pairs_add(Rows rows)
{
    int row = blockIdx.x, second = rows.outputs[0].blocks, third = second + rows.outputs[1].blocks, module = (blockIdx.y >= second) + (blockIdx.y >= third);
    int block = blockIdx.y - (module == 0 ? 0 : module == 1 ? second : third);
    Output to = output_of(rows, module);
    LowPair low = pair_of(to.pairs, rows.places[row / rows.divide]);
    int n = block * blockDim.x + threadIdx.x;
    if (n >= to.N || low.rank == 0) return;
    OTHER* y = to.y + (long long)row * to.N + n;
    const float* b = low.b + ((long long)(row % rows.divide) * rows.each + rows.first + n) * low.rank;
    store(y, widen(*y) + low.scale * rank_dot(b, rows.p + ((long long)module * gridDim.x + row) * rows.stride, low.rank));
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
