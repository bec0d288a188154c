// Attention a row at a time, for what the tensor-core kernels do not take: F32, and head sizes that are no multiples of 16. A warp owns one row of one head; lanes share out the other side for the
// scores and the head width for the sums. Compiled with -DTYPE -DQK_WIDTH -DV_WIDTH -DVEC. FLOPs as in Attention.cu; every row reads the other side again, from the caches.

constexpr int D = QK_WIDTH, DV = V_WIDTH, WARPS = 4;

// As in Attention.cu: query i of a tile sees key n iff i + shift - window < n <= i + shift.
// With pages, streamed row n lies in page pages[tile.pages + n / 64], counted from the first key of the sequence; 32 rows that begin at a multiple of 32 lie together.
struct Tile { int held, rows, streamed, count, shift, slot, pages, window; };

__device__ __forceinline__ float warp_max(float v)
{
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}

typedef Pack<T, VEC> Values; // VEC divides both head sizes

template <int W>
__device__ __forceinline__ float dot(const T* a, const T* b)
{
    const Values *x = (const Values*)a, *y = (const Values*)b;
    float sum = 0;
    for (int i = 0; i < W / VEC; i++)
    {
        Values left = x[i], right = y[i];
        for (int j = 0; j < VEC; j++) sum += widen(left.v[j]) * widen(right.v[j]);
    }
    return sum;
}

// sum += p · row, each lane for columns lane, lane + 32, …
template <int W>
__device__ __forceinline__ void add_row(float (&sum)[(W + 31) / 32], float p, const T* row)
{
#pragma unroll
    for (int i = 0; i < (W + 31) / 32; i++)
    {
        int column = i * 32 + (threadIdx.x & 31);
        if (column < W) sum[i] += p * widen(row[column]);
    }
}

template <int W, class O>
__device__ __forceinline__ void store_row(O* row, const float (&sum)[(W + 31) / 32], float factor)
{
#pragma unroll
    for (int i = 0; i < (W + 31) / 32; i++)
    {
        int column = i * 32 + (threadIdx.x & 31);
        if (column < W) store(row + column, sum[i] * factor);
    }
}

// Results of query row `row` go to row to + row of out and lse. Keys and values of one row may lie in a wider row: key_pitch and value_pitch are elements from row to row.
template <class O>
__device__ __forceinline__ void attend(const T* q, const T* k, const T* v, O* out, float* lse, Tile tile, int to, int H, int Hk, int key_pitch, int value_pitch, const int* pages, float scale)
{
    int head = blockIdx.x % H, key_head = head / (H / Hk), lane = threadIdx.x & 31;
    for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS)
    {
        long long place = (long long)(tile.held + row) * H + head, target = (long long)(to + row) * H + head;
        int visible = min(tile.count, row + tile.shift + 1);
        float sum[(DV + 31) / 32], top = __uint_as_float(0xFF800000u), total = 0;
        for (int i = 0; i < (DV + 31) / 32; i++) sum[i] = 0;
        for (int low = max(0, row + tile.shift + 1 - tile.window), first = low & ~31; first < visible; first += 32)
        {
            int n = tile.streamed + first, count = min(32, visible - first);
            long long begin = pages ? pages[tile.pages + n / 64] * 64LL + n % 64 : n;
            const T* keys = k + begin * key_pitch + key_head * D;
            const T* values = v + begin * value_pitch + key_head * DV;
            float s = lane < count && first + lane >= low ? scale * dot<D>(q + place * D, keys + (long long)lane * key_pitch) : __uint_as_float(0xFF800000u);
            float now = fmaxf(top, warp_max(s)), shrink = expf(top - now), p = expf(s - now);
            top = now;
            total = total * shrink + p;
            for (int i = 0; i < (DV + 31) / 32; i++) sum[i] *= shrink;
            for (int j = 0; j < count; j++) add_row<DV>(sum, __shfl_sync(0xffffffffu, p, j), values + (long long)j * value_pitch);
        }
        total = warp_sum(total);
        store_row<DV>(out + target * DV, sum, 1 / total);
        if (lane == 0) lse[target] = top + logf(total);
    }
}

// grid: tiles · H.
extern "C" __global__ void attention_rows(const T* q, const T* k, const T* v, T* out, float* lse, const Tile* tiles, int H, int Hk, int key_pitch, int value_pitch, const int* pages, float scale)
{
    Tile tile = tiles[blockIdx.x / H];
    attend(q, k, v, out, lse, tile, tile.held, H, Hk, key_pitch, value_pitch, pages, scale);
}

// Decoding: few queries, many keys. The keys of a query are cut into parts of `part` rows; each is a tile of its own and leaves out and lse in its slot: parts [slots, H, DV] and lses [slots, H].
// grid: tiles · H, one warp.
extern "C" __global__ void attention_parts(const T* q, const T* k, const T* v, float* parts, float* lses, const Tile* tiles, int H, int Hk, int key_pitch, int value_pitch, const int* pages, float scale)
{
    Tile tile = tiles[blockIdx.x / H];
    attend(q, k, v, parts, lses, tile, tile.slot, H, Hk, key_pitch, value_pitch, pages, scale);
}

