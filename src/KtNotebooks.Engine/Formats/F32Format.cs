using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>F32 [N, K], without scales: tests, teaching, and what is trained in full.</summary>
internal sealed class F32Format() : StorageFormat("f32", 0, DType.F32)
{
    private protected override string Cuda => """
        __device__ void dequantize8(const unsigned char* data, const unsigned char* scales, int n, int k, int N, int K, int count, float* v)
        {
            for (int j = 0; j < count; j++) v[j] = ((const float*)data)[(long long)n * K + k + j];
        }

        """;

    internal override void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target) => data.Row<float>(row).CopyTo(target);
}
