// Products of rows with the matrices of their experts, on a card: the CUDA side of GroupedMatmul. Rows are sorted by expert; a block computes a tile of one expert's rows.
//
//   grouped_product   C[i, n] = alpha · Σ_terms Σ_k A_t[i, k] · B_t,e[n, k]   (NT: both run along k)   or · B_t,e[k, n]   (NN)
//   grouped_outer     out_e[m, n] = alpha · Σ_{rows i of e} S[i, m] · W[i, n]
//
// All terms of a product are summed in F32 and rounded once, so W x + s·B(A x), or dg·Wg + du·Wu + q·A, is one pass. Rows of A and W may be fetched through a list of tokens,
// so that nothing is gathered beforehand. The _plain kernels are the same sums by one thread an element: F32, and sizes that are no multiples of 8.

struct Term
{
    const T* a;          // row i at a + i·lda, or at a + (tokens[i] / divide)·lda
    const int* tokens;   // null: rows in order
    const T* b;          // expert e of the tiles at b + e·stride_b
    const unsigned char* scales; // of b as a format's codes, which GroupedCodesHopper.cu alone reads; null here
    long long stride_b;
    int lda, divide, ldb, K;
};

struct Tile { int expert, first, rows, unused; };

struct Product
{
    Term terms[3];
    const Tile* tiles;   // one of each blockIdx.y
    T* c;                // row i at c + i·ldc
    int ldc, count, N;
    float alpha;
};

struct Outer
{
    const T* small;      // [rows, lds], columns 0 … M − 1 are used
    const T* wide;       // [rows, ldw] or through tokens
    const int* tokens;
    const int* offsets;  // rows of expert e: offsets[e] − first … offsets[e + 1] − first
    float* out[2];       // m < split goes to out[0], others to out[1] as m − split; element (m, n) of expert e at e·stride + m·step_m + n·step_n; only m < limit of each
    long long stride;
    int lds, ldw, divide, first, M, N, split, limit, step_m, step_n;
    float alpha;
};

#ifndef NN
#define NN 0
#endif

#ifdef PLAIN

extern "C" __global__ void grouped_product(Product p)
{
    Tile tile = p.tiles[blockIdx.y];
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= p.N) return;
    for (int r = 0; r < tile.rows; r++)
    {
        int i = tile.first + r;
        float sum = 0;
        for (int t = 0; t < p.count; t++)
        {
            Term q = p.terms[t];
            const T* a = q.a + (long long)(q.tokens ? q.tokens[i] / q.divide : i) * q.lda;
            const T* b = q.b + tile.expert * q.stride_b;
            for (int k = 0; k < q.K; k++) sum += widen(a[k]) * widen(NN ? b[(long long)k * q.ldb + n] : b[(long long)n * q.ldb + k]);
        }
        store(p.c + (long long)i * p.ldc + n, p.alpha * sum);
    }
}

extern "C" __global__ void grouped_outer(Outer p)
{
    int e = blockIdx.y, n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= p.N) return;
    int from = p.offsets[e] - p.first, to = p.offsets[e + 1] - p.first;
    for (int m = 0; m < p.M; m++)
    {
        int which = m >= p.split, row = m - (which ? p.split : 0);
        if (row >= p.limit) continue;
        float sum = 0;
        for (int i = from; i < to; i++)
            sum += widen(p.small[(long long)i * p.lds + m]) * widen(p.wide[(long long)(p.tokens ? p.tokens[i] / p.divide : i) * p.ldw + n]);
        (which ? p.out[1] : p.out[0])[e * p.stride + (long long)row * p.step_m + (long long)n * p.step_n] = p.alpha * sum;
    }
}

#else

// A tile of R rows of C chunks of 16 bytes in shared memory, swizzled so that eight rows of one column of chunks lie in eight different bank groups.
template <int C>
__device__ __forceinline__ int at(int row, int chunk)
{
    int turn = C >= 8 ? row & 7 : C == 4 ? (row >> 1) & 3 : C == 2 ? (row >> 2) & 1 : 0;
    return (row * C + (chunk ^ turn)) * 16;
}

#ifdef BM

// Threads: (BM / WM) · (BN / WN) warps, each a WM × WN part of the block's BM × BN tile; K goes by BK elements through STAGES buffers.
constexpr int THREADS = (BM / WM) * (BN / WN) * 32;
constexpr int A_CHUNKS = BK / 8, B_ROWS = NN ? BK : BN, B_CHUNKS = NN ? BN / 8 : BK / 8;
constexpr int A_BYTES = BM * BK * 2, STAGE = (BM + BN) * BK * 2;
constexpr int A_MINE = BM * A_CHUNKS / THREADS, B_MINE = B_ROWS * B_CHUNKS / THREADS;
constexpr int OUT_ROW = BN * 2 + 16; // bytes of a row of the result in shared memory: shifted by 16 from row to row

