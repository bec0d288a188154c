// Stored matrices of experts to the type that products read, rounded once: behind a format's text. A thread makes eight neighbours of a row.

__device__ __forceinline__ void dequantize8(const unsigned char* data, const unsigned char* scales, int n, int k, int K, int count, float* v)
{
    decode8(code8(data, n, k, K, count), scale8(scales, n, k, K), count, v);
}

// data, scales: of the first expert, the next one expert_bytes on; out [experts, N, K].
extern "C" __global__ void dequantize(const unsigned char* data, const unsigned char* scales, long long expert_bytes, T* out, int N, int K)
{
    int pieces = (K + 7) / 8, e = blockIdx.y;
    long long piece = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (piece >= (long long)N * pieces) return;
    int n = (int)(piece / pieces), k = (int)(piece % pieces) * 8, count = min(8, K - k);
    float v[8];
    dequantize8(data + e * expert_bytes, scales + e * expert_bytes, n, k, K, count, v);
    T* to = out + ((long long)e * N + n) * K + k;
    if (K % 8 == 0)
    {
        Pack<T, 8> r;
        for (int j = 0; j < 8; j++) store(&r.v[j], v[j]);
        *(Pack<T, 8>*)to = r;
    }
    else
        for (int j = 0; j < count; j++) store(to + j, v[j]);
}
