using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>F32 [N, K], without scales: tests, teaching, and what is trained in full.</summary>
internal sealed class F32Format() : StorageFormat("f32", 0, DType.F32)
{
    private protected override string Cuda => """
        typedef Pack<float, 8> Codes8;

        __device__ __forceinline__ Codes8 codes8(const unsigned char* data, const unsigned char* scales, int n, int k, int N, int K, int count)
        {
            Codes8 c;
            for (int j = 0; j < count; j++) c.v[j] = ((const float*)data)[(long long)n * K + k + j];
            return c;
        }

        __device__ __forceinline__ void decode8(const Codes8& c, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = c.v[j];
        }

        __device__ __forceinline__ void decode8(const Codes8& c, unsigned int* pairs) { by_floats(c, pairs); }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => data.Row<float>(row).CopyTo(target);
}
