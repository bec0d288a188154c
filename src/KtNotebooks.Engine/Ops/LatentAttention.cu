// Attention of single queries on a paged latent cache (multi-head latent attention, absorbed form) on the tensor cores: all heads share one row of W values a key, whose first R are the value too,
// so a block takes 16 heads and the rows of a query's keys are read once for all of them. BF16 in, F32 sums. Compiled with -DQK_WIDTH (W, a multiple of 32) and -DV_WIDTH (R, a multiple of 16).
// A block walks over the keys of a part in steps of a page: S [16, 64] = Q Kᵀ, a warp eight keys; the running softmax of Dao et al. 2022; O [16, R] += P V, a warp 16 columns of every 128.
// A key costs 2 W bytes and 2 · 16 · (W + R) FLOPs, so the card's memory is the limit. Parts are joined by attention_join.

constexpr int W = QK_WIDTH, R = V_WIDTH, PAGE = 64, WARPS = 8, HEADS = 16, PITCH = W + 8, P_PITCH = PAGE + 8, PAIRS = (R / 16 + WARPS - 1) / WARPS;

// Keys streamed … streamed + count of a sequence for query `held`; streamed is a multiple of PAGE.
struct Tile { int held, rows, streamed, count, shift, slot, pages, window; };

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Over the four lanes that share two rows of a product.
__device__ __forceinline__ float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// parts [slots, H, R] and lses [slots, H] F32. grid: (tiles, H / 16 rounded up), 256 threads.
extern "C" __global__ void attention_latent(const bf16* q, const bf16* k, float* parts, float* lses, const Tile* tiles, int H, const int* pages, float scale)
{
    DYNAMIC_SHARED(memory);
    bf16 *queries = (bf16*)memory, *keys = queries + HEADS * PITCH, *p = keys + PAGE * PITCH;
    float *tops = (float*)(p + HEADS * P_PITCH), *sums = tops + WARPS * HEADS; // [WARPS, HEADS]
    Tile tile = tiles[blockIdx.x];
    int first_head = blockIdx.y * HEADS, heads = min(HEADS, H - first_head), warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row = lane >> 2, column = lane % 4 * 2;
    for (int c = threadIdx.x; c < HEADS * (W / 8); c += WARPS * 32)
    {
        int h = c / (W / 8), at = c % (W / 8) * 8;
        bool inside = h < heads;
        copy_async(queries + h * PITCH + at, q + ((long long)tile.held * H + first_head + (inside ? h : 0)) * W + at, inside);
    }
    float sum[PAIRS][2][4], top[2] = {minus_infinity(), minus_infinity()}, total[2] = {0, 0}; // of rows `row` and `row` + 8
    for (int i = 0; i < PAIRS; i++)
        for (int j = 0; j < 8; j++) sum[i][j / 4][j % 4] = 0;
    for (int first = 0; first < tile.count; first += PAGE)
    {
        int valid = min(PAGE, tile.count - first);
        const bf16* page = k + (long long)pages[tile.pages + (tile.streamed + first) / PAGE] * PAGE * W;
        __syncthreads(); // nobody reads the page before any more
        for (int c = threadIdx.x; c < PAGE * (W / 8); c += WARPS * 32)
        {
            int n = c / (W / 8), at = c % (W / 8) * 8;
            copy_async(keys + n * PITCH + at, page + (n < valid ? n : 0) * W + at, n < valid);
        }
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float s[4] = {0, 0, 0, 0};
        for (int at = 0; at < W; at += 32)
        {
            unsigned int a[4], b[4];
            load_matrix_x4(b, keys + (warp * 8 + (lane & 7)) * PITCH + at + (lane >> 3) * 8);
            load_matrix_x4(a, queries + (lane & 15) * PITCH + at + (lane >> 4) * 8);
            mma_bf16(s, a, b[0], b[1]);
            load_matrix_x4(a, queries + (lane & 15) * PITCH + at + 16 + (lane >> 4) * 8);
            mma_bf16(s, a, b[2], b[3]);
        }
        for (int i = 0; i < 4; i++) s[i] = warp * 8 + column + (i & 1) < valid ? scale * s[i] : minus_infinity();
        for (int half = 0; half < 2; half++)
        {
            float most = quad_max(fmaxf(s[2 * half], s[2 * half + 1]));
            if (lane % 4 == 0) tops[warp * HEADS + row + 8 * half] = most;
        }
        __syncthreads();
        float shrink[2];
        for (int half = 0; half < 2; half++)
        {
            int r = row + 8 * half;
            float now = top[half]; // a page has a key: never minus infinity below
            for (int w = 0; w < WARPS; w++) now = fmaxf(now, tops[w * HEADS + r]);
            shrink[half] = expf(top[half] - now);
            top[half] = now;
            float low = expf(s[2 * half] - now), high = expf(s[2 * half + 1] - now), part = quad_sum(low + high);
            *(unsigned int*)(p + r * P_PITCH + warp * 8 + column) = pack_bf16(low, high);
            if (lane % 4 == 0) sums[warp * HEADS + r] = part;
        }
        __syncthreads();
        for (int half = 0; half < 2; half++)
        {
            float part = 0;
            for (int w = 0; w < WARPS; w++) part += sums[w * HEADS + row + 8 * half];
            total[half] = total[half] * shrink[half] + part;
        }
#pragma unroll
        for (int i = 0; i < PAIRS; i++)
        {
            int n = (i * WARPS + warp) * 16;
            if (n >= R) break;
            for (int j = 0; j < 8; j++) sum[i][j / 4][j % 4] *= shrink[j % 4 / 2];
            for (int at = 0; at < PAGE; at += 16)
            {
                unsigned int a[4], b[4];
                load_matrix_x4(a, p + (lane & 15) * P_PITCH + at + (lane >> 4) * 8);
                load_matrix_x4_trans(b, keys + (at + (lane & 15)) * PITCH + n + (lane >> 4) * 8);
                mma_bf16(sum[i][0], a, b[0], b[1]);
                mma_bf16(sum[i][1], a, b[2], b[3]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PAIRS; i++)
        for (int j = 0; j < 8; j++)
        {
            int h = row + j % 4 / 2 * 8, n = (i * WARPS + warp) * 16 + j / 4 * 8 + column + (j & 1);
            if (h < heads && n < R) parts[((long long)tile.slot * H + first_head + h) * R + n] = sum[i][j / 4][j % 4] / total[j % 4 / 2];
        }
    if (warp == 0 && lane % 4 == 0)
        for (int half = 0; half < 2; half++)
            if (row + 8 * half < heads) lses[(long long)tile.slot * H + first_head + row + 8 * half] = top[half] + logf(total[half]);
}
