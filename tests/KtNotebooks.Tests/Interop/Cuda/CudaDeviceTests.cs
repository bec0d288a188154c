using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

/// <summary>The driver layer on a card: memory, copies, compilation, streams.</summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // pool figures are the card's
public class CudaDeviceTests
{
    private static CudaDevice Gpu
    {
        get
        {
            Require.Hardware("cuda", CudaDevice.Missing);
            return CudaDevice.Get(0);
        }
    }

    [Fact]
    public void Without_a_card_the_reason_is_said()
    {
        if (CudaDevice.Missing is not { } missing)
        {
            Assert.Equal($"cuda:{CudaDevice.Count} cannot be used: the driver shows {CudaDevice.Count} card(s), numbered from 0",
                Assert.Throws<NotSupportedException>(() => CudaDevice.Get(CudaDevice.Count)).Message);
            return;
        }
        Assert.Equal($"cuda:0 cannot be used: {missing}", Assert.Throws<NotSupportedException>(() => Tensor.Empty(DType.F32, Device.Cuda(), 1)).Message);
    }

    [Fact]
    public void Blocks_never_overlap_and_what_is_freed_joins_again()
    {
        var pool = Gpu.Pool;
        pool.Trim();
        var (used, random) = (pool.UsedBytes, new Random(1));
        var blocks = new List<(nint Address, long Bytes)>();
        for (var i = 0; i < 4000; i++)
        {
            if (blocks.Count > 0 && random.Next(100) < 48)
            {
                var at = random.Next(blocks.Count);
                pool.Free(blocks[at].Address);
                blocks.RemoveAt(at);
                continue;
            }
            var bytes = random.Next(10) < 5 ? random.Next(1, 4000) : random.NextInt64(1, 5 << 20);
            var address = pool.Allocate(bytes);
            Assert.Equal(0, address % 512);
            Assert.DoesNotContain(blocks, b => address < b.Address + b.Bytes && b.Address < address + bytes);
            blocks.Add((address, bytes));
        }
        foreach (var (address, _) in blocks) pool.Free(address);
        Assert.Equal(used, pool.UsedBytes);
        var held = pool.HeldBytes;
        pool.Trim(); // all segments are whole again, or this would leave some
        Assert.True(pool.HeldBytes <= held && pool.HeldBytes < used + (64 << 20), $"{pool.HeldBytes:N0} bytes are held for {used:N0} in use");
    }

    [Fact]
    public void Bytes_come_back_as_they_went()
    {
        _ = Gpu;
        foreach (var count in (long[])[0, 1, 1000, 16384, 16385, 1 << 20]) // around the staging buffer
        {
            using var host = Tensor.Empty(DType.I32, count);
            for (var i = 0; i < count; i++) host.Span<int>()[i] = i * 7;
            using var there = host.To(Device.Cuda());
            using var copy = there.Clone();
            Assert.Equal(host.ToInts(), copy.ToInts());
            Memory.Clear(there);
            Assert.All(there.ToInts(), v => Assert.Equal(0, v));
        }
    }

    [Fact]
    public void Types_are_converted_as_on_the_cpu()
    {
        _ = Gpu;
        float[] values = [0, -0f, 1, 1 + (1 / 256f), 1 + (3 / 256f), 3.4e38f, float.PositiveInfinity, float.NaN, 1e-40f, -2.7182817f];
        using var host = Tensor.From(values, values.Length);
        using var narrowHost = host.To(DType.BF16);
        using var there = host.To(Device.Cuda());
        using var narrowThere = there.To(DType.BF16);
        using var wideThere = narrowThere.To(DType.F32);
        Assert.Equal(narrowHost.ToFloats(), narrowThere.ToFloats());
        Assert.Equal(narrowHost.ToFloats(), wideThere.ToFloats());
    }

    [Fact]
    public void A_freed_block_is_given_out_again()
    {
        var pool = Gpu.Pool;
        var first = pool.Allocate(100_000);
        pool.Free(first);
        var (held, asked) = (pool.HeldBytes, pool.DriverAllocations);
        for (var i = 0; i < 100; i++)
        {
            var again = pool.Allocate(99_000 + i);
            Assert.Equal(first, again);
            pool.Free(again);
        }
        Assert.Equal((held, asked), (pool.HeldBytes, pool.DriverAllocations));
    }

