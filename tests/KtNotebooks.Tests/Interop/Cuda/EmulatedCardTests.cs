using System.Runtime.InteropServices;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

/// <summary>
/// The emulator of tests/cuda-emulator finds what a kernel does wrong: an emulator that lets everything pass would prove nothing. A real card would lose
/// its context over most of this.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // cards are shared with the tests that count their pool
public partial class EmulatedCardTests
{
    private const string Source = """
        extern "C" __global__ void beyond_the_end(float* x, int n) { x[threadIdx.x == 63 ? n : threadIdx.x] = 1; }
        extern "C" __global__ void misaligned(float* x, int n) { *(float4*)(x + n + 1) = make_float4(1, 2, 3, 4); }
        extern "C" __global__ void outside_an_array(float* x, int n)
        {
            __shared__ float tile[8];
            tile[threadIdx.x + n] = 1;
            x[threadIdx.x] = tile[threadIdx.x];
        }
        extern "C" __global__ void beyond_shared(float* x, int n)
        {
            DYNAMIC_SHARED(bytes);
            ((float*)bytes)[n + threadIdx.x] = 1;
        }
        extern "C" __global__ void stuck(float* x, int n)
        {
            if (threadIdx.x < n || threadIdx.x == 63) __syncthreads();
            else x[threadIdx.x] = __shfl_sync(0xffffffffu, n, 0);
        }
        extern "C" __global__ void mixed(float* x, int n)
        {
            if (threadIdx.x % 2) __syncwarp();
            else x[threadIdx.x] = __shfl_sync(0xffffffffu, n, 0);
        }
        extern "C" __global__ void divided(int* x, int n) { x[0] = threadIdx.x / (n - 1); }
        extern "C" __global__ void __launch_bounds__(32) bounded(float* x, int n) { x[0] = n; }
        extern "C" __global__ void unwritten(float* x, int n)
        {
            __shared__ float tile[64];
            float local[2];
            if (n == 0) tile[threadIdx.x] = local[0] = 1;
            __syncthreads();
            x[threadIdx.x] = tile[threadIdx.x];
            x[threadIdx.x + 64] = local[n];
        }
        extern "C" __global__ void without_a_barrier(float* x, int n)
        {
            __shared__ float tile[64];
            tile[threadIdx.x] = n;
            x[blockIdx.x * 64 + threadIdx.x] = tile[(threadIdx.x + 32) % 64];
        }
        extern "C" __global__ void without_a_wait(const float* x, float* y)
        {
            __shared__ __align__(16) float tile[128];
            copy_async(tile + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
            __syncthreads();
            y[blockIdx.x * 128 + threadIdx.x] = tile[threadIdx.x];
        }
        """;

    private static readonly CudaProgram Program = new("EmulatedCardTests", Source);

    private static CudaDevice Gpu
    {
        get
        {
            if (!Require.EmulatedCard) Assert.Skip("for the emulated card: KT_EMULATE_CUDA=1 ./kt test EmulatedCard");
            return CudaDevice.Get(0);
        }
    }

