// Block-diagonal causal attention on the tensor cores: BF16 in, F32 sums. Compiled for one pair of head sizes: D (queries, keys), DV (values), multiples of 16, with
// -DQK_WIDTH -DV_WIDTH -DM_TILES -DSTEP_ROWS -DBLOCK_WARPS -DMIN_BLOCKS, -DPASS_WINDOW where a query sees its last keys alone, and one of -DPASS_FORWARD, -DPASS_QUERIES, -DPASS_KEYS and/or -DPASS_VALUES.
//
// A block owns a tile of rows ("held": its operands and its results stay in the block) and walks over the other side in steps ("streamed", double-buffered with asynchronous copies):
//   attention        holds ROWS queries of one head, streams STEP keys and values, with the running softmax of Dao et al. 2022:  S = Q Kᵀ ; O = P V
//   attention_dq     holds queries (Q, dO), streams keys (K, V):     S = Q Kᵀ ; dP = dO Vᵀ ; dQ = scale · dS K
//   attention_dkv    holds keys (K, V) of one key head, streams the queries (Q, dO) of all its query heads, one after another:  Sᵀ = K Qᵀ ; dPᵀ = V dOᵀ ; dV = Pᵀ dO ; dK = scale · dSᵀ Q
// P = exp2(scale·log2(e) · S − lse) and dS = P ∘ (dP − delta) go from the accumulators straight into the next product: what mma leaves in a lane is what it wants as its left operand.
// No atomics, and every sum has a fixed order. The host makes the list of tiles, longest walks first, so that the card is balanced with long and with short sequences.
//
// For n = visible (query, key) pairs of a head: forward 2n(D + DV) FLOPs; backward 2n(3D + 2DV) for the gradients and 2n(D + DV) for scores made twice, which is the price of no atomics.
// Forward reads Q and writes O once; K and V pass through the L2 cache once for every ROWS queries.
// Rows in shared memory are 16 bytes longer than their data: 8 rows at one column then lie in 8 different groups of banks, for load_matrix and for the copies, without a swizzle.
// A warp owns MT · 16 of the ROWS = WARPS · MT · 16 held rows. With MT = 2 a streamed fragment is loaded once for two products: shared memory, not the tensor cores, limits MT = 1.

constexpr int D = QK_WIDTH, DV = V_WIDTH, MT = M_TILES, STEP = STEP_ROWS, ROWS = BLOCK_WARPS * MT * 16, THREADS = BLOCK_WARPS * 32;
constexpr float LOG2E = 1.4426950408889634f;
#ifndef PASS_WINDOW
#define PASS_WINDOW 0
#endif
constexpr bool WINDOWED = PASS_WINDOW;

// Elements of a row of W in shared memory.
__device__ __forceinline__ constexpr int pitch_of(int W) { return W + 8; }

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }

// Of a tile of queries: the first step whose keys its first query sees.
__device__ __forceinline__ int first_step(int shift, int window) { return WINDOWED ? max(0, shift + 1 - window) / STEP_ROWS : 0; }

// Held rows [held, held + rows) against streamed rows [streamed, streamed + count), as rows of the whole tensors: query i of the tile sees key n iff n <= i + shift and, where WINDOWED, n > i + shift - window.
// With -DPAGED the forward finds streamed row n, counted from the first key of the sequence, in page pages[tile.pages + n / 64]; a step lies in one page.
struct Tile { int held, rows, streamed, count, shift, slot, pages, window; };

// N rows of W elements of one head, from rows `pitch` elements apart; zeros from row `valid` on.
template <int N, int W>
__device__ __forceinline__ void load_rows(bf16* shared, const bf16* rows, long long pitch, int valid)
{
    constexpr int Chunks = W / 8;
    for (int c = threadIdx.x; c < N * Chunks; c += THREADS)
    {
        int row = c / Chunks, column = c % Chunks * 8;
        bool inside = row < valid;
        copy_async(shared + row * pitch_of(W) + column, rows + (inside ? row * pitch : 0) + column, inside);
    }
}

