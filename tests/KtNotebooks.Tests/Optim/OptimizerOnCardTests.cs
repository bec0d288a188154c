using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>
/// The optimizer and the gradient norm of parameters on a card against the CPU's: many tensors of odd lengths, some at addresses that are not aligned, one
/// without a gradient, one empty.
/// </summary>
[Trait("card", "cuda")]
public class OptimizerOnCardTests
{
    private static readonly long[] Lengths = [1, 7, 4096, 0, Chunks.Size, Chunks.Size + 5, (2 * Chunks.Size) + 1, 33, 8];

    [Fact]
    public void Steps_on_a_card_give_the_bits_of_the_cpu()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var here = new Bench(_ => Device.Cpu);
        using var there = new Bench(_ => Device.Cuda());
        using var both = new Bench(i => i % 2 == 0 ? Device.Cpu : Device.Cuda());
        for (var step = 0; step < 4; step++)
            foreach (var bench in (Bench[])[here, there, both]) bench.Step(step);
        foreach (var bench in (Bench[])[there, both])
        {
            for (var i = 0; i < Lengths.Length; i++) Assert.Equal(here.Parameters[i].Tensor.ToFloats(), bench.Parameters[i].Tensor.ToFloats());
            foreach (var (expected, actual) in here.Optimizer.State.Zip(bench.Optimizer.State))
                Assert.Equal(expected.Tensor.ToFloats(), actual.Tensor.ToFloats());
        }
    }

    [Fact]
    public void The_norm_of_a_card_is_that_of_the_cpu_and_always_the_same()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var here = new Bench(_ => Device.Cpu);
        using var there = new Bench(_ => Device.Cuda());
        here.Gradients(5);
        there.Gradients(5);
        var (expected, actual) = (KtNotebooks.Optim.Gradients.Norm(here.Parameters), KtNotebooks.Optim.Gradients.Norm(there.Parameters));
        Assert.InRange(actual, expected * (1 - 1e-6), expected * (1 + 1e-6)); // squares are summed in F32 by pieces of 64 and 1024
        Assert.Equal(actual, KtNotebooks.Optim.Gradients.Norm(there.Parameters));
    }

    [Fact]
    public void Moments_of_a_card_are_saved_and_go_on_with_the_same_bits()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        using var straight = new Bench(_ => Device.Cuda());
        using var stopped = new Bench(_ => Device.Cuda());
        for (var step = 0; step < 2; step++)
        {
            straight.Step(step);
            stopped.Step(step);
        }
        Checkpoints.WriteOptimizer(folder.Path, stopped.Optimizer);
        using var resumed = new AdamW(stopped.Parameters, new AdamWSettings(WeightDecay: 0.1));
        Checkpoints.RestoreOptimizer(folder.Path, resumed, 2);
        for (var step = 2; step < 4; step++)
        {
            straight.Step(step);
            stopped.Step(step, resumed);
        }
        for (var i = 0; i < Lengths.Length; i++) Assert.Equal(straight.Parameters[i].Tensor.ToFloats(), stopped.Parameters[i].Tensor.ToFloats());
    }

    /// <summary>A set of parameters with their optimizer; values depend on the step and the parameter alone.</summary>
    private sealed class Bench : IDisposable
    {
        private readonly List<Tensor> _rooms = [];

        public Bench(Func<int, Device> where)
        {
            Parameters = [.. Lengths.Select((length, i) => new Parameter($"p{i}", Place(length, i, where(i))))];
            Optimizer = new AdamW(Parameters, new AdamWSettings(WeightDecay: 0.1));
        }

        public IReadOnlyList<Parameter> Parameters { get; }

        public AdamW Optimizer { get; }

        public void Gradients(int step)
        {
            for (var i = 0; i < Lengths.Length; i++)
            {
                if (i == step % Lengths.Length) continue; // none this time
                using var host = Values(1000 + (100 * step) + i, Lengths[i]);
                Parameters[i].Tensor.Grad = host.To(Parameters[i].Tensor.Device);
            }
        }

        public void Step(int step, AdamW? optimizer = null)
        {
            Gradients(step);
            (optimizer ?? Optimizer).Step(0.01 * (step + 1), 0.5);
            Assert.All(Parameters, p => Assert.Null(p.Tensor.Grad));
        }

        public void Dispose()
        {
            Optimizer.Dispose();
            foreach (var parameter in Parameters) parameter.Tensor.Dispose();
            foreach (var room in _rooms) room.Dispose();
        }

        /// <summary>Every third tensor begins one element into its memory.</summary>
        private Tensor Place(long length, int i, Device device)
        {
            using var host = Values(i, length + 1);
            var room = host.To(device);
            _rooms.Add(room);
            return room.Slice(i % 3 == 2 ? 1 : 0, length);
        }

        private static Tensor Values(int seed, long length)
        {
            var random = new Random(seed);
            return Tensor.From([.. Enumerable.Range(0, (int)length).Select(_ => (random.NextSingle() * 2) - 1)], length);
        }
    }
}