// Query t has slots [first[t], first[t + 1]): out = Σ exp(lse_p − max) part_p / Σ exp(lse_p − max), in the order of the parts. grid: (T, H).
extern "C" __global__ void attention_join(const float* parts, const float* lses, const int* first, T* out, float* lse, int H)
{
    int t = blockIdx.x, h = blockIdx.y, begin = first[t], end = first[t + 1];
    float top = __uint_as_float(0xFF800000u), total = 0;
    for (int p = begin; p < end; p++) top = fmaxf(top, lses[(long long)p * H + h]);
    for (int p = begin; p < end; p++) total += expf(lses[(long long)p * H + h] - top);
    if (threadIdx.x == 0) lse[(long long)t * H + h] = top + logf(total);
    for (int d = threadIdx.x; d < DV; d += blockDim.x)
    {
        float sum = 0;
        for (int p = begin; p < end; p++) sum += expf(lses[(long long)p * H + h] - top) * parts[((long long)p * H + h) * DV + d];
        store(out + ((long long)t * H + h) * DV + d, sum / total);
    }
}

// delta[row] = Σ dout[row] · out[row] over DV; one warp a row of [Tq · H].
extern "C" __global__ void attention_delta(const T* dout, const T* out, float* delta, long long rows)
{
    long long row = blockIdx.x * (long long)WARPS + (threadIdx.x >> 5);
    if (row >= rows) return;
    const Values *g = (const Values*)(dout + row * DV), *o = (const Values*)(out + row * DV);
    float sum = 0;
    for (int i = threadIdx.x & 31; i < DV / VEC; i += 32)
    {
        Values a = g[i], b = o[i];
        for (int j = 0; j < VEC; j++) sum += widen(a.v[j]) * widen(b.v[j]);
    }
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) delta[row] = sum;
}

// grid: tiles · H.
extern "C" __global__ void attention_rows_dq(const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq, const Tile* tiles, int H, int Hk, float scale)
{
    Tile tile = tiles[blockIdx.x / H];
    int head = blockIdx.x % H, key_head = head / (H / Hk), lane = threadIdx.x & 31;
    for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS)
    {
        long long place = (long long)(tile.held + row) * H + head;
        int visible = min(tile.count, row + tile.shift + 1);
        float sum[(D + 31) / 32];
        for (int i = 0; i < (D + 31) / 32; i++) sum[i] = 0;
        for (int first = max(0, row + tile.shift + 1 - tile.window); first < visible; first += 32)
        {
            int count = min(32, visible - first);
            long long key = (long long)(tile.streamed + first + lane) * Hk + key_head;
            float ds = 0;
            if (lane < count) ds = expf(scale * dot<D>(q + place * D, k + key * D) - lse[place]) * (dot<DV>(dout + place * DV, v + key * DV) - delta[place]);
            for (int j = 0; j < count; j++) add_row<D>(sum, __shfl_sync(0xffffffffu, ds, j), k + ((long long)(tile.streamed + first + j) * Hk + key_head) * D);
        }
        store_row<D>(dq + place * D, sum, scale);
    }
}

// grid: tiles · Hk. A warp owns one key; it goes over its query heads and over the queries that see it.
extern "C" __global__ void attention_rows_dkv(const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dk, T* dv, const Tile* tiles, int H, int Hk, float scale)
{
    Tile tile = tiles[blockIdx.x / Hk];
    int key_head = blockIdx.x % Hk, group = H / Hk, lane = threadIdx.x & 31;
    for (int row = threadIdx.x >> 5; row < tile.rows; row += WARPS)
    {
        long long key = (long long)(tile.held + row) * Hk + key_head;
        float sum_k[(D + 31) / 32], sum_v[(DV + 31) / 32];
        for (int i = 0; i < (D + 31) / 32; i++) sum_k[i] = 0;
        for (int i = 0; i < (DV + 31) / 32; i++) sum_v[i] = 0;
        for (int head = key_head * group; head < (key_head + 1) * group; head++)
            for (int first = max(0, row - tile.shift), last = min(tile.count, row - tile.shift + tile.window); first < last; first += 32)
            {
                int count = min(32, last - first);
                long long place = (long long)(tile.streamed + first + lane) * H + head;
                float p = 0, ds = 0;
                if (lane < count)
                {
                    p = expf(scale * dot<D>(q + place * D, k + key * D) - lse[place]);
                    ds = p * (dot<DV>(dout + place * DV, v + key * DV) - delta[place]);
                }
                for (int j = 0; j < count; j++)
                {
                    long long at = (long long)(tile.streamed + first + j) * H + head;
                    add_row<DV>(sum_v, __shfl_sync(0xffffffffu, p, j), dout + at * DV);
                    add_row<D>(sum_k, __shfl_sync(0xffffffffu, ds, j), q + at * D);
                }
            }
        store_row<D>(dk + key * D, sum_k, scale);
        store_row<DV>(dv + key * DV, sum_v, 1);
    }
}

// out · σ(lse − sink) and log(exp(lse) + exp(sink)), in place; a warp a row of `rows` = T · H.
extern "C" __global__ void attention_sinks(T* out, float* lse, const float* sinks, long long rows, int H)
{
    long long row = blockIdx.x * (long long)WARPS + (threadIdx.x >> 5);
    if (row >= rows) return;
    float log = lse[row], more = sinks[row % H] - log, added = fmaxf(more, 0.0f) + log1pf(expf(-fabsf(more))), factor = expf(-added);
    for (int d = threadIdx.x & 31; d < DV; d += 32) store(out + row * DV + d, widen(out[row * DV + d]) * factor);
    __syncwarp();
    if ((threadIdx.x & 31) == 0) lse[row] = log + added;
}