// Left operand: rows row … row + 15, columns column … column + 15.
template <int W>
__device__ __forceinline__ void load_left(unsigned int (&a)[4], const bf16* shared, int row, int column)
{
    int lane = threadIdx.x & 31;
    load_matrix_x4(a, shared + (row + (lane & 15)) * pitch_of(W) + column + (lane >> 4) * 8);
}

// Right operand for two neighbouring 8-column products, from a matrix stored by output columns: b[0], b[1] of columns n … n + 7 and b[2], b[3] of n + 8 … n + 15, over k … k + 15.
template <int W>
__device__ __forceinline__ void load_right(unsigned int (&b)[4], const bf16* shared, int n, int k)
{
    int lane = threadIdx.x & 31;
    load_matrix_x4(b, shared + (n + (lane & 7) + (lane >> 4) * 8) * pitch_of(W) + k + (lane >> 3 & 1) * 8);
}

// The same from a matrix stored by rows of k.
template <int W>
__device__ __forceinline__ void load_right_by_k(unsigned int (&b)[4], const bf16* shared, int k, int n)
{
    int lane = threadIdx.x & 31;
    load_matrix_x4_trans(b, shared + (k + (lane & 15)) * pitch_of(W) + n + (lane >> 4) * 8);
}

// c [MT · 16, STEP] = held rows from `row` on · streamed rowsᵀ, over W.
template <int W>
__device__ __forceinline__ void scores(float (&c)[MT][STEP / 8][4], const bf16* held, int row, const bf16* streamed)
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < STEP / 8; n++) c[m][n][0] = c[m][n][1] = c[m][n][2] = c[m][n][3] = 0;
#pragma unroll
    for (int k = 0; k < W; k += 16)
    {
        unsigned int a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) load_left<W>(a[m], held, row + m * 16, k);
