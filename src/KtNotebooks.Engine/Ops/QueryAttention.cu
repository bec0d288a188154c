// Attention of single queries on a paged cache, on the tensor cores: the heads that share a key head are the rows of a product, 16 a block, so a query's keys are read once for all of them, and not by
// every head. BF16 in, F32 sums. Compiled with -DQK_WIDTH (W, a multiple of 32), -DV_WIDTH (R, a multiple of 16) and -DLATENT: 1 where the first R of a key's W values are its value too (multi-head
// latent attention in the absorbed form: one key head), 0 where values are rows of their own.
// A block walks over the keys of a part in steps of a page: S [16, 64] = Q Kᵀ, a warp eight keys; the running softmax of Dao et al. 2022; O [16, R] += P V, a warp 16 columns of every 128.
// A key costs 2 W bytes and 2 · 16 · (W + R) FLOPs, so the card's memory is the limit. Parts are joined by attention_join.

constexpr int W = QK_WIDTH, R = V_WIDTH, PAGE = 64, WARPS = 8, HEADS = 16, PITCH = W + 8, P_PITCH = PAGE + 8, V_PITCH = LATENT ? PITCH : R + 8, PAIRS = (R / 16 + WARPS - 1) / WARPS;

// Keys streamed … streamed + count of a sequence for query `held`, those from count − window on; streamed is a multiple of PAGE.
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

// parts [slots, H, R] and lses [slots, H] F32. grid: (tiles, Hk · (H / Hk / 16 rounded up)), 256 threads.
extern "C" __global__ void attention_query(const bf16* q, const bf16* k, const bf16* v, float* parts, float* lses, const Tile* tiles, int H, int Hk, const int* pages, float scale)
{
    DYNAMIC_SHARED(memory);
    bf16 *queries = (bf16*)memory, *keys = queries + HEADS * PITCH, *p = keys + PAGE * PITCH, *values = LATENT ? keys : p + HEADS * P_PITCH;
    float *tops = (float*)(p + HEADS * P_PITCH + (LATENT ? 0 : PAGE * V_PITCH)), *sums = tops + WARPS * HEADS; // [WARPS, HEADS]
    Tile tile = tiles[blockIdx.x];
    int sharing = H / Hk, groups = (sharing + HEADS - 1) / HEADS, key_head = blockIdx.y / groups, group = blockIdx.y % groups * HEADS;
    int first_head = key_head * sharing + group, heads = min(HEADS, sharing - group), warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row = lane >> 2, column = lane % 4 * 2;
    for (int c = threadIdx.x; c < HEADS * (W / 8); c += WARPS * 32)
    {
        int h = c / (W / 8), at = c % (W / 8) * 8;
        bool inside = h < heads;
        copy_async(queries + h * PITCH + at, q + ((long long)tile.held * H + first_head + (inside ? h : 0)) * W + at, inside);
    }
    float sum[PAIRS][2][4], top[2] = {minus_infinity(), minus_infinity()}, total[2] = {0, 0}; // of rows `row` and `row` + 8
    for (int i = 0; i < PAIRS; i++)
        for (int j = 0; j < 8; j++) sum[i][j / 4][j % 4] = 0;
    int low = max(0, tile.count - tile.window);
    for (int first = low / PAGE * PAGE; first < tile.count; first += PAGE)
    {
        int valid = min(PAGE, tile.count - first);
        long long page = (long long)pages[tile.pages + (tile.streamed + first) / PAGE] * PAGE * Hk + key_head;
        __syncthreads(); // nobody reads the page before any more
        for (int c = threadIdx.x; c < PAGE * (W / 8); c += WARPS * 32)
        {
            int n = c / (W / 8), at = c % (W / 8) * 8;
            copy_async(keys + n * PITCH + at, k + (page + (n < valid ? n : 0) * Hk) * W + at, n < valid);
        }
        if (!LATENT)
            for (int c = threadIdx.x; c < PAGE * (R / 8); c += WARPS * 32)
            {
                int n = c / (R / 8), at = c % (R / 8) * 8;
                copy_async(values + n * V_PITCH + at, v + (page + (n < valid ? n : 0) * Hk) * R + at, n < valid);
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
        for (int i = 0; i < 4; i++)
        {
            int n = warp * 8 + column + (i & 1);
            s[i] = n < valid && first + n >= low ? scale * s[i] : minus_infinity();
        }
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
                load_matrix_x4_trans(b, values + (at + (lane & 15)) * V_PITCH + n + (lane >> 4) * 8);
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
