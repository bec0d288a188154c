using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

/// <summary>
/// The primitives of Prelude.cu against plain loops, on any card, a real one or the emulated one: what kernels and the emulator both rely on. Values are
/// small integers, so all sums are exact.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // cards are shared with the tests that count their pool
public class PreludeTests
{
    private const string Source = """
        // c [16, 16] = a [16, 16] · b, one warp; b is [N, K] by rows of n (TRANSPOSED 0) or [K, N] by rows of k (1). Rows in shared memory are 24 elements
        // apart.
        extern "C" __global__ void product(const bf16* a, const bf16* b, float* c)
        {
            __shared__ __align__(16) bf16 left[16 * 24], right[16 * 24];
            int lane = threadIdx.x, half = lane / 2, part = lane % 2 * 8;
            copy_async(left + half * 24 + part, a + half * 16 + part, true);
            copy_async(right + half * 24 + part, b + half * 16 + part, true);
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            unsigned int l[4], r[4];
            load_matrix_x4(l, left + lane % 16 * 24 + lane / 16 * 8);
        #if TRANSPOSED
            load_matrix_x4_trans(r, right + lane % 16 * 24 + lane / 16 * 8);
        #else
            load_matrix_x4(r, right + (lane % 8 + lane / 16 * 8) * 24 + lane / 8 % 2 * 8);
        #endif
            for (int n = 0; n < 2; n++)
            {
                float sums[4] = {0, 0, 0, 0};
                mma_bf16(sums, l, r[2 * n], r[2 * n + 1]);
                for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + i % 2] = sums[i];
            }
        }

        // y = x in 16-byte pieces through STAGES buffers of dynamic shared memory; pieces at and behind `count` become zeros.
        extern "C" __global__ void staged_copy(const float* x, float* y, int pieces, int count)
        {
            DYNAMIC_SHARED(bytes);
            float* shared = (float*)bytes;
            int width = blockDim.x * 4;
            for (int piece = 0; piece < STAGES - 1; piece++)
            {
                copy_async(shared + piece * width + threadIdx.x * 4, x + piece * width + threadIdx.x * 4, piece < count);
                copy_async_commit();
            }
            for (int piece = 0; piece < pieces; piece++)
            {
                int next = piece + STAGES - 1;
                if (next < pieces) copy_async(shared + next % STAGES * width + threadIdx.x * 4, x + next * width + threadIdx.x * 4, next < count);
                copy_async_commit();
                copy_async_wait<STAGES - 1>();
                __syncthreads();
                for (int i = 0; i < 4; i++) // another thread's
                    y[piece * width + i * blockDim.x + threadIdx.x] = shared[piece % STAGES * width + i * blockDim.x + threadIdx.x];
                __syncthreads();
            }
        }

        extern "C" __global__ void round_pairs(const float* x, unsigned int* packed, bf16* stored)
        {
            packed[threadIdx.x] = pack_bf16(x[2 * threadIdx.x], x[2 * threadIdx.x + 1]);
            store(stored + 2 * threadIdx.x, x[2 * threadIdx.x]);
            store(stored + 2 * threadIdx.x + 1, x[2 * threadIdx.x + 1]);
        }

        extern "C" __global__ void sums(float* y)
        {
            float first = block_sum((float)threadIdx.x), second = block_sum(1.0f);
            y[2 * threadIdx.x] = first;
            y[2 * threadIdx.x + 1] = second;
        }
        """;

    private static readonly CudaProgram Program = new("PreludeTests", Source);

