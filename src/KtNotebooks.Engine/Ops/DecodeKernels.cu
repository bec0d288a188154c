// Stored matrices of experts to the type that products read: out = code · scale, rounded once. FORMAT is MatrixFormat's number. A thread makes eight neighbours of a row.

__device__ __forceinline__ float e4m3(unsigned int code)
{
    // Exponent and mantissa moved to their places in an F32 whose exponent is 120 too small: right for subnormals too. S.1111.111 is NaN.
    float v = __uint_as_float((code & 0x7F) << 20) * 1.329227995784916e36f; // 2^120
    v = (code & 0x7F) == 0x7F ? __uint_as_float(0x7FC00000u) : v;
    return code & 0x80 ? -v : v;
}

// data, scales: of the first expert, the next one expert_bytes on; out [experts, N, K].
extern "C" __global__ void decode(const unsigned char* data, const unsigned char* scales, long long expert_bytes, T* out, int N, int K)
{
    int pieces = (K + 7) / 8, e = blockIdx.y;
    long long piece = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (piece >= (long long)N * pieces) return;
    int n = (int)(piece / pieces), k = (int)(piece % pieces) * 8, count = min(8, K - k);
    const unsigned char* from = data + e * expert_bytes;
    const unsigned char* by = scales + e * expert_bytes;
    long long first = (long long)n * K + k;
    float v[8];
#if FORMAT == 0
    for (int j = 0; j < count; j++) v[j] = ((const float*)from)[first + j];
#elif FORMAT == 1
    for (int j = 0; j < count; j++) v[j] = widen(((const bf16*)from)[first + j]);
#elif FORMAT == 2
    float scale = ((const float*)by)[(n / 128) * ((K + 127) / 128) + k / 128];
#elif FORMAT == 3
    float scale = ((const float*)by)[n];
#else
    float scale = widen(((const bf16*)by)[(long long)n * (K / 32) + k / 32]);
    unsigned int codes = *(const unsigned int*)(from + first / 2); // K is a multiple of 32
    for (int j = 0; j < 8; j++) v[j] = scale * ((int)(codes >> (4 * j) & 15) - 8);
#endif
#if FORMAT == 2 || FORMAT == 3
    unsigned char code[8];
    if (K % 8 == 0) *(unsigned long long*)code = *(const unsigned long long*)(from + first);
    else
        for (int j = 0; j < count; j++) code[j] = from[first + j];
    for (int j = 0; j < count; j++)
#if FORMAT == 2
        v[j] = scale * e4m3(code[j]);
#else
        v[j] = scale * (signed char)code[j];
#endif
#endif
    T* to = out + (long long)e * N * K + first;
    if (K % 8 == 0)
    {
        Pack<T, 8> r;
        for (int j = 0; j < 8; j++) store(&r.v[j], v[j]);
        *(Pack<T, 8>*)to = r;
    }
    else
        for (int j = 0; j < count; j++) store(to + j, v[j]);
}
