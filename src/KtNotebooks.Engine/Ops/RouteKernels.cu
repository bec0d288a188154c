// Rows on their way to the experts and back: see RouteKernels.cs. T is the type of the rows, OTHER that of y in combine.

typedef Pack<T, VEC> Values;

// ---- The stable counting sort. A warp owns a chunk of neighbouring routes and goes over it 32 at a time, so that equal experts keep their order; nothing depends on which warp comes first.

// Lanes whose value equals this lane's; lanes without one have valid = false and belong to nobody. bits: enough for every value.
__device__ __forceinline__ unsigned int peers_of(int value, bool valid, int bits)
{
    unsigned int peers = __ballot_sync(0xffffffffu, valid);
    for (int bit = 0; bit < bits; bit++)
    {
        bool one = (value >> bit) & 1;
        unsigned int ones = __ballot_sync(0xffffffffu, one);
        peers &= one ? ones : ~ones;
    }
    return peers;
}

// Inclusive sum over the lanes of a warp.
__device__ __forceinline__ int warp_scan(int v)
{
    int lane = threadIdx.x & 31;
    for (int offset = 1; offset < 32; offset <<= 1)
    {
        int below = __shfl_up_sync(0xffffffffu, v, offset);
        if (lane >= offset) v += below;
    }
    return v;
}

// One warp a chunk: counts[e, chunk] = routes of expert e in the chunk.
extern "C" __global__ void count_routes(const int* indices, int* counts, int routes, int experts, int bits, int chunk)
{
    __shared__ int held[MAX_EXPERTS];
    int lane = threadIdx.x, first = blockIdx.x * chunk, last = min(routes, first + chunk);
    for (int e = lane; e < experts; e += 32) held[e] = 0;
    __syncwarp();
    for (int base = first; base < last; base += 32)
    {
        bool valid = base + lane < last;
        int e = valid ? indices[base + lane] : 0;
        unsigned int peers = peers_of(e, valid, bits);
        if (valid && (peers & ((1u << lane) - 1)) == 0) held[e] += __popc(peers);
        __syncwarp();
    }
    for (int e = lane; e < experts; e += 32) counts[(long long)e * gridDim.x + blockIdx.x] = held[e];
}

// One warp an expert: its counts become the number of its routes in earlier chunks; totals[e] = all of them.
extern "C" __global__ void scan_routes(int* counts, int* totals, int chunks)
{
    int* row = counts + (long long)blockIdx.x * chunks;
    int lane = threadIdx.x, sum = 0;
    for (int base = 0; base < chunks; base += 32)
    {
        int v = base + lane < chunks ? row[base + lane] : 0, upto = warp_scan(v);
        if (base + lane < chunks) row[base + lane] = sum + upto - v;
        sum += __shfl_sync(0xffffffffu, upto, 31);
    }
    if (lane == 0) totals[blockIdx.x] = sum;
}

// One warp a chunk: every route goes to the next place of its expert.
extern "C" __global__ void place_routes(const int* indices, const int* counts, const int* totals, int* offsets, int* sorted, int* row_of, int routes, int experts, int bits, int chunk)
{
    __shared__ int next[MAX_EXPERTS];
    int lane = threadIdx.x, first = blockIdx.x * chunk, last = min(routes, first + chunk), sum = 0;
    for (int base = 0; base < experts; base += 32)
    {
        int e = base + lane, v = e < experts ? totals[e] : 0, upto = warp_scan(v), start = sum + upto - v;
        if (e < experts)
        {
            next[e] = start + counts[(long long)e * gridDim.x + blockIdx.x];
            if (blockIdx.x == 0) offsets[e] = start;
        }
        sum += __shfl_sync(0xffffffffu, upto, 31);
    }
    if (blockIdx.x == 0 && lane == 0) offsets[experts] = sum;
    __syncwarp();
    for (int base = first; base < last; base += 32)
    {
        bool valid = base + lane < last;
        int e = valid ? indices[base + lane] : 0;
        unsigned int peers = peers_of(e, valid, bits);
        int before = __popc(peers & ((1u << lane) - 1)), place = valid ? next[e] + before : 0;
        __syncwarp();
        if (valid)
        {
            sorted[place] = base + lane;
            row_of[base + lane] = place;
            if (before == 0) next[e] = place + __popc(peers);
        }
        __syncwarp();
    }
}

