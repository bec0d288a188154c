using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>F32 [N, K], without scales: tests, teaching, and what is trained in full.</summary>
internal sealed class F32Format() : StorageFormat("f32", 0, DType.F32)
{
    private protected override string Cuda => """
        typedef Pack<float, 8> Code8;
        struct Scale {};

        __device__ __forceinline__ Code8 code8(const unsigned char* data, int n, int k, int K, int count)
        {
            Code8 c;
            for (int j = 0; j < count; j++) c.v[j] = ((const float*)data)[(long long)n * K + k + j];
            return c;
        }

        __device__ __forceinline__ Scale scale8(const unsigned char*, int, int, int) { return {}; }

        __device__ __forceinline__ void decode8(const Code8& c, Scale, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = c.v[j];
        }

        __device__ __forceinline__ void decode8(const Code8& c, Scale s, unsigned int* pairs) { by_floats(c, s, pairs); }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => data.Row<float>(row).CopyTo(target);
}
