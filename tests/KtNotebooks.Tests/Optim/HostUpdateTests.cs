using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>What an optimizer does behind the caller is not to be told from what it does at once.</summary>
[Trait("card", "cuda")]
public class HostUpdateTests
{
    private static readonly AdamWSettings Settings = new(WeightDecay: 0.1);

    /// <summary>Tensors of several chunks, with and without gradients, stepped again and again without a look in between.</summary>
    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void Pinned_parameters_end_with_the_bits_of_plain_ones(DType type)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        int[] sizes = [5, 3 * Chunks.Size + 7, 0, Chunks.Size, 40_000];
        float[] Values(int seed, int n) => [.. Enumerable.Range(0, n).Select(i => MathF.Sin((seed * 31) + i))];
        float[][] Run(bool pinned)
        {
            Parameter[] parameters = [.. sizes.Select((n, i) => new Parameter($"p{i}", Made(Values(i, n), type, pinned)))];
            using var optimizer = new AdamW(parameters, Settings);
            for (var s = 0; s < 5; s++)
            {
                for (var i = 0; i < sizes.Length; i++)
                    if (i != 3 || s % 2 == 0) parameters[i].Tensor.Grad = Made(Values(100 + s + i, sizes[i]), DType.F32, pinned);
                optimizer.Step(1e-2, 0.5);
                Assert.All(parameters, p => Assert.Null(p.Tensor.Grad));
            }
            float[][] all = [.. parameters.Select(p => p.Tensor.ToFloats()), .. optimizer.State.Select(m => m.Tensor.ToFloats())];
            foreach (var (_, tensor) in parameters) tensor.Dispose();
            return all;
        }
        Assert.Equal(Run(pinned: false), Run(pinned: true));
    }

    /// <summary>Whoever wants the memory, or frees it, waits for the work on it; what failed is heard there.</summary>
    [Fact]
    public async Task Memory_is_waited_for()
    {
        using var tensor = Tensor.From([1f, 2f], 2);
        var work = new PendingWork();
        tensor.Home.Buffer.Pending = work;
        var looks = Task.Run(() => tensor.ToFloats(), TestContext.Current.CancellationToken);
        await Task.Delay(50, TestContext.Current.CancellationToken);
        Assert.False(looks.IsCompleted);
        tensor.Home.Buffer.Settle(work);
        work.Finish();
        Assert.True((await looks).SequenceEqual(new float[] { 1, 2 }));

        var broken = new PendingWork();
        tensor.Home.Buffer.Pending = broken;
        broken.Finish(new IOException("the disk is full"));
        Assert.Equal("the disk is full", Assert.Throws<IOException>(() => tensor.ToFloats()).Message);
    }

    private static Tensor Made(float[] values, DType type, bool pinned)
    {
        using var plain = Tensor.From(values, type, values.Length);
        if (!pinned) return plain.Alias();
        var tensor = new Tensor(PinnedBuffer.Allocate(Device.Cuda(), Math.Max(1, plain.ByteLength)), 0, type, plain.Shape);
        Memory.Copy(plain, tensor);
        return tensor;
    }
}
