// Multi-head latent attention on latent rows, for few rows: see Absorbed.cs and LatentRows.cs. T rows, H heads, R latent width, n without and r with rotary part, v values.
// W [H·(n+v), R] holds, for each head, n rows of W_UK and v rows of W_UV. Sums are F32.

// Compiled with -DROWS: of T in one pass over the weights, 1 or 8; and -DVEC: columns of R that a thread of absorb_values reads at once, 8 or 1. With -DTILES the
// products of BF16 run on the tensor cores, whatever T is: a row's sums are the same beside any others.

constexpr int WARPS = 8;

__device__ __forceinline__ void rotate(const T* pair, const float* angle, T* target)
{
    float a = widen(pair[0]), b = widen(pair[1]);
    store(target, a * angle[0] - b * angle[1]);
    store(target + 1, a * angle[1] + b * angle[0]);
}

// row t of target = [RMS norm of x[t, 0 … R), rotated x[t, R … R + r)]. grid: T.
extern "C" __global__ void latent_rows(const T* x, const float* w, const float* angles, T* target, int R, int r, float eps)
{
    x += (long long)blockIdx.x * (R + r);
    target += (long long)blockIdx.x * (R + r);
    angles += (long long)blockIdx.x * r;
    typedef Pack<T, VEC> Values;
    float sum = 0;
    for (int i = threadIdx.x * VEC; i < R; i += blockDim.x * VEC)
    {
        Values v = *(const Values*)(x + i);
        for (int e = 0; e < VEC; e++) sum += widen(v.v[e]) * widen(v.v[e]);
    }
    float scale = 1.0f / sqrtf(block_sum(sum) / R + eps);
    for (int i = threadIdx.x * VEC; i < R; i += blockDim.x * VEC)
    {
        Values v = *(const Values*)(x + i), r;
        Pack<float, VEC> factors = *(const Pack<float, VEC>*)(w + i);
        for (int e = 0; e < VEC; e++) store(&r.v[e], widen(v.v[e]) * scale * factors.v[e]);
        *(Values*)(target + i) = r;
    }
    for (int i = threadIdx.x; i < r / 2; i += blockDim.x) rotate(x + R + 2 * i, angles + 2 * i, target + R + 2 * i);
}

#ifdef TILES