#pragma unroll
        for (int n = 0; n < STEP; n += 16)
        {
            unsigned int b[4];
            load_right<W>(b, streamed, n, k);
#pragma unroll
            for (int m = 0; m < MT; m++)
            {
                mma_bf16(c[m][n / 8], a[m], b[0], b[1]);
                mma_bf16(c[m][n / 8 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// sum [MT · 16, W] += p [MT · 16, STEP] · streamed rows [STEP, W], p as the accumulators of `scores`, rounded to BF16.
template <int W>
__device__ __forceinline__ void add_product(float (&sum)[MT][W / 8][4], const float (&p)[MT][STEP / 8][4], const bf16* streamed)
{
#pragma unroll
    for (int k = 0; k < STEP; k += 16)
    {
        unsigned int a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
        {
            const float(&left)[4] = p[m][k / 8];
            const float(&right)[4] = p[m][k / 8 + 1];
            a[m][0] = pack_bf16(left[0], left[1]);
            a[m][1] = pack_bf16(left[2], left[3]);
            a[m][2] = pack_bf16(right[0], right[1]);
            a[m][3] = pack_bf16(right[2], right[3]);
        }
#pragma unroll
        for (int n = 0; n < W; n += 16)
        {
            unsigned int b[4];
            load_right_by_k<W>(b, streamed, k, n);
#pragma unroll
            for (int m = 0; m < MT; m++)
            {
                mma_bf16(sum[m][n / 8], a[m], b[0], b[1]);
                mma_bf16(sum[m][n / 8 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <int W>
__device__ __forceinline__ void clear(float (&sum)[MT][W / 8][4])
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < W / 8; n++) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0;
}

// Rows row, row + 8, … of the warp's sums times factor to rows `pitch` elements apart; those from `rows` on are not written.
template <int W>
__device__ __forceinline__ void store_rows(bf16* target, long long pitch, int row, int rows, const float (&sum)[MT][W / 8][4], const float (&factor)[MT][2])
{
    int column = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            int at = row + m * 16 + half * 8 + (threadIdx.x >> 2 & 7);
            if (at >= rows) continue;
            unsigned int* line = (unsigned int*)(target + at * pitch + column);
            float f = factor[m][half];
#pragma unroll
            for (int n = 0; n < W / 8; n++) line[n * 4] = pack_bf16(sum[m][n][half * 2] * f, sum[m][n][half * 2 + 1] * f);
        }
}

// Over the four lanes that share a row.
__device__ __forceinline__ float row_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float row_sum(float v)
{
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

#ifdef PASS_FORWARD
// grid: tiles · H, a tile's heads together. The running maximum is renewed only when a row's scores exceed it by 2⁸ (or at first): the sums stay far from overflow, the result does not depend on
// which maximum is used, and the accumulators are rarely rescaled.
extern "C" __global__ void __launch_bounds__(BLOCK_WARPS * 32, MIN_BLOCKS) attention(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const Tile* tiles, int H, int Hk, float scale
#ifdef PAGED
    , const int* pages
#endif
)
{
    DYNAMIC_SHARED(memory);
    bf16* queries = (bf16*)memory;
    bf16* keys = queries + ROWS * pitch_of(D);          // two steps
    bf16* values = keys + 2 * STEP * pitch_of(D);       // two steps
    Tile tile = tiles[blockIdx.x / H];
    int head = blockIdx.x % H, row = (threadIdx.x >> 5) * MT * 16;
    long long key_pitch = (long long)Hk * D, value_pitch = (long long)Hk * DV;
    const bf16* k0 = k + head / (H / Hk) * D;
    const bf16* v0 = v + head / (H / Hk) * DV;
#ifdef PAGED
    auto row_of = [&](int n) { return pages[tile.pages + (tile.streamed + n) / 64] * 64LL + (tile.streamed + n) % 64; };
#else
    auto row_of = [&](int n) { return (long long)tile.streamed + n; };
#endif
    int steps = (tile.count + STEP - 1) / STEP;
    load_rows<ROWS, D>(queries, q + ((long long)tile.held * H + head) * D, (long long)H * D, tile.rows);
    int begin = first_step(tile.shift, tile.window), from = begin * STEP, into = begin & 1;
    load_rows<STEP, D>(keys + into * STEP * pitch_of(D), k0 + row_of(from) * key_pitch, key_pitch, tile.count - from);
    load_rows<STEP, DV>(values + into * STEP * pitch_of(DV), v0 + row_of(from) * value_pitch, value_pitch, tile.count - from);
    copy_async_commit();

    float sum[MT][DV / 8][4], top[MT][2], total[MT][2];
    clear<DV>(sum);
#pragma unroll
    for (int m = 0; m < MT; m++) top[m][0] = top[m][1] = minus_infinity(), total[m][0] = total[m][1] = 0;
    float factor = scale * LOG2E;
    int first_row = row + (threadIdx.x >> 2 & 7), column = (threadIdx.x & 3) * 2;
    for (int step = begin; step < steps; step++)
    {
        copy_async_wait<0>();
        __syncthreads(); // this step's rows are there, and nobody reads the other buffer any more
        if (step + 1 < steps)
        {
            int next = (step + 1) * STEP, buffer = (step + 1) & 1;
            load_rows<STEP, D>(keys + buffer * STEP * pitch_of(D), k0 + row_of(next) * key_pitch, key_pitch, tile.count - next);
            load_rows<STEP, DV>(values + buffer * STEP * pitch_of(DV), v0 + row_of(next) * value_pitch, value_pitch, tile.count - next);
            copy_async_commit();
        }
        int n0 = step * STEP;
        if (n0 > row + MT * 16 - 1 + tile.shift || row >= tile.rows) continue; // the warp's queries see none of these keys, or there are none
        if (WINDOWED && n0 + STEP <= row + tile.shift + 1 - tile.window) continue; // all of them lie before its windows
        float s[MT][STEP / 8][4];
        scores<D>(s, queries, row, keys + (step & 1) * STEP * pitch_of(D));
        bool masked = n0 + STEP - 1 > row + tile.shift || (WINDOWED && n0 < row + MT * 16 + tile.shift - tile.window);
        bool renew = false;
        float high[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++)
            {
                int last = first_row + m * 16 + half * 8 + tile.shift - n0; // the last key of this step that the row sees
                float most = minus_infinity();
#pragma unroll
                for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                    {
                        float& x = s[m][n][half * 2 + i];
                        x = masked && (n * 8 + column + i > last || (WINDOWED && n * 8 + column + i <= last - tile.window)) ? minus_infinity() : x * factor;
                        most = fmaxf(most, x);
                    }
                high[m][half] = row_max(most);
                renew |= high[m][half] > top[m][half] + 8;
            }
        if (__any_sync(0xffffffffu, renew))
        {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                {
                    float now = fmaxf(top[m][half], high[m][half]), shrink = WINDOWED && now == minus_infinity() ? 1.0f : exp2f(top[m][half] - now); // -inf: no key of the row's window has come yet
                    top[m][half] = now;
                    total[m][half] *= shrink;
#pragma unroll
                    for (int n = 0; n < DV / 8; n++) sum[m][n][half * 2] *= shrink, sum[m][n][half * 2 + 1] *= shrink;
                }
        }
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                    {
                        float& x = s[m][n][half * 2 + i];
                        x = WINDOWED && x == minus_infinity() ? 0.0f : exp2f(x - top[m][half]);
                        total[m][half] += x;
                    }
        add_product<DV>(sum, s, values + (step & 1) * STEP * pitch_of(DV));
    }
    float inverse[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            float all = row_sum(total[m][half]);
            inverse[m][half] = 1.0f / all;
            int at = first_row + m * 16 + half * 8;
            if ((threadIdx.x & 3) == 0 && at < tile.rows) lse[(long long)(tile.held + at) * H + head] = (top[m][half] + log2f(all)) * 0.6931471805599453f;
        }
    store_rows<DV>(out + ((long long)tile.held * H + head) * DV, (long long)H * DV, row, tile.rows, sum, inverse);
}
#endif

#ifdef PASS_QUERIES
// grid: tiles · H.
extern "C" __global__ void __launch_bounds__(BLOCK_WARPS * 32, MIN_BLOCKS) attention_dq(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta, bf16* dq, const Tile* tiles, int H, int Hk, float scale)
{
    DYNAMIC_SHARED(memory);
    bf16* queries = (bf16*)memory;
    bf16* gradients = queries + ROWS * pitch_of(D);
    bf16* keys = gradients + ROWS * pitch_of(DV);
    bf16* values = keys + 2 * STEP * pitch_of(D);
    Tile tile = tiles[blockIdx.x / H];
    int head = blockIdx.x % H, row = (threadIdx.x >> 5) * MT * 16;
    long long key_pitch = (long long)Hk * D, value_pitch = (long long)Hk * DV;
    const bf16* k0 = k + tile.streamed * key_pitch + head / (H / Hk) * D;
    const bf16* v0 = v + tile.streamed * value_pitch + head / (H / Hk) * DV;
    int steps = (tile.count + STEP - 1) / STEP;
    load_rows<ROWS, D>(queries, q + ((long long)tile.held * H + head) * D, (long long)H * D, tile.rows);
    load_rows<ROWS, DV>(gradients, dout + ((long long)tile.held * H + head) * DV, (long long)H * DV, tile.rows);
    int begin = first_step(tile.shift, tile.window), from = begin * STEP, into = begin & 1;
    load_rows<STEP, D>(keys + into * STEP * pitch_of(D), k0 + from * key_pitch, key_pitch, tile.count - from);
    load_rows<STEP, DV>(values + into * STEP * pitch_of(DV), v0 + from * value_pitch, value_pitch, tile.count - from);
    copy_async_commit();

    float sum[MT][D / 8][4], norm[MT][2], mean[MT][2];
    clear<D>(sum);
    float factor = scale * LOG2E;
    int first_row = row + (threadIdx.x >> 2 & 7), column = (threadIdx.x & 3) * 2;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
        {
            int at = first_row + m * 16 + half * 8;
            long long place = (long long)(tile.held + at) * H + head;
            norm[m][half] = at < tile.rows ? lse[place] * LOG2E : 0;
            mean[m][half] = at < tile.rows ? delta[place] : 0;
        }
    for (int step = begin; step < steps; step++)
    {
        copy_async_wait<0>();
        __syncthreads();
        if (step + 1 < steps)
        {
            int next = (step + 1) * STEP, buffer = (step + 1) & 1;
            load_rows<STEP, D>(keys + buffer * STEP * pitch_of(D), k0 + next * key_pitch, key_pitch, tile.count - next);
            load_rows<STEP, DV>(values + buffer * STEP * pitch_of(DV), v0 + next * value_pitch, value_pitch, tile.count - next);
            copy_async_commit();
        }
        int n0 = step * STEP;
        if (n0 > row + MT * 16 - 1 + tile.shift || row >= tile.rows) continue;
        if (WINDOWED && n0 + STEP <= row + tile.shift + 1 - tile.window) continue;
        const bf16* step_keys = keys + (step & 1) * STEP * pitch_of(D);
        float s[MT][STEP / 8][4], ds[MT][STEP / 8][4];
        scores<D>(s, queries, row, step_keys);
        scores<DV>(ds, gradients, row, values + (step & 1) * STEP * pitch_of(DV));
        bool masked = n0 + STEP - 1 > row + tile.shift || (WINDOWED && n0 < row + MT * 16 + tile.shift - tile.window);
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int half = 0; half < 2; half++)
            {
                int last = first_row + m * 16 + half * 8 + tile.shift - n0;
#pragma unroll
                for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++)
                    {
                        float p = masked && (n * 8 + column + i > last || (WINDOWED && n * 8 + column + i <= last - tile.window)) ? 0.0f : exp2f(s[m][n][half * 2 + i] * factor - norm[m][half]);
                        float& x = ds[m][n][half * 2 + i];
                        x = p * (x - mean[m][half]);
                    }
            }
        add_product<D>(sum, ds, step_keys);
    }
    float factors[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) factors[m][0] = factors[m][1] = scale;
    store_rows<D>(dq + ((long long)tile.held * H + head) * D, (long long)H * D, row, tile.rows, sum, factors);
}
#endif

#if defined(PASS_KEYS) || defined(PASS_VALUES)
// One step of the streamed side; row i of a head is row (first + i) · H + head of the tensors.
__device__ __forceinline__ void load_queries(bf16* queries, bf16* gradients, const bf16* q, const bf16* dout, long long first, int H, int head, int valid)
{
    load_rows<STEP, D>(queries, q + (first * H + head) * D, (long long)H * D, valid);
    load_rows<STEP, DV>(gradients, dout + (first * H + head) * DV, (long long)H * DV, valid);
    copy_async_commit();
}

// grid: tiles · Hk. With both PASS_KEYS and PASS_VALUES defined, dK and dV in one walk; with one of them that one alone, for head sizes whose accumulators would not fit into the registers together.
extern "C" __global__ void __launch_bounds__(BLOCK_WARPS * 32, MIN_BLOCKS) attention_dkv(const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta, bf16* dk, bf16* dv, const Tile* tiles, int H, int Hk, float scale)
{
    DYNAMIC_SHARED(memory);
    bf16* keys = (bf16*)memory;
    bf16* values = keys + ROWS * pitch_of(D);
    bf16* queries = values + ROWS * pitch_of(DV);           // two steps
    bf16* gradients = queries + 2 * STEP * pitch_of(D);     // two steps
    float* norms = (float*)(gradients + 2 * STEP * pitch_of(DV));
    float* means = norms + 2 * STEP;
    Tile tile = tiles[blockIdx.x / Hk];
    int key_head = blockIdx.x % Hk, group = H / Hk, row = (threadIdx.x >> 5) * MT * 16;
    long long key_pitch = (long long)Hk * D, value_pitch = (long long)Hk * DV;
    int steps = (tile.count + STEP - 1) / STEP, walk = steps * group; // step, then head
    load_rows<ROWS, D>(keys, k + tile.held * key_pitch + key_head * D, key_pitch, tile.rows);
    load_rows<ROWS, DV>(values, v + tile.held * value_pitch + key_head * DV, value_pitch, tile.rows);
    copy_async_commit();
    float next_norm = 0, next_mean = 0; // lse · log2(e) and delta of query threadIdx.x of the next step: on the way while this step computes
    if (walk > 0)
    {
        load_queries(queries, gradients, q, dout, tile.streamed, H, key_head * group, tile.count);
        if (threadIdx.x < STEP)
        {
            long long place = (long long)(tile.streamed + threadIdx.x) * H + key_head * group;
            bool inside = (int)threadIdx.x < tile.count;
            norms[threadIdx.x] = inside ? lse[place] * LOG2E : 0;
            means[threadIdx.x] = inside ? delta[place] : 0;
        }
    }

#ifdef PASS_KEYS
    float sum_k[MT][D / 8][4];
    clear<D>(sum_k);
#endif
#ifdef PASS_VALUES
    float sum_v[MT][DV / 8][4];
    clear<DV>(sum_v);
#endif
    float factor = scale * LOG2E;
    int first_row = row + (threadIdx.x >> 2 & 7), column = (threadIdx.x & 3) * 2;
    for (int at = 0; at < walk; at++)
    {
        copy_async_wait<0>();
        __syncthreads();
        if (at + 1 < walk)
        {
            int next = (at + 1) % steps * STEP, head = key_head * group + (at + 1) / steps, buffer = (at + 1) & 1;
            load_queries(queries + buffer * STEP * pitch_of(D), gradients + buffer * STEP * pitch_of(DV), q, dout, tile.streamed + next, H, head, tile.count - next);
            if (threadIdx.x < STEP)
            {
                long long place = (long long)(tile.streamed + next + threadIdx.x) * H + head;
                bool inside = next + (int)threadIdx.x < tile.count;
                next_norm = inside ? lse[place] * LOG2E : 0;
                next_mean = inside ? delta[place] : 0;
            }
        }
        int i0 = at % steps * STEP;
        bool seen = row <= i0 + STEP - 1 + tile.shift && row < tile.rows && !(WINDOWED && row + MT * 16 - 1 - tile.shift + tile.window <= i0); // else the step's queries see none of the warp's keys, or there are none
        if (seen)
        {
            const bf16* step_queries = queries + (at & 1) * STEP * pitch_of(D);
            const bf16* step_gradients = gradients + (at & 1) * STEP * pitch_of(DV);
            const float* norm = norms + (at & 1) * STEP;
            float p[MT][STEP / 8][4];
            scores<D>(p, keys, row, step_queries);
            bool masked = row + MT * 16 - 1 > i0 + tile.shift || (WINDOWED && i0 + STEP > row - tile.shift + tile.window);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                {
                    int first = first_row + m * 16 + half * 8 - tile.shift - i0; // the first query of this step that sees the key
#pragma unroll
                    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                        {
                            float& x = p[m][n][half * 2 + i];
                            x = masked && (n * 8 + column + i < first || (WINDOWED && n * 8 + column + i >= first + tile.window)) ? 0.0f : exp2f(x * factor - norm[n * 8 + column + i]);
                        }
                }
#ifdef PASS_VALUES
            add_product<DV>(sum_v, p, step_gradients);
#endif
#ifdef PASS_KEYS
            const float* mean = means + (at & 1) * STEP;
            float ds[MT][STEP / 8][4];
            scores<DV>(ds, values, row, step_gradients);
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < STEP / 8; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - mean[n * 8 + column + (i & 1)]);
            add_product<D>(sum_k, ds, step_queries);
#endif
        }
        if (at + 1 < walk && threadIdx.x < STEP)
        {
            norms[(at + 1 & 1) * STEP + threadIdx.x] = next_norm;
            means[(at + 1 & 1) * STEP + threadIdx.x] = next_mean;
        }
    }
    copy_async_wait<0>();
#ifdef PASS_KEYS
    float factors[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) factors[m][0] = factors[m][1] = scale;
    store_rows<D>(dk + tile.held * key_pitch + key_head * D, key_pitch, row, tile.rows, sum_k, factors);
#endif
#ifdef PASS_VALUES
    float ones[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) ones[m][0] = ones[m][1] = 1;
    store_rows<DV>(dv + tile.held * value_pitch + key_head * DV, value_pitch, row, tile.rows, sum_v, ones);
#endif
}
#endif