extern "C" __global__ void __launch_bounds__(THREADS) grouped_product(Product p)
{
    DYNAMIC_SHARED(shared);
    __shared__ Term terms[3];
    const Tile tile = p.tiles[blockIdx.y];
    if (tile.rows == 0) return;
    const int n0 = blockIdx.x * BN, thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
    if (thread == 0)
    {
        terms[0] = p.terms[0];
        terms[1] = p.terms[1];
        terms[2] = p.terms[2];
    }
    __syncthreads();

    int steps = 0;
    for (int t = 0; t < p.count; t++) steps += (terms[t].K + BK - 1) / BK;

    // What this thread fetches: A_MINE chunks of A, each always of one row, and B_MINE chunks of B.
    int term = 0, k = 0, K = 0, ldb = 0;
    const T *a[A_MINE], *b = nullptr;
    auto open = [&]() {
        const Term& q = terms[term];
        K = q.K;
        ldb = q.ldb;
        b = q.b + tile.expert * q.stride_b;
        for (int j = 0; j < A_MINE; j++)
        {
            int row = (thread + j * THREADS) / A_CHUNKS, i = tile.first + min(row, tile.rows - 1);
            a[j] = q.a + (long long)(q.tokens ? q.tokens[i] / q.divide : i) * q.lda;
        }
    };
    open();
    auto fetch = [&](int stage) {
        if (term < p.count)
        {
            unsigned char* to = shared + stage * STAGE;
#pragma unroll
            for (int j = 0; j < A_MINE; j++)
            {
                int c = thread + j * THREADS, row = c / A_CHUNKS, chunk = c % A_CHUNKS;
                bool valid = row < tile.rows && k + chunk * 8 < K;
                copy_async(to + at<A_CHUNKS>(row, chunk), valid ? a[j] + k + chunk * 8 : terms[0].a, valid);
            }
#pragma unroll
            for (int j = 0; j < B_MINE; j++)
            {
                int c = thread + j * THREADS, row = c / B_CHUNKS, chunk = c % B_CHUNKS;
                bool valid = NN ? k + row < K && n0 + chunk * 8 < p.N : n0 + row < p.N && k + chunk * 8 < K;
                const T* from = NN ? b + (long long)(k + row) * ldb + n0 + chunk * 8 : b + (long long)(n0 + row) * ldb + k + chunk * 8;
                copy_async(to + A_BYTES + at<B_CHUNKS>(row, chunk), valid ? from : terms[0].a, valid);
            }
            k += BK;
            if (k >= K)
            {
                k = 0;
                if (++term < p.count) open();
            }
        }
        copy_async_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fetch(s);

    float c[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) c[i][j][v] = 0;

    const int quarter = lane >> 3, row8 = lane & 7;
    for (int step = 0; step < steps; step++)
    {
        copy_async_wait<STAGES - 2>();
        __syncthreads();
        fetch((step + STAGES - 1) % STAGES);
        const unsigned char* A = shared + step % STAGES * STAGE;
        const unsigned char* B = A + A_BYTES;
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16)
        {
            unsigned int fa[WM / 16][4], fb[WN / 16][4];
#pragma unroll
            for (int i = 0; i < WM / 16; i++) load_matrix_x4(fa[i], A + at<A_CHUNKS>(wm + i * 16 + (quarter & 1) * 8 + row8, kk / 8 + (quarter >> 1)));
#pragma unroll
            for (int j = 0; j < WN / 16; j++)
            {
                if (NN) load_matrix_x4_trans(fb[j], B + at<B_CHUNKS>(kk + (quarter & 1) * 8 + row8, (wn + j * 16) / 8 + (quarter >> 1)));
                else load_matrix_x4(fb[j], B + at<B_CHUNKS>(wn + j * 16 + (quarter >> 1) * 8 + row8, kk / 8 + (quarter & 1)));
            }
#pragma unroll
            for (int i = 0; i < WM / 16; i++)
#pragma unroll
                for (int j = 0; j < WN / 8; j++) mma_bf16(c[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
        }
    }
    copy_async_wait<0>();
    __syncthreads();

    // Through shared memory, so that rows leave in pieces of 16 bytes.
    const int g = lane >> 2, t2 = (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < WM / 16; i++)
#pragma unroll
        for (int j = 0; j < WN / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(unsigned int*)(shared + (wm + i * 16 + h * 8 + g) * OUT_ROW + (wn + j * 8 + t2) * 2) = pack_bf16(p.alpha * c[i][j][h * 2], p.alpha * c[i][j][h * 2 + 1]);
    __syncthreads();
    for (int v = thread; v < BM * BN / 8; v += THREADS)
    {
        int row = v / (BN / 8), chunk = v % (BN / 8);
        if (row < tile.rows && n0 + chunk * 8 < p.N)
            *(Pack<T, 8>*)(p.c + (long long)(tile.first + row) * p.ldc + n0 + chunk * 8) = *(const Pack<T, 8>*)(shared + row * OUT_ROW + chunk * 16);
    }
}

#endif

#ifdef MT

// Four warps, each 32 of the block's 128 columns and MT·16 rows of the result; the expert's rows go by 32 through three buffers. blockIdx.z: which MT·16 of the M rows.
constexpr int O_COLUMNS = 128, O_ROWS = 32, O_STAGES = 3, S_CHUNKS = MT * 2, W_CHUNKS = O_COLUMNS / 8;
constexpr int S_BYTES = O_ROWS * S_CHUNKS * 16, O_STAGE = S_BYTES + O_ROWS * W_CHUNKS * 16;

extern "C" __global__ void __launch_bounds__(128) grouped_outer(Outer p)
{
    DYNAMIC_SHARED(shared);
    const int e = blockIdx.y, n0 = blockIdx.x * O_COLUMNS, m0 = blockIdx.z * MT * 16, thread = threadIdx.x, lane = thread & 31, wn = (thread >> 5) * 32;
    const int from = p.offsets[e] - p.first, to = p.offsets[e + 1] - p.first, steps = (to - from + O_ROWS - 1) / O_ROWS;

    auto fetch = [&](int step) {
        if (step < steps)
        {
            unsigned char* target = shared + step % O_STAGES * O_STAGE;
            for (int c = thread; c < O_ROWS * S_CHUNKS; c += 128)
            {
                int row = c / S_CHUNKS, chunk = c % S_CHUNKS, i = from + step * O_ROWS + row;
                bool valid = i < to && m0 + chunk * 8 < p.M;
                copy_async(target + at<S_CHUNKS>(row, chunk), valid ? p.small + (long long)i * p.lds + m0 + chunk * 8 : p.small, valid);
            }
#pragma unroll
            for (int j = 0; j < O_ROWS * W_CHUNKS / 128; j++)
            {
                int c = thread + j * 128, row = c / W_CHUNKS, chunk = c % W_CHUNKS, i = from + step * O_ROWS + row;
                bool valid = i < to && n0 + chunk * 8 < p.N;
                const T* source = p.wide;
                if (valid) source += (long long)(p.tokens ? p.tokens[i] / p.divide : i) * p.ldw + n0 + chunk * 8;
                copy_async(target + S_BYTES + at<W_CHUNKS>(row, chunk), source, valid);
            }
        }
        copy_async_commit();
    };
    for (int s = 0; s < O_STAGES - 1; s++) fetch(s);

    float c[MT][4][4];
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) c[i][j][v] = 0;

    const int quarter = lane >> 3, row8 = lane & 7;
    for (int step = 0; step < steps; step++)
    {
        copy_async_wait<O_STAGES - 2>();
        __syncthreads();
        fetch(step + O_STAGES - 1);
        const unsigned char* S = shared + step % O_STAGES * O_STAGE;
        const unsigned char* W = S + S_BYTES;
#pragma unroll
        for (int kk = 0; kk < O_ROWS; kk += 16)
        {
            unsigned int fb[2][4];
#pragma unroll
            for (int j = 0; j < 2; j++) load_matrix_x4_trans(fb[j], W + at<W_CHUNKS>(kk + (quarter & 1) * 8 + row8, (wn + j * 16) / 8 + (quarter >> 1)));
#pragma unroll
            for (int i = 0; i < MT; i++)
            {
                unsigned int fa[4];
                load_matrix_x4_trans(fa, S + at<S_CHUNKS>(kk + (quarter >> 1) * 8 + row8, i * 2 + (quarter & 1)));
#pragma unroll
                for (int j = 0; j < 4; j++) mma_bf16(c[i][j], fa, fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    const int g = lane >> 2, t2 = (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int v = 0; v < 4; v++)
            {
                int m = m0 + i * 16 + g + (v >> 1) * 8, n = n0 + wn + j * 8 + t2 + (v & 1), which = m >= p.split, row = m - (which ? p.split : 0);
                if (m < p.M && row < p.limit && n < p.N) (which ? p.out[1] : p.out[0])[e * p.stride + (long long)row * p.step_m + (long long)n * p.step_n] = p.alpha * c[i][j][v];
            }
}

#endif
#endif