    private static CudaDevice Gpu
    {
        get
        {
            Require.Hardware("cuda", CudaDevice.Missing);
            return CudaDevice.Get(0);
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_warp_multiplies_tiles(bool transposed)
    {
        var card = Gpu;
        var random = new Random(7);
        float[] a = Values(), b = Values();
        using var left = ToGpu(a);
        using var right = ToGpu(b);
        using var c = Tensor.Empty(DType.F32, Device.Cuda(), 16, 16);
        Program.Kernel(card, "product", transposed ? "-DTRANSPOSED=1 -DSTAGES=2" : "-DTRANSPOSED=0 -DSTAGES=2")
            .Launch(1, 32, left.Pointer, right.Pointer, c.Pointer);
        var expected = new float[256];
        for (var m = 0; m < 16; m++)
            for (var n = 0; n < 16; n++)
                for (var k = 0; k < 16; k++) expected[(m * 16) + n] += a[(m * 16) + k] * (transposed ? b[(k * 16) + n] : b[(n * 16) + k]);
        Assert.Equal(expected, c.ToFloats());

        float[] Values() => [.. Enumerable.Range(0, 256).Select(_ => (float)random.Next(-9, 10))];
        static Tensor ToGpu(float[] values)
        {
            using var wide = Tensor.From(values, 16, 16);
            using var narrow = wide.To(DType.BF16);
            return narrow.To(Device.Cuda());
        }
    }

    [Theory]
    [InlineData("-DSTAGES=2 -DTRANSPOSED=0", 2, 32, 1)]
    [InlineData("-DSTAGES=3 -DTRANSPOSED=0", 3, 64, 7)]
    [InlineData("-DSTAGES=4 -DTRANSPOSED=0", 4, 1024, 9)] // 64 KB
    public void Asynchronous_copies_arrive_in_their_groups(string options, int stages, int threads, int pieces)
    {
        var card = Gpu;
        var (width, count) = (threads * 4, Math.Max(1, pieces - 1));
        float[] values = [.. Enumerable.Range(0, pieces * width).Select(i => i + 1f)];
        using var host = Tensor.From(values, pieces, width);
        using var x = host.To(Device.Cuda());
        using var y = Tensor.Empty(DType.F32, Device.Cuda(), pieces, width);
        var bytes = stages * width * sizeof(float);
        Program.Kernel(card, "staged_copy", options).AllowShared(bytes).Launch((1, 1, 1), threads, bytes, x.Pointer, y.Pointer, pieces, count);
        Assert.Equal(values.Select((v, i) => i / width < count ? v : 0), y.ToFloats());
    }

    [Fact]
    public void Pairs_are_rounded_as_single_values_are()
    {
        var card = Gpu;
        float[] values = [0, -0f, 1, 1 + (1 / 256f), 1 + (3 / 256f), -1 - (1 / 256f), 3.4e38f, float.PositiveInfinity, float.NegativeInfinity, 1e-40f,
            -2.7182817f, 1e-45f, 65535, 0.1f, 1 / 3f, -7];
        using var host = Tensor.From(values, values.Length);
        using var x = host.To(Device.Cuda());
        using var packed = Tensor.Empty(DType.BF16, Device.Cuda(), values.Length);
        using var stored = Tensor.Empty(DType.BF16, Device.Cuda(), values.Length);
        Program.Kernel(card, "round_pairs", "-DSTAGES=2 -DTRANSPOSED=0").Launch(1, values.Length / 2, x.Pointer, packed.Pointer, stored.Pointer);
        using var expected = host.To(DType.BF16);
        Assert.Equal(expected.ToFloats(), packed.ToFloats());
        Assert.Equal(expected.ToFloats(), stored.ToFloats());
    }

    [Theory]
    [InlineData(32)]
    [InlineData(96)]
    [InlineData(1024)]
    public void Every_thread_gets_the_sum_of_the_block(int threads)
    {
        var card = Gpu;
        using var y = Tensor.Empty(DType.F32, Device.Cuda(), threads, 2);
        Program.Kernel(card, "sums", "-DSTAGES=2 -DTRANSPOSED=0").Launch(1, threads, y.Pointer);
        Assert.Equal(Enumerable.Range(0, threads).SelectMany(_ => (float[])[threads * (threads - 1) / 2f, threads]), y.ToFloats());
    }
}
