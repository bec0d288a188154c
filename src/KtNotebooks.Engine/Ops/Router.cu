// See Router.cs. A warp a token; expert e belongs to lane e % 32, as bit e / 32 of its mask of experts that may still be chosen, so that up to 1024 experts fit. Sums over a warp have a fixed order.

const int Warps = WARPS;

__device__ __forceinline__ float warp_max(float v)
{
    for (int offset = 16; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, offset));
    return v;
}

// What is compared is F64: in F32 the sigmoid of 17 is 1, and experts that differ would be equal.
__device__ __forceinline__ double least() { return __longlong_as_double(0xfff0000000000000ll); }

// The place of the largest of n values that are open, the lowest of equals; NaN counts as the smallest. Value i is looked at by lane i % 32 under bit i / 32 of its mask. At least one must be open.
__device__ __forceinline__ int best_of(const double* values, unsigned int open, int n)
{
    double value = least();
    int place = 0x7fffffff;
    for (int i = threadIdx.x & 31; i < n; i += 32)
    {
        if (!(open >> (i / 32) & 1)) continue;
        double v = values[i] == values[i] ? values[i] : least();
        if (place == 0x7fffffff || v > value)
        {
            value = v;
            place = i;
        }
    }
    for (int offset = 16; offset > 0; offset >>= 1)
    {
        double v = __shfl_xor_sync(0xffffffffu, value, offset);
        int p = __shfl_xor_sync(0xffffffffu, place, offset);
        // a lane without an open value has the least value and the last place
        if (v > value || (v == value && p < place))
        {
            value = v;
            place = p;
        }
    }
    return place;
}

// Softmax: maximum and 1 / Σ exp(z − maximum) of a row.
__device__ __forceinline__ void softmax_of(const float* z, int experts, float& max, float& scale)
{
    max = -3.402823466e38f;
    for (int e = threadIdx.x & 31; e < experts; e += 32) max = fmaxf(max, z[e]);
    max = warp_max(max);
    float sum = 0;
    for (int e = threadIdx.x & 31; e < experts; e += 32) sum += expf(z[e] - max);
    scale = 1.0f / warp_sum(sum);
}

__device__ __forceinline__ float score_of(float z, int sigmoid, float max, float scale) { return sigmoid ? 1.0f / (1.0f + expf(-z)) : expf(z - max) * scale; }

extern "C" __global__ void __launch_bounds__(32 * Warps) route(const float* logits, const float* bias, float* weights, int* indices, int tokens, int experts, int k, int sigmoid, int normalise, float factor,
    int groups, int kept)
{
    __shared__ double choices[Warps][MAX_EXPERTS], of_groups[Warps][MAX_GROUPS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    long long token = blockIdx.x * (long long)Warps + warp;
    if (token >= tokens) return;
    const float* z = logits + token * experts;
    double *choice = choices[warp], *group = of_groups[warp];
    float max = 0, scale = 0;
    if (!sigmoid) softmax_of(z, experts, max, scale);
    for (int e = lane; e < experts; e += 32) choice[e] = sigmoid ? 1.0 / (1.0 + exp(-(double)z[e])) + (bias ? bias[e] : 0.0f) : z[e];
    __syncwarp();
    unsigned int open = 0xffffffffu;
    if (groups > 1)
    {
        int size = experts / groups;
        for (int g = lane; g < groups; g += 32)
        {
            double first = least(), second = first;
            for (int e = g * size; e < (g + 1) * size; e++)
            {
                double c = choice[e];
                if (c > first)
                {
                    second = first;
                    first = c;
                }
                else if (c > second) second = c;
            }
            group[g] = sigmoid ? first + second : first;
        }
        __syncwarp();
        unsigned int left = 0xffffffffu;
        open = 0;
        for (int n = 0; n < kept; n++)
        {
            int g = best_of(group, left, groups);
            if (g % 32 == lane) left &= ~(1u << (g / 32));
            for (int e = lane; e < experts; e += 32)
                if (e / size == g) open |= 1u << (e / 32);
        }
    }
    float sum = 0;
    float* row = weights + token * k;
    for (int j = 0; j < k; j++)
    {
        int e = best_of(choice, open, experts);
        if (e % 32 == lane) open &= ~(1u << (e / 32));
        float s = score_of(z[e], sigmoid, max, scale);
        sum += s;
        if (lane == 0)
        {
            indices[token * k + j] = e;
            row[j] = s;
        }
    }
    __syncwarp();
    float by = normalise ? factor / (sum + 1e-20f) : factor;
    for (int j = lane; j < k; j += 32) row[j] *= by;
}

// offsets [E + 1]: how many tokens chose e, as differences, with balance = α · E / (k · T²); null without the balance term.
extern "C" __global__ void __launch_bounds__(32 * Warps) route_grad(const float* dweights, const float* logits, const int* indices, const int* offsets, float* dlogits, int tokens, int experts, int k,
    int sigmoid, int normalise, float factor, float balance, float z_factor)
{
    __shared__ float shares[Warps][MAX_EXPERTS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    long long token = blockIdx.x * (long long)Warps + warp;
    if (token >= tokens) return;
    const float *z = logits + token * experts, *g = dweights + token * k;
    const int* at = indices + token * k;
    float *ds = shares[warp], max = 0, scale = 0;
    if (!sigmoid) softmax_of(z, experts, max, scale);
    for (int e = lane; e < experts; e += 32) ds[e] = offsets ? balance * (offsets[e + 1] - offsets[e]) : 0.0f;
    __syncwarp();
    float sum = 0, dot = 0;
    if (normalise)
    {
        // w_j = factor · s_j / S: ds collects what every weight loses when the sum grows
        for (int j = lane; j < k; j += 32)
        {
            float s = score_of(z[at[j]], sigmoid, max, scale);
            sum += s;
            dot += g[j] * s;
        }
        sum = warp_sum(sum) + 1e-20f;
        dot = warp_sum(dot) / sum;
    }
    for (int j = lane; j < k; j += 32) ds[at[j]] += normalise ? factor * (g[j] - dot) / sum : factor * g[j];
    __syncwarp();
    float mean = 0;
    if (!sigmoid)
    {
        for (int e = lane; e < experts; e += 32) mean += score_of(z[e], 0, max, scale) * ds[e];
        mean = warp_sum(mean);
        if (z_factor != 0.0f) mean -= z_factor * (max - logf(scale)); // log Σ exp z
    }
    for (int e = lane; e < experts; e += 32)
    {
        float s = score_of(z[e], sigmoid, max, scale);
        dlogits[token * experts + e] = sigmoid ? ds[e] * s * score_of(-z[e], 1, 0, 0) : s * (ds[e] - mean); // 1 − σ(z) = σ(−z), also where σ(z) is 1
    }
}
