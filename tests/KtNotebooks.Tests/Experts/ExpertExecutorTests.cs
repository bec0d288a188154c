using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>Where experts are computed changes nothing: streamed and resident banks give what an unplaced one gives, in every format; and the stream copies what its plan says, not more.</summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public class ExpertExecutorTests
{
    private const int E = 8, D = 64, I = 32, T = 40, K = 3;

    [Theory]
    [InlineData(MatrixFormat.BF16)]
    [InlineData(MatrixFormat.Fp8)]
    [InlineData(MatrixFormat.Int8)]
    [InlineData(MatrixFormat.Int4)]
    public void Every_executor_gives_the_same(MatrixFormat format)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var card = Device.Cuda();
        using var plain = Bank(format);
        var expected = Run(plain, Device.Cpu);
        using var executors = new ExpertExecutors();
        using var streamed = Bank(format);
        executors.Stream([streamed], card, 3 * streamed.ExpertBytes * 2);
        Assert.True(streamed.GroupVisits.Count() > 2);
        Close(expected, Run(streamed, card));
        Close(expected, Run(streamed, card)); // what the slots hold from the first time
        using var resident = Bank(format);
        ExpertExecutors.Keep([resident], card, DType.BF16);
        Close(expected, Run(resident, card));
        using var host = Bank(format);
        Close(expected, Run(host, Device.Cpu, rows: card)); // rows on the card, experts in host memory: there and back
    }

    [Fact]
    public void The_turn_from_forward_to_backward_copies_nothing_twice()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var executors = new ExpertExecutors();
        ExpertBank[] banks = [Bank(MatrixFormat.BF16, "a"), Bank(MatrixFormat.BF16, "b"), Bank(MatrixFormat.BF16, "c")];
        try
        {
            // Groups of two experts, four a bank, four slots: exactly one bank fits.
            executors.Stream(banks, Device.Cuda(), 8 * banks[0].ExpertBytes);
            var bank = banks[0].StoredBytes;
            for (var step = 0; step < 3; step++)
            {
                var before = executors.CopiedBytes;
                ExpertStreams.Plan([.. banks.Select(b => new BankVisit(b, false)), .. banks.Reverse().Select(b => new BankVisit(b, true))]);
                foreach (var b in banks) _ = Run(b, Device.Cuda(), gradient: false);
                foreach (var b in banks.Reverse()) _ = Run(b, Device.Cuda(), gradient: false, downwards: true);
                // Forward brings three banks, backward two more: it begins with what forward ended with; from the second step on forward begins with what backward ended with. Copies that the
                // plan of the next step starts early count for it.
                Assert.InRange(executors.CopiedBytes - before, 4 * bank, step == 0 ? 5 * bank : 4 * bank);
            }
        }
        finally
        {
            foreach (var b in banks) b.Dispose();
        }
    }

    [Fact]
    public void A_group_that_nobody_announced_is_brought_all_the_same()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var executors = new ExpertExecutors();
        using var a = Bank(MatrixFormat.BF16, "a");
        using var b = Bank(MatrixFormat.BF16, "b");
        using var plain = Bank(MatrixFormat.BF16, "b");
        var expected = Run(plain, Device.Cpu);
        executors.Stream([a, b], Device.Cuda(), 8 * a.ExpertBytes);
        ExpertStreams.Plan([new BankVisit(a, false), new BankVisit(a, true)]);
        Close(expected, Run(b, Device.Cuda()));
    }

    private static ExpertBank Bank(MatrixFormat format, string name = "bank") => new(new PatternWeights(Device.Cpu, format), $"model.layers.1.mlp.{name}", DType.BF16, E, D, I);

    /// <summary>y, dx and dweights of a bank for fixed rows and routes.</summary>
    private static float[][] Run(ExpertBank bank, Device device, bool gradient = true, bool downwards = false, Device? rows = null)
    {
        var random = new NormalRandom(5, "rows");
        var x = new float[T * D];
        random.Fill(x, 1);
        int[] indices = [.. Enumerable.Range(0, T * K).Select(i => ((i / K * 5) + (i % K * 2)) % E)];
        using var scope = Tape.Record();
        Tensor On(Tensor host) => host.To(rows ?? device);
        using var input = On(Tensor.From(x, DType.BF16, T, D));
        using var weights = On(Tensor.From([.. indices.Select(i => 0.1f + (0.05f * i))], T, K));
        using var chosen = On(Tensor.From(indices, T, K));
        (input.RequiresGrad, weights.RequiresGrad) = (gradient, gradient);
        if (downwards)
        {
            foreach (var visit in bank.GroupVisits.Reverse())
            {
                bank.Stream!.Open(visit);
                bank.Stream.Close(visit);
            }
            return [];
        }
        var y = bank.Forward(input, weights, chosen, new Pass([], [0]));
        var values = y.ToFloats();
        if (!gradient) return [values];
        using var dy = y.Clone();
        scope.Backward(y, dy);
        return [values, input.Grad!.ToFloats(), weights.Grad!.ToFloats()];
    }

    /// <summary>BF16 on both sides: within 1 % in the norm, the engine's promise for a BF16 output.</summary>
    private static void Close(float[][] expected, float[][] actual)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (var i = 0; i < expected.Length; i++)
        {
            var difference = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected[i].Sum(a => (double)a * a));
            Assert.True(difference < 0.01, $"result {i} differs by {difference:P2}");
        }
    }
}