    [Fact]
    public void The_limit_says_what_did_not_fit()
    {
        var pool = Gpu.Pool;
        pool.Trim();
        pool.Limit = pool.HeldBytes + (1 << 20);
        try
        {
            var error = Assert.Throws<InsufficientMemoryException>(() => Tensor.Empty(DType.F32, Device.Cuda(), 1024, 1024));
            Assert.StartsWith("[Tensor] F32[1024, 1024]: cuda:0 has no room for 4 MiB: ", error.Message, StringComparison.Ordinal);
            Assert.Contains("gpu_memory_limit is ", error.Message, StringComparison.Ordinal);
            Assert.Contains("chunk_size", error.Message, StringComparison.Ordinal);
            using var fits = Tensor.Empty(DType.F32, Device.Cuda(), 1024, 128);
        }
        finally
        {
            pool.Limit = long.MaxValue;
        }
    }

    [Fact]
    public void More_than_the_card_has_is_an_error_and_not_the_end()
    {
        var card = Gpu;
        Assert.Throws<InsufficientMemoryException>(() => Tensor.Empty(DType.U8, Device.Cuda(), card.TotalBytes * 2));
        using var after = Tensor.Zeros(DType.F32, Device.Cuda(), 10);
        Assert.Equal(new float[10], after.ToFloats());
    }

    [Fact]
    public void A_source_that_does_not_compile_shows_log_and_numbered_lines()
    {
        var card = Gpu;
        var error = Assert.Throws<InvalidDataException>(() => new CudaProgram("Broken", "extern \"C\" __global__ void f() { frob; }").Kernel(card, "f", ""));
        Assert.StartsWith("Broken.cu does not compile (", error.Message, StringComparison.Ordinal);
        Assert.Contains("\"frob\" is undefined", error.Message, StringComparison.Ordinal);
        Assert.Matches(@"\d+  extern ""C"" __global__ void f\(\)", error.Message);
    }

    [Fact]
    public void A_kernel_that_is_not_there_is_named_by_the_driver()
    {
        var card = Gpu;
        var error = Assert.Throws<KtNotebooks.Interop.KtNativeException>(() =>
            new CudaProgram("Empty", "extern \"C\" __global__ void f() { }").Kernel(card, "g", ""));
        Assert.Contains("CUDA_ERROR_NOT_FOUND", error.Message, StringComparison.Ordinal);
        Assert.Contains("cuModuleGetFunction", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Any_thread_may_use_the_card()
    {
        _ = Gpu;
        using var x = Tensor.From([1f, 2, 3], 3);
        using var there = x.To(Device.Cuda());
        float[]? values = null;
        var thread = new Thread(() => values = there.ToFloats());
        thread.Start();
        thread.Join();
        Assert.Equal((float[])[1, 2, 3], Assert.IsType<float[]>(values));
    }

    /// <summary>What a training step needs: the second and later times ask the driver for no memory, compile nothing and choose no algorithm.</summary>
    [Fact]
    public void In_steady_state_nothing_is_made()
    {
        var card = Gpu;
        using var x = Tensor.Zeros(DType.BF16, Device.Cuda(), 70, 96);
        using var w = Tensor.Zeros(DType.BF16, Device.Cuda(), 48, 96);
        using var a = Tensor.Zeros(DType.F32, Device.Cuda(), 8, 96);
        using var b = Tensor.Zeros(DType.F32, Device.Cuda(), 48, 8);
        void Step()
        {
            using var tape = KtNotebooks.Autograd.Tape.Record();
            (x.RequiresGrad, a.RequiresGrad, b.RequiresGrad) = (true, true, true);
            var y = Linear.Apply(x, w, a, b, 2);
            using var dy = Tensor.Zeros(DType.BF16, Device.Cuda(), y.Shape);
            tape.Backward(y, dy);
            foreach (var t in (Tensor[])[x, a, b])
            {
                t.Grad!.Dispose();
                t.Grad = null;
            }
        }
        Step();
        Step();
        var before = (card.Pool.DriverAllocations, KernelCache.Default.Compilations, CudaMatmul.PlanCount, card.Pool.UsedBytes);
        for (var i = 0; i < 5; i++) Step();
        Assert.Equal(before, (card.Pool.DriverAllocations, KernelCache.Default.Compilations, CudaMatmul.PlanCount, card.Pool.UsedBytes));
    }
}
