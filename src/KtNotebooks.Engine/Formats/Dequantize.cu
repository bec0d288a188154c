// Stored matrices of experts to the type that products read, rounded once. A thread makes eight neighbours of a row by its format's dequantize8.

__device__ void dequantize8(const unsigned char* data, const unsigned char* scales, int n, int k, int N, int K, int count, float* v);

// Eight codes of a byte each, or fewer at the end of rows that are no multiple of eight.
__device__ __forceinline__ void load8(const unsigned char* from, bool whole, int count, unsigned char* code)
{
    if (whole) *(unsigned long long*)code = *(const unsigned long long*)from;
    else
        for (int j = 0; j < count; j++) code[j] = from[j];
}

// data, scales: of the first expert, the next one expert_bytes on; out [experts, N, K].
extern "C" __global__ void dequantize(const unsigned char* data, const unsigned char* scales, long long expert_bytes, T* out, int N, int K)
{
    int pieces = (K + 7) / 8, e = blockIdx.y;
    long long piece = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (piece >= (long long)N * pieces) return;
    int n = (int)(piece / pieces), k = (int)(piece % pieces) * 8, count = min(8, K - k);
    float v[8];
    dequantize8(data + e * expert_bytes, scales + e * expert_bytes, n, k, N, K, count, v);
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
