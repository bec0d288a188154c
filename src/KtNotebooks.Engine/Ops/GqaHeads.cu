// See GqaHeads.cs. A group of LANES lanes (a power of two) has a head; heads of q come before those of k. The first 2 · half of a head's d elements turn. Both count elements, multiples of VEC; table [positions, half]: (cos, sin).

typedef Pack<T, VEC> Values;
typedef Pack<float, 2> Angle;

// Sum over the lanes of a group, in a fixed order.
__device__ __forceinline__ float group_sum(float v, int lanes)
{
    for (int offset = lanes / 2; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// Where a group's head lies. Groups past the end do the last head again, without writing: all lanes of a warp must meet in the sums.
struct Head
{
    int lane, t;
    long long at, saved;
    bool query, write;

    __device__ __forceinline__ Head(long long tokens, int queries, int keys, int d, int lanes)
    {
        long long item = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / lanes, last = tokens * (queries + keys) - 1;
        write = item <= last;
        if (!write) item = last;
        lane = threadIdx.x & (lanes - 1);
        t = (int)(item / (queries + keys));
        int h = (int)(item - (long long)t * (queries + keys));
        query = h < queries;
        saved = query ? (long long)t * queries + h : (long long)t * keys + h - queries;
        at = saved * d;
    }
};

extern "C" __global__ void gqa_heads(const T* q, const T* k, const float* wq, const float* wk, const int* positions, const Angle* table, T* Q, T* K, float* rstd_q, float* rstd_k,
    long long tokens, int queries, int keys, int half, int d, int lanes, float eps)
{
    Head head(tokens, queries, keys, d, lanes);
    const T* x = (head.query ? q : k) + head.at;
    T* y = (head.query ? Q : K) + head.at;
    const float* w = head.query ? wq : wk;
    const Angle* angles = table + (long long)positions[head.t] * half;
    float scale = 1;
    if (w)
    {
        float sum = 0;
        for (int i = head.lane * VEC; i < half; i += lanes * VEC)
        {
            Values low = *(const Values*)(x + i), high = *(const Values*)(x + half + i);
            for (int j = 0; j < VEC; j++) sum += widen(low.v[j]) * widen(low.v[j]) + widen(high.v[j]) * widen(high.v[j]);
        }
        for (int i = 2 * half + head.lane * VEC; i < d; i += lanes * VEC)
        {
            Values rest = *(const Values*)(x + i);
            for (int j = 0; j < VEC; j++) sum += widen(rest.v[j]) * widen(rest.v[j]);
        }
        scale = 1.0f / sqrtf(group_sum(sum, lanes) / d + eps);
    }
    if (!head.write) return;
    if (w && head.lane == 0) (head.query ? rstd_q : rstd_k)[head.saved] = scale;
    for (int i = head.lane * VEC; i < half; i += lanes * VEC)
    {
        Values low = *(const Values*)(x + i), high = *(const Values*)(x + half + i);
        for (int j = 0; j < VEC; j++)
        {
            float a = widen(low.v[j]) * scale, b = widen(high.v[j]) * scale, c = angles[i + j].v[0], s = angles[i + j].v[1];
            if (w) a *= w[i + j], b *= w[half + i + j];
            store(&low.v[j], a * c - b * s);
            store(&high.v[j], b * c + a * s);
        }
        *(Values*)(y + i) = low;
        *(Values*)(y + half + i) = high;
    }
    for (int i = 2 * half + head.lane * VEC; i < d; i += lanes * VEC)
    {
        Values rest = *(const Values*)(x + i);
        if (w)
            for (int j = 0; j < VEC; j++) store(&rest.v[j], widen(rest.v[j]) * scale * w[i + j]);
        *(Values*)(y + i) = rest;
    }
}

// Without weights x, w and rstd are null, and the heads turn back alone.
extern "C" __global__ void gqa_heads_grad(const T* dQ, const T* dK, const T* q, const T* k, const float* wq, const float* wk, const float* rstd_q, const float* rstd_k, const int* positions, const Angle* table,
    T* dq, T* dk, long long tokens, int queries, int keys, int half, int d, int lanes)
{
    Head head(tokens, queries, keys, d, lanes);
    const float* w = head.query ? wq : wk;
    const T *dy = (head.query ? dQ : dK) + head.at, *x = w ? (head.query ? q : k) + head.at : dy;
    T* dx = (head.query ? dq : dk) + head.at;
    const Angle* angles = table + (long long)positions[head.t] * half;
    float scale = w ? (head.query ? rstd_q : rstd_k)[head.saved] : 1.0f, mean = 0;
    for (int pass = w ? 0 : 1; pass < 2; pass++)
    {
        for (int i = head.lane * VEC; i < half; i += lanes * VEC)
        {
            Values up = *(const Values*)(dy + i), down = *(const Values*)(dy + half + i), low = *(const Values*)(x + i), high = *(const Values*)(x + half + i);
            for (int j = 0; j < VEC; j++)
            {
                float c = angles[i + j].v[0], s = angles[i + j].v[1], a = widen(up.v[j]), b = widen(down.v[j]), x0 = widen(low.v[j]), x1 = widen(high.v[j]);
                float g0 = a * c + b * s, g1 = b * c - a * s;
                if (w) g0 *= w[i + j], g1 *= w[half + i + j];
                if (pass == 0) mean += g0 * x0 + g1 * x1;
                else
                {
                    store(&low.v[j], scale * (g0 - x0 * mean));
                    store(&high.v[j], scale * (g1 - x1 * mean));
                }
            }
            if (pass == 0 || !head.write) continue;
            *(Values*)(dx + i) = low;
            *(Values*)(dx + half + i) = high;
        }
        for (int i = 2 * half + head.lane * VEC; i < d; i += lanes * VEC)
        {
            Values up = *(const Values*)(dy + i), rest = *(const Values*)(x + i);
            for (int j = 0; j < VEC; j++)
            {
                float g = w ? widen(up.v[j]) * w[i + j] : widen(up.v[j]), x0 = widen(rest.v[j]);
                if (pass == 0) mean += g * x0;
                else store(&rest.v[j], scale * (g - x0 * mean));
            }
            if (pass == 1 && head.write) *(Values*)(dx + i) = rest;
        }
        if (pass == 0) mean = group_sum(mean, lanes) / d * scale * scale;
    }
}

// dw of one of the two weights: blockIdx.y adds the heads of its tokens for a column a thread, in order; then the groups are added in order.
extern "C" __global__ void gqa_heads_dw_groups(const T* dy, const T* x, const float* rstd, const int* positions, const Angle* table, float* partial, int tokens, int heads, int half, int d, int tokens_per_group)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    bool turns = column < 2 * half;
    int pair = column < half ? column : column - half, other = column < half ? column + half : pair;
    int first = blockIdx.y * tokens_per_group, last = min(tokens, first + tokens_per_group);
    float sum = 0;
    for (int t = first; t < last; t++)
    {
        float c = 1, s = 0;
        if (turns)
        {
            Angle angle = table[(long long)positions[t] * half + pair];
            c = angle.v[0];
            s = column < half ? angle.v[1] : -angle.v[1];
        }
        for (int h = 0; h < heads; h++)
        {
            long long at = ((long long)t * heads + h) * d;
            float g = widen(dy[at + column]) * c;
            if (turns) g += widen(dy[at + other]) * s;
            sum += g * widen(x[at + column]) * rstd[(long long)t * heads + h];
        }
    }
    partial[(long long)blockIdx.y * d + column] = sum;
}

extern "C" __global__ void gqa_heads_dw(const float* partial, float* dw, int width, int groups)
{
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0;
    for (int g = 0; g < groups; g++) sum += partial[(long long)g * width + column];
    dw[column] = sum;
}
