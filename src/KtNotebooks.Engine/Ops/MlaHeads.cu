// See MlaHeads.cs. One block a token; n, r, v count elements, all multiples of VEC, so that a pack is of one kind. table [positions, r/2]: (cos, sin).

typedef Pack<T, VEC> Values;
typedef Pack<float, 2> Angle;

// Elements [i, i + VEC) of a rotary part turned by the angles of its pairs.
__device__ __forceinline__ Values rotated(const T* part, int i, const Angle* angles, float direction)
{
    Values r;
    if (VEC == 1) // half a pair
    {
        float a = widen(part[i & ~1]), b = widen(part[i | 1]), c = angles[i / 2].v[0], s = direction * angles[i / 2].v[1];
        store(&r.v[0], i & 1 ? a * s + b * c : a * c - b * s);
        return r;
    }
    r = *(const Values*)(part + i);
    for (int j = 0; j + 1 < VEC; j += 2)
    {
        float a = widen(r.v[j]), b = widen(r.v[j + 1]), c = angles[(i + j) / 2].v[0], s = direction * angles[(i + j) / 2].v[1];
        store(&r.v[j], a * c - b * s);
        store(&r.v[j + 1], a * s + b * c);
    }
    return r;
}

extern "C" __global__ void mla_heads(const T* q, const T* kv, const T* kr, const int* positions, const Angle* table, T* Q, T* K, T* V, int H, int n, int r, int v)
{
    int head = n + r;
    const Angle* angles = table + (long long)positions[blockIdx.x] * (r / 2);
    q += (long long)blockIdx.x * H * head;
    Q += (long long)blockIdx.x * H * head;
    K += (long long)blockIdx.x * H * head;
    kv += (long long)blockIdx.x * H * (n + v);
    V += (long long)blockIdx.x * H * v;
    kr += (long long)blockIdx.x * r;
    for (int i = threadIdx.x * VEC; i < H * head; i += blockDim.x * VEC)
    {
        int h = i / head, c = i - h * head;
        if (c < n)
        {
            *(Values*)(Q + i) = *(const Values*)(q + i);
            *(Values*)(K + i) = *(const Values*)(kv + h * (n + v) + c);
        }
        else
        {
            *(Values*)(Q + i) = rotated(q + h * head + n, c - n, angles, 1.0f);
            *(Values*)(K + i) = rotated(kr, c - n, angles, 1.0f);
        }
    }
    for (int i = threadIdx.x * VEC; i < H * v; i += blockDim.x * VEC)
    {
        int h = i / v, c = i - h * v;
        *(Values*)(V + i) = *(const Values*)(kv + h * (n + v) + n + c);
    }
}

extern "C" __global__ void mla_heads_grad(const T* dQ, const T* dK, const T* dV, const int* positions, const Angle* table, T* dq, T* dkv, T* dkr, int H, int n, int r, int v)
{
    int head = n + r;
    const Angle* angles = table + (long long)positions[blockIdx.x] * (r / 2);
    dQ += (long long)blockIdx.x * H * head;
    dq += (long long)blockIdx.x * H * head;
    dK += (long long)blockIdx.x * H * head;
    dkv += (long long)blockIdx.x * H * (n + v);
    dV += (long long)blockIdx.x * H * v;
    dkr += (long long)blockIdx.x * r;
    // The shared key: summed over heads in F32, then turned back. A thread has whole pairs.
    const int PAIRS = VEC == 1 ? 2 : VEC;
    for (int i = threadIdx.x * PAIRS; i < r; i += blockDim.x * PAIRS)
    {
        float sum[PAIRS];
        for (int j = 0; j < PAIRS; j++) sum[j] = 0;
#pragma unroll 4
        for (int h = 0; h < H; h++)
        {
            Pack<T, VEC> a[PAIRS / VEC];
            for (int p = 0; p < PAIRS / VEC; p++) a[p] = *(const Values*)(dK + h * head + n + i + p * VEC);
            for (int j = 0; j < PAIRS; j++) sum[j] += widen(a[j / VEC].v[j % VEC]);
        }
        for (int j = 0; j < PAIRS; j += 2)
        {
            float c = angles[(i + j) / 2].v[0], s = -angles[(i + j) / 2].v[1];
            store(dkr + i + j, sum[j] * c - sum[j + 1] * s);
            store(dkr + i + j + 1, sum[j] * s + sum[j + 1] * c);
        }
    }
    for (int i = threadIdx.x * VEC; i < H * head; i += blockDim.x * VEC)
    {
        int h = i / head, c = i - h * head;
        if (c < n)
        {
            *(Values*)(dq + i) = *(const Values*)(dQ + i);
            *(Values*)(dkv + h * (n + v) + c) = *(const Values*)(dK + i);
        }
        else *(Values*)(dq + i) = rotated(dQ + h * head + n, c - n, angles, -1.0f);
    }
    for (int i = threadIdx.x * VEC; i < H * v; i += blockDim.x * VEC)
    {
        int h = i / v, c = i - h * v;
        *(Values*)(dkv + h * (n + v) + n + c) = *(const Values*)(dV + i);
    }
}