    [Theory]
    [InlineData("beyond_the_end", 128, 64,
        "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered: kernel beyond_the_end, block (0, 0, 0), thread (63, 0, 0): address 0x")]
    [InlineData("misaligned", 0, 32, "an access of type 'struct float4' to 0x")]
    [InlineData("outside_an_array", 1, 8, "EmulatedCardTests.cu:{line}: index 8 is outside of 'float [8]'")]
    [InlineData("beyond_shared", 256, 32, "CUDA_ERROR_ILLEGAL_ADDRESS")]
    [InlineData("stuck", 32, 64,
        "the block is stuck: 33 threads wait in __syncthreads (the first is (0, 0, 0)), 31 in a warp function whose other lanes never come (the first is (32, "
            + "0, 0))")]
    [InlineData("mixed", 1, 32, "the lanes of a warp meet in different warp functions or with different masks")]
    [InlineData("divided", 1, 32, "integer division by zero")]
    [InlineData("bounded", 1, 64, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES")]
    [InlineData("unwritten", 1, 2048, "a block of 2048 x 1 x 1 threads")]
    public void A_kernel_that_does_wrong_is_named(string kernel, int n, int threads, string text)
    {
        var card = Gpu;
        using var x = new FromDriver(card, 512);
        var error = Assert.Throws<KtNativeException>(() =>
        {
            Program.Kernel(card, kernel, "").Launch((1, 1, 1), threads, 1024, x.Address, n);
            card.Compute.Synchronize();
        });
        Assert.All(text.Split("{line}"), part => Assert.Contains(part, error.Message, StringComparison.Ordinal));
        Assert.Contains("[emulated card]", error.Message, StringComparison.Ordinal);
        Assert.Equal(new float[4], Tensor.Zeros(DType.F32, Device.Cuda(), 4).ToFloats()); // and the card goes on
    }

    [Fact]
    public unsafe void What_is_read_before_it_is_written_shows()
    {
        var card = Gpu;
        using var x = Tensor.Zeros(DType.F32, Device.Cuda(), 128);
        Program.Kernel(card, "unwritten", "").Launch(1, 64, x.Pointer, 1);
        Assert.All(x.ToFloats()[..64], v => Assert.True(float.IsNaN(v)));
        Assert.All(x.ToFloats()[64..], v => Assert.True(v is < -1e30f or float.NaN));
        using var fresh = new FromDriver(card, 1 << 16);
        var read = new float[1 << 14];
        fixed (float* to = read) card.Read(to, fresh.Address, 1 << 16);
        Assert.All(read, v => Assert.True(float.IsNaN(v)));
    }

    /// <summary>Threads run in both orders and copies happen early and late, so in a few blocks each shows.</summary>
    [Theory]
    [InlineData("without_a_barrier", 64)]
    [InlineData("without_a_wait", 128)]
    public void A_missing_barrier_or_wait_shows(string kernel, int width)
    {
        const int Blocks = 4;
        var card = Gpu;
        float[] ones = [.. Enumerable.Repeat(1f, 128)];
        using var host = Tensor.From(ones, 128);
        using var x = host.To(Device.Cuda());
        using var y = Tensor.Zeros(DType.F32, Device.Cuda(), Blocks, width);
        if (width == 64) Program.Kernel(card, kernel, "").Launch(Blocks, 64, y.Pointer, 1);
        else Program.Kernel(card, kernel, "").Launch(Blocks, 32, x.Pointer, y.Pointer);
        Assert.Contains(y.ToFloats(), float.IsNaN);
    }

    [Fact]
    public void Too_much_shared_memory_is_refused()
    {
        var card = Gpu;
        var kernel = Program.Kernel(card, "beyond_shared", "");
        var limit = (card.Architecture >= 90 ? 227 : card.Architecture == 80 ? 163 : 99) << 10;
        using var x = Tensor.Zeros(DType.F32, Device.Cuda(), 128);
        Assert.Contains("allowed are 49152", Assert.Throws<KtNativeException>(() => kernel.Launch((1, 1, 1), 32, (48 << 10) + 1, x.Pointer, 0)).Message,
            StringComparison.Ordinal);
        Assert.Contains($"at most {limit} are there", Assert.Throws<KtNativeException>(() => kernel.AllowShared(limit + 1)).Message, StringComparison.Ordinal);
        kernel.AllowShared(limit).Launch((1, 1, 1), 32, limit, x.Pointer, (limit / sizeof(float)) - 32);
        card.Compute.Synchronize();
    }

    [LibraryImport("libcuda.so.1")] private static partial int cuCtxDisablePeerAccess(nint context);

    [Fact]
    public unsafe void Another_cards_memory_is_out_of_reach()
    {
        var card = Gpu;
        if (CudaDevice.Count < 2) Assert.Skip("KT_EMULATED_CARDS is below 2");
        using var there = Tensor.Zeros(DType.F32, Device.Cuda(1), 128);
        using (there.To(Device.Cuda())) CudaDevice.Get(1).Compute.Synchronize();
        // That copy opened the way for kernels too.
        nint other;
        Driver.cuDevicePrimaryCtxRetain(&other, 1).Ok();
        card.Use();
        Assert.Equal(0, cuCtxDisablePeerAccess(other));
        var error = Assert.Throws<KtNativeException>(() =>
        {
            Program.Kernel(card, "bounded", "").Launch(1, 32, there.Pointer, 1);
            card.Compute.Synchronize();
        });
        Assert.Contains("into the allocation of cuda:1", error.Message, StringComparison.Ordinal);
        using var here = there.To(Device.Cuda());
        Assert.Equal(new float[128], here.ToFloats());
    }

    /// <summary>
    /// KT_EMULATED_STREAMS=lazy: a stream's work runs when something waits for it, so work of another stream that should wait for an event and does not
    /// comes too early.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_missing_event_shows(bool waits)
    {
        var card = Gpu;
        if (Environment.GetEnvironmentVariable("KT_EMULATED_STREAMS") != "lazy") Assert.Skip("KT_EMULATED_STREAMS is not lazy");
        using var x = Tensor.Zeros(DType.F32, Device.Cuda(), 1);
        card.Compute.Synchronize();
        using var pinned = new PinnedMemory(card, sizeof(float));
        Program.Kernel(card, "bounded", "").Launch(1, 32, x.Pointer, 3);
        using var written = new CudaEvent(card);
        written.Record(card.Compute);
        if (waits) card.Copies.Wait(written);
        unsafe
        {
            *(float*)pinned.Pointer = -1;
            Assert.Equal(0, (int)Driver.cuMemcpyDtoHAsync_v2((void*)pinned.Pointer, x.Pointer, sizeof(float), card.Copies.Pointer));
            card.Copies.Synchronize();
            Assert.Equal(waits ? 3 : 0, *(float*)pinned.Pointer);
        }
        Assert.Equal([3f], x.ToFloats());
    }

    /// <summary>Memory with nothing before and behind it: what the card's own pool gives may lie in a segment that earlier tests used.</summary>
    private sealed class FromDriver : IDisposable
    {
        private readonly CudaPool _pool;

        public FromDriver(CudaDevice card, long bytes)
        {
            _pool = new CudaPool(card) { Limit = bytes };
            Address = _pool.Allocate(bytes);
        }

        public nint Address { get; }

        public void Dispose()
        {
            _pool.Free(Address);
            _pool.Trim();
        }
    }
}