// The whole sort of few routes, at most MOST_FEW, by one block of 32 warps: the routes of expert e are counted, and then placed, by warp e % 32. tiles, where there
// are any, as expert_tiles makes them.
extern "C" __global__ void sort_few_routes(const int* indices, int* offsets, int* sorted, int* row_of, int* tiles, int routes, int experts)
{
    __shared__ int held[MOST_FEW], starts[MAX_EXPERTS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int i = threadIdx.x; i < routes; i += blockDim.x) held[i] = indices[i];
    __syncthreads();
    for (int e = warp; e < experts; e += 32)
    {
        int count = 0;
        for (int base = 0; base < routes; base += 32) count += __popc(__ballot_sync(0xffffffffu, base + lane < routes && held[base + lane] == e));
        if (lane == 0) starts[e] = count;
    }
    __syncthreads();
    if (warp == 0)
    {
        int sum = 0;
        for (int base = 0; base < experts; base += 32)
        {
            int e = base + lane, v = e < experts ? starts[e] : 0, upto = warp_scan(v);
            if (e < experts) offsets[e] = starts[e] = sum + upto - v;
            sum += __shfl_sync(0xffffffffu, upto, 31);
        }
        if (lane == 0) offsets[experts] = sum;
    }
    __syncthreads();
    for (int e = warp; e < experts; e += 32)
    {
        int next = starts[e];
        for (int base = 0; base < routes; base += 32)
        {
            bool mine = base + lane < routes && held[base + lane] == e;
            unsigned int all = __ballot_sync(0xffffffffu, mine);
            int place = next + __popc(all & ((1u << lane) - 1));
            if (mine)
            {
                sorted[place] = base + lane;
                row_of[base + lane] = place;
            }
            next += __popc(all);
        }
        if (lane < 4 && tiles) tiles[4 * e + lane] = lane == 0 ? e : lane == 1 ? starts[e] : lane == 2 ? next - starts[e] : 0;
    }
}

// The tile of each expert that has at most as many rows as a tile: (expert, first row, rows, 0). A thread an expert.
extern "C" __global__ void expert_tiles(const int* offsets, int* tiles, int experts)
{
    int e = blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= experts) return;
    tiles[4 * e] = e;
    tiles[4 * e + 1] = offsets[e];
    tiles[4 * e + 2] = offsets[e + 1] - offsets[e];
    tiles[4 * e + 3] = 0;
}

// ---- Rows, a block each; width counts packs.

// xs[i] = x[routes[i] / k].
extern "C" __global__ void gather_rows(const Values* x, const int* routes, Values* xs, int k, int width)
{
    const Values* source = x + (long long)(routes[blockIdx.x] / k) * width;
    Values* target = xs + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) target[i] = source[i];
}

// y[rows[i]] = x[i].
extern "C" __global__ void scatter_rows(const Values* x, const int* rows, Values* y, int width)
{
    const Values* source = x + (long long)blockIdx.x * width;
    Values* target = y + (long long)rows[blockIdx.x] * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) target[i] = source[i];
}

// y[t] (+)= Σ_j weights[t, j] · rows[row_of[t, j] − first] over the rows in [first, first + count), in the order of j. weights null: all 1.
extern "C" __global__ void combine_rows(const Values* rows, const int* row_of, const float* weights, Pack<OTHER, VEC>* y, int first, int count, int k, int width, int add)
{
    const int* places = row_of + (long long)blockIdx.x * k;
    Pack<OTHER, VEC>* target = y + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
    {
        float sum[VEC];
        for (int c = 0; c < VEC; c++) sum[c] = 0;
#pragma unroll 4
        for (int j = 0; j < k; j++)
        {
            int row = places[j] - first;
            if (row < 0 || row >= count) continue;
            Values a = rows[(long long)row * width + i];
            float w = weights ? weights[(long long)blockIdx.x * k + j] : 1.0f;
            for (int c = 0; c < VEC; c++) sum[c] += w * widen(a.v[c]);
        }
        Pack<OTHER, VEC> r;
        if (add) r = target[i];
        for (int c = 0; c < VEC; c++) store(&r.v[c], add ? widen(r.v[c]) + sum[c] : sum[c]);
        target[i] = r;
    }
}

// x[i] *= weights[routes[i]]; routes null: weights[i].
extern "C" __global__ void scale_rows(Values* x, const float* weights, const int* routes, int width)
{
    float w = weights[routes ? routes[blockIdx.x] : blockIdx.x];
    Values* row = x + (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
    {
        Values a = row[i];
        for (int j = 0; j < VEC; j++) store(&a.v[j], widen(a.v[j]) * w);
        row[i] = a;
    }
}

// dweights[route] = Σ dh · h, dg and du of w · dh, and h where asked for. Every output may be one of the inputs: a thread has read a pack before it writes there.
extern "C" __global__ void swiglu_grad_rows(const Values* dh, const Values* g, const Values* u, const float* weights, const int* routes, Values* dg, Values* du, Values* h, float* dweights, int width)
{
    int route = routes[blockIdx.x];
    float w = weights[route], dot = 0;
    long long row = (long long)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x)
    {
        Values d = dh[row + i], a = g[row + i], b = u[row + i];
        for (int j = 0; j < VEC; j++)
        {
            float gate = widen(a.v[j]), up = widen(b.v[j]), dy = widen(d.v[j]), sigmoid = 1.0f / (1.0f + expf(-gate)), silu = gate * sigmoid;
            store(&d.v[j], silu * up);
            dot += dy * silu * up;
            store(&a.v[j], w * dy * up * sigmoid * (1.0f + gate * (1.0f - sigmoid)));
            store(&b.v[j], w * dy * silu);
        }
        dg[row + i] = a;
        du[row + i] = b;
        if (h) h[row + i] = d;
    }
    dot = block_sum(dot);
    if (threadIdx.x == 0) dweights[route] = dot;
}