// y[t, h] = [q_nope W_UK + factor · (q_nope B_h) A (R), rotated q_rope (r)]; q [T, H, n + r], A [rank, R], B [H·(n+v), rank] F32 or rank 0; y [T, H, R + r].
// grid: (H, R / 64, T / 16 rounded up), 4 warps, each 16 columns for 16 rows; n a multiple of 16, R of 64. Dynamic shared memory: 16 (n + 8) and n · 72 elements, 16 · rank floats.
extern "C" __global__ void absorb_queries(const T* q, const float* angles, const T* w, const float* a, const float* b, T* y, int rows, int H, int n, int r, int v, int R, int rank, float factor)
{
    DYNAMIC_SHARED(memory);
    constexpr int W_PITCH = 64 + 8;
    const int pitch = n + 8, h = blockIdx.x, c0 = blockIdx.y * 64, first = blockIdx.z * 16, count = min(16, rows - first), lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    T *query = (T*)memory, *weight = query + 16 * pitch;
    float* low = (float*)(weight + n * W_PITCH);
    const long long line = (long long)h * (n + v);
    for (int i = threadIdx.x; i < n * 8; i += 128) copy_async(weight + i / 8 * W_PITCH + i % 8 * 8, w + (line + i / 8) * R + c0 + i % 8 * 8, true);
    for (int i = threadIdx.x; i < 16 * (n / 8); i += 128)
    {
        int t = i / (n / 8), at = i % (n / 8) * 8;
        copy_async(query + t * pitch + at, q + ((long long)(first + min(t, count - 1)) * H + h) * (n + r) + at, t < count);
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    for (int i = warp; i < count * rank; i += 4)
    {
        float sum = 0;
        for (int k = lane; k < n; k += 32) sum += widen(query[i / rank * pitch + k]) * b[(line + k) * rank + i % rank];
        sum = warp_sum(sum);
        if (lane == 0) low[i] = sum * factor;
    }
    float sum[2][4] = {};
    for (int k = 0; k < n; k += 16)
    {
        unsigned int left[4], right[4];
        load_matrix_x4(left, query + (lane & 15) * pitch + k + (lane >> 4) * 8);
        load_matrix_x4_trans(right, weight + (k + (lane & 15)) * W_PITCH + warp * 16 + (lane >> 4) * 8);
        mma_bf16(sum[0], left, right[0], right[1]);
        mma_bf16(sum[1], left, right[2], right[3]);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++)
    {
        int t = (lane >> 2) + i % 4 / 2 * 8, c = c0 + warp * 16 + i / 4 * 8 + (lane & 3) * 2 + (i & 1);
        if (t >= count) continue;
        float all = sum[i / 4][i % 4];
        for (int k = 0; k < rank; k++) all += low[t * rank + k] * a[(long long)k * R + c];
        store(y + ((long long)(first + t) * H + h) * (R + r) + c, all);
    }
    if (blockIdx.y > 0) return;
    for (int i = threadIdx.x; i < count * (r / 2); i += 128)
    {
        long long t = first + i / (r / 2), pair = i % (r / 2) * 2;
        rotate(q + (t * H + h) * (n + r) + n + pair, angles + t * r + pair, y + (t * H + h) * (R + r) + R + pair);
    }
}

// y[t, h, j] = context[t, h] · W_UV,h[j] + factor · p[t, h] · B_h[n + j]; context [T, H, R], p [T, H, rank] F32; y [T, H · v]. grid: (H, v / 16, T / ROWS rounded up), 4 warps, each a quarter of R for
// 16 j and ROWS rows; v a multiple of 16, R of 32. Fragments come straight from memory: a lane reads eight neighbours of k of a row, and which of them a product
// takes for its k is the same on both sides.
extern "C" __global__ void absorb_values(const T* context, const T* w, const float* p, const float* b, T* y, int rows, int H, int n, int v, int R, int rank, float factor)
{
    struct alignas(16) Words { unsigned int w[4]; };
    __shared__ float partial[4][ROWS][16];
    const int h = blockIdx.x, j0 = blockIdx.y * 16, first = blockIdx.z * ROWS, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
    const long long line = (long long)h * (n + v) + n + j0;
    float sum[ROWS / 8][4] = {};
#pragma unroll 4
    for (int k = warp * 32; k < R; k += 128)
    {
        Words upper = *(const Words*)(w + (line + g) * R + k + t * 8), lower = *(const Words*)(w + (line + g + 8) * R + k + t * 8);
        unsigned int even[4] = {upper.w[0], lower.w[0], upper.w[1], lower.w[1]}, odd[4] = {upper.w[2], lower.w[2], upper.w[3], lower.w[3]};
#pragma unroll
        for (int m = 0; m < ROWS / 8; m++)
        {
            Words c = *(const Words*)(context + ((long long)min(first + m * 8 + g, rows - 1) * H + h) * R + k + t * 8);
            mma_bf16(sum[m], even, c.w[0], c.w[1]);
            mma_bf16(sum[m], odd, c.w[2], c.w[3]);
        }
    }
#pragma unroll
    for (int m = 0; m < ROWS / 8; m++)
        for (int i = 0; i < 4; i++) partial[warp][m * 8 + t * 2 + (i & 1)][g + i / 2 * 8] = sum[m][i];
    __syncthreads();
    for (int i = threadIdx.x; i < min(ROWS, rows - first) * 16; i += 128)
    {
        int m = i / 16, j = i % 16;
        float all = (partial[0][m][j] + partial[1][m][j]) + (partial[2][m][j] + partial[3][m][j]);
        for (int k = 0; k < rank; k++) all += factor * b[(line + j) * rank + k] * p[((long long)(first + m) * H + h) * rank + k];
        store(y + ((long long)(first + m) * H + h) * v + j0 + j, all);
    }
}

#else

// y[t, h] = [q_nope W_UK + factor · (q_nope B_h) A (R), rotated q_rope (r)]; q [T, H, n + r], A [rank, R], B [H·(n+v), rank] F32 or rank 0; y [T, H, R + r].
// grid: (H, R / 64 rounded up, T / ROWS rounded up), 8 warps: a lane owns two columns of R for ROWS rows, a warp every eighth of the n rows of W. Dynamic shared memory: ROWS · (n + rank) floats.
extern "C" __global__ void absorb_queries(const T* q, const float* angles, const T* w, const float* a, const float* b, T* y, int rows, int H, int n, int r, int v, int R, int rank, float factor)
{
    DYNAMIC_SHARED(memory);
    __shared__ float partial[WARPS][ROWS][64];
    float *query = (float*)memory, *low = query + ROWS * n;
    int h = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = blockIdx.y * 64 + lane, first = blockIdx.z * ROWS, count = min(ROWS, rows - first);
    long long weights = (long long)h * (n + v);
    for (int i = threadIdx.x; i < ROWS * n; i += WARPS * 32) query[i] = i / n < count ? widen(q[((long long)(first + i / n) * H + h) * (n + r) + i % n]) : 0;
    __syncthreads();
    for (int i = warp; i < ROWS * rank; i += WARPS)
    {
        float sum = 0;
        for (int k = lane; k < n; k += 32) sum += query[i / rank * n + k] * b[(weights + k) * rank + i % rank];
        sum = warp_sum(sum);
        if (lane == 0) low[i] = sum * factor;
    }
    float sum[2][ROWS];
    for (int i = 0; i < ROWS; i++) sum[0][i] = sum[1][i] = 0;
    bool left = column < R, right = column + 32 < R;
#pragma unroll 8
    for (int k = warp; k < n; k += WARPS)
    {
        const T* line = w + (weights + k) * R + column;
        float x0 = left ? widen(line[0]) : 0, x1 = right ? widen(line[32]) : 0;
        for (int i = 0; i < ROWS; i++)
        {
            sum[0][i] += query[i * n + k] * x0;
            sum[1][i] += query[i * n + k] * x1;
        }
    }
    for (int i = 0; i < ROWS; i++)
    {
        partial[warp][i][lane] = sum[0][i];
        partial[warp][i][lane + 32] = sum[1][i];
    }
    __syncthreads();
    for (int at = threadIdx.x; at < count * 64; at += WARPS * 32)
    {
        int i = at / 64, c = blockIdx.y * 64 + at % 64;
        if (c >= R) continue;
        float all = 0;
        for (int k = 0; k < WARPS; k++) all += partial[k][i][at % 64];
        for (int k = 0; k < rank; k++) all += low[i * rank + k] * a[(long long)k * R + c];
        store(y + ((long long)(first + i) * H + h) * (R + r) + c, all);
    }
    if (blockIdx.y > 0) return;
    for (int i = threadIdx.x; i < count * (r / 2); i += WARPS * 32)
    {
        long long t = first + i / (r / 2), pair = i % (r / 2) * 2;
        rotate(q + (t * H + h) * (n + r) + n + pair, angles + t * r + pair, y + (t * H + h) * (R + r) + R + pair);
    }
}

// y[t, h, j] = context[t, h] · W_UV,h[j] + factor · p[t, h] · B_h[n + j]; context [T, H, R], p [T, H, rank] F32; y [T, H · v]. grid: (H, v / 8 rounded up), 8 warps, each for one j and all T.
extern "C" __global__ void absorb_values(const T* context, const T* w, const float* p, const float* b, T* y, int rows, int H, int n, int v, int R, int rank, float factor)
{
    typedef Pack<T, VEC> Values;
    int h = blockIdx.x, j = blockIdx.y * WARPS + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (j >= v) return;
    long long line = (long long)h * (n + v) + n + j;
    for (int first = 0; first < rows; first += ROWS)
    {
        float sum[ROWS];
        for (int i = 0; i < ROWS; i++) sum[i] = 0;
#pragma unroll 2
        for (int k = lane * VEC; k < R; k += 32 * VEC)
        {
            Values x = *(const Values*)(w + line * R + k);
            for (int i = 0; i < ROWS; i++)
                if (first + i < rows)
                {
                    Values c = *(const Values*)(context + ((long long)(first + i) * H + h) * R + k);
                    for (int e = 0; e < VEC; e++) sum[i] += widen(x.v[e]) * widen(c.v[e]);
                }
        }
        for (int k = lane; k < rank; k += 32)
            for (int i = 0; i < ROWS; i++)
                if (first + i < rows) sum[i] += factor * b[line * rank + k] * p[((long long)(first + i) * H + h) * rank + k];
        for (int i = 0; i < ROWS; i++)
        {
            sum[i] = warp_sum(sum[i]);
            if (lane == 0 && first + i < rows) store(y + ((long long)(first + i) * H + h) * v + j, sum[i]);
        }
    }
}

#endif
