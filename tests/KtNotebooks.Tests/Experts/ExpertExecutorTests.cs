using KtNotebooks.Autograd;
using KtNotebooks.Bench;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Experts;

/// <summary>
/// Where experts are computed changes nothing: streamed and resident banks give what an unplaced one gives, in every format; and the stream copies what its
/// plan says, not more.
/// </summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public class ExpertExecutorTests
{
    private const int E = 8, D = 64, I = 32, T = 40, K = 3;

    [Theory]
    [InlineData("bf16")]
    [InlineData("fp8")]
    [InlineData("int8")]
    [InlineData("int4")]
    [InlineData("mxfp4")]
    public void Every_executor_gives_the_same(string formatName)
    {
        var format = StorageFormat.Parse(formatName);
        Require.Hardware("cuda", CudaDevice.Missing);
        var card = Device.Cuda();
        using var plain = Bank(format);
        var expected = Run(plain, Device.Cpu);
        using var executors = new ExpertExecutors();
        using var streamed = Bank(format);
        executors.Stream([streamed], card, 3 * streamed.ExpertBytes * 2);
        Assert.True(streamed.GroupVisits(T, backward: false).Count() > 2);
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
        ExpertBank[] banks = [Bank(StorageFormat.BF16, "a"), Bank(StorageFormat.BF16, "b"), Bank(StorageFormat.BF16, "c")];
        try
        {
            // Groups of two experts, four a bank, four slots: exactly one bank fits.
            executors.Stream(banks, Device.Cuda(), 8 * banks[0].ExpertBytes);
            var bank = banks[0].StoredBytes;
            for (var step = 0; step < 3; step++)
            {
                var before = executors.CopiedBytes;
                ExpertStreams.Plan([.. banks.Select(b => new BankVisit(b, false, T)), .. banks.Reverse().Select(b => new BankVisit(b, true, T))],
                    TestContext.Current.CancellationToken);
                foreach (var b in banks) _ = Run(b, Device.Cuda(), gradient: false);
                foreach (var b in banks.Reverse()) _ = Run(b, Device.Cuda(), gradient: false, downwards: true);
                // Forward brings three banks, backward two more: it begins with what forward ended with; from the second step on forward begins with what
                // backward ended with. Copies that the plan of the next step starts early count for it.
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
        using var a = Bank(StorageFormat.BF16, "a");
        using var b = Bank(StorageFormat.BF16, "b");
        using var plain = Bank(StorageFormat.BF16, "b");
        var expected = Run(plain, Device.Cpu);
        executors.Stream([a, b], Device.Cuda(), 8 * a.ExpertBytes);
        ExpertStreams.Plan([new BankVisit(a, false, T), new BankVisit(a, true, T)], TestContext.Current.CancellationToken);
        Close(expected, Run(b, Device.Cuda()));
    }

    [Fact]
    public void A_pass_without_gradients_brings_each_group_once_and_a_token_only_what_it_opens()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var executors = new ExpertExecutors();
        using var bank = Bank(StorageFormat.BF16);
        executors.Stream([bank], Device.Cuda(), 4 * bank.ExpertBytes);
        ExpertStreams.Plan([bank], T);
        Assert.InRange(executors.CopiedBytes, 1, bank.StoredBytes - 1); // as far as there are slots
        _ = Run(bank, Device.Cuda(), gradient: false);
        Assert.Equal(bank.StoredBytes, executors.CopiedBytes);
        ExpertStreams.Plan([bank], 1);
        Assert.Equal(bank.StoredBytes, executors.CopiedBytes);
    }

    [Theory]
    [InlineData("bf16", 0)]
    [InlineData("bf16", 0.3)]
    [InlineData("int4", 0.3)]
    public void What_the_CPU_takes_of_a_visit_changes_nothing(string formatName, double dropout)
    {
        var format = StorageFormat.Parse(formatName);
        Require.Hardware("cuda", CudaDevice.Missing);
        using var plain = Bank(format);
        plain.Adapter = Lora(plain, dropout);
        var expected = Run(plain, Device.Cpu);
        var shares = new HashSet<int>();
        foreach (var speed in (double[])[1e-6, 0.15, 0.4, 1, 3, 1e6])
        {
            using var executors = new ExpertExecutors();
            using var bank = Bank(format);
            // Rates at which bytes alone count: the CPU so much faster than the bus.
            executors.Split([bank], Device.Cuda(), 6 * bank.ExpertBytes, new ExpertCosts(1e6, speed * 1e6, 1e18, 1e18));
            shares.Add(bank.GroupVisits(T, backward: false).Count());
            bank.Adapter = Lora(bank, dropout);
            Close(expected, Run(bank, Device.Cuda()));
            Close(expected, Run(bank, Device.Cuda(), twice: true), times: 2);
        }
        Assert.Contains(0, shares);
        Assert.Contains(E, shares);
        Assert.True(shares.Count > 3, string.Join(" ", shares));
    }

    /// <summary>
    /// Few tokens leave experts without a row: all of the CPU's share, or some on both sides. Their gradients are zeros, not what was in the memory.
    /// </summary>
    [Theory]
    [InlineData(0, 1)]
    [InlineData(6, 1)]
    [InlineData(1, 5)]
    public void Experts_without_rows_on_either_side_have_no_gradient(int first, int second)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var plain = Bank(StorageFormat.BF16);
        plain.Adapter = Lora(plain, 0);
        using var executors = new ExpertExecutors();
        using var bank = Bank(StorageFormat.BF16);
        executors.Split([bank], Device.Cuda(), 6 * bank.ExpertBytes, new ExpertCosts(1e3, 1e3, 1e18, 1e18));
        bank.Adapter = Lora(bank, 0);
        Assert.InRange(bank.GroupVisits(2, backward: false).Count(), 1, E - 1);
        int[] indices = [first, second, 7, first, second, 7];
        if (first == 0) indices = [5, 6, 7, 5, 6, 7];
        var (expected, actual) = (Run(plain, Device.Cpu, indices: indices), Run(bank, Device.Cuda(), indices: indices));
        Close(expected, actual);
        for (var e = 0; e < E; e++)
            if (!indices.Contains(e)) Assert.All(actual[3..],
                gradient => Assert.All(gradient[(gradient.Length / E * e)..(gradient.Length / E * (e + 1))], v => Assert.Equal(0, v)));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Pairs_in_host_memory_train_like_pairs_on_the_card(bool streamed)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var plain = Bank(StorageFormat.BF16);
        plain.Adapter = Lora(plain, 0);
        using var executors = new ExpertExecutors();
        using var bank = Bank(StorageFormat.BF16);
        if (streamed) executors.Stream([bank], Device.Cuda(), 6 * bank.ExpertBytes);
        else ExpertExecutors.Keep([bank], Device.Cuda(), DType.BF16);
        bank.LoraOnHost = true;
        bank.Adapter = Lora(bank, 0);
        Assert.All(bank.Trainable, p => Assert.True(p.Tensor.IsPinned));
        Close(Run(plain, Device.Cpu), Run(bank, Device.Cuda()));
        Close(Run(plain, Device.Cpu), Run(bank, Device.Cuda(), twice: true), times: 2);
    }

    [Fact]
    public void The_CPU_takes_single_tokens_and_leaves_large_windows()
    {
        var groups = Enumerable.Range(0, 16).Select(g => new ExpertGroup(4 * g, 4)).ToList();
        var costs = new ExpertCosts(50e9, 150e9, 2e12, 5e14);
        const long Bytes = 3L * 2048 * 1408 * 2;
        int Of(long tokens, bool backward = false) => costs.HostGroups(groups, Bytes, Bytes / 2, 6 * tokens, backward);
        Assert.Equal(16, Of(1));
        Assert.Equal(0, Of(8192));
        Assert.Equal(0, Of(0));
        // 12.1 ms over the bus against 7.4 ms of the CPU's memory or 26 µs a row and expert of its products: both in turn are the slower side.
        for (long tokens = 2; tokens <= 8192; tokens *= 2)
        {
            Assert.InRange(Of(tokens), 0, Of(tokens / 2));
            Assert.InRange(Of(tokens, backward: true), 0, Of(tokens)); // five products instead of three
        }
        Assert.Contains(Enumerable.Range(1, 512), t => Of(t) is > 0 and < 16);
    }

    private static ExpertLora Lora(ExpertBank bank, double dropout)
    {
        Tensor Of(string name, params ReadOnlySpan<long> shape)
        {
            var pair = bank.EmptyLora(shape);
            using var host = Tensor.Empty(DType.F32, shape);
            new NormalRandom(7, name).Fill(host.Span<float>(), 0.1f);
            Memory.Copy(host, pair);
            pair.RequiresGrad = true;
            return pair;
        }
        const int R = 4;
        return new ExpertLora(Of("ga", E, R, D), Of("gb", E, I, R), Of("ua", E, R, D), Of("ub", E, I, R), Of("da", E, R, I), Of("db", E, D, R), 2,
            (float)dropout);
    }

    private static ExpertBank Bank(StorageFormat format, string name = "bank") =>
        new(new PatternWeights(Device.Cpu, format), ExpertNames.Each($"model.layers.1.mlp.{name}"), DType.BF16, E, D, I) { TopK = K };

    /// <summary>y, dx, dweights and the gradients of the pairs of a bank for fixed rows and routes.</summary>
    private static float[][] Run(ExpertBank bank, Device device, bool gradient = true, bool downwards = false, Device? rows = null, bool twice = false,
        int[]? indices = null)
    {
        var random = new NormalRandom(5, "rows");
        indices ??= [.. Enumerable.Range(0, T * K).Select(i => ((i / K * 5) + (i % K * 2)) % E)];
        var tokens = indices.Length / K;
        var x = new float[tokens * D];
        random.Fill(x, 1);
        using var scope = Tape.Record();
        Tensor On(Tensor host) => host.To(rows ?? device);
        using var input = On(Tensor.From(x, DType.BF16, tokens, D));
        using var weights = On(Tensor.From([.. indices.Select(i => 0.1f + (0.05f * i))], tokens, K));
        using var chosen = On(Tensor.From(indices, tokens, K));
        (input.RequiresGrad, weights.RequiresGrad) = (gradient, gradient);
        if (downwards)
        {
            foreach (var visit in bank.GroupVisits(T, backward: true).Reverse())
            {
                bank.Stream!.Open(visit);
                bank.Stream.Close(visit);
            }
            return [];
        }
        var pass = new Pass([], [0], DropoutKey: 11, Training: true);
        var y = bank.Forward(input, weights, chosen, pass);
        var values = y.ToFloats();
        if (!gradient) return [values];
        using var dy = y.Clone();
        scope.Backward(y, dy);
        if (twice)
        {
            using var again = Tape.Record();
            again.Backward(bank.Forward(input, weights, chosen, pass with { ValueUnused = true }), dy);
        }
        float[][] gradients = [values, input.Grad!.ToFloats(), weights.Grad!.ToFloats(), .. bank.Trainable.Select(p => p.Tensor.Grad!.ToFloats())];
        foreach (var (_, tensor) in bank.Trainable)
        {
            tensor.Grad!.Dispose();
            tensor.Grad = null;
        }
        return gradients;
    }

    /// <summary>
    /// BF16 on both sides: within 1 % in the norm, the engine's promise for a BF16 output; 2 % for the pairs' gradients, between whose two roundings a card
    /// rounds the pairs too.
    /// </summary>
    /// <param name="times">How often the gradients were added up.</param>
    private static void Close(float[][] expected, float[][] actual, int times = 1)
    {
        Assert.Equal(expected.Length, actual.Length);
        for (var i = 0; i < expected.Length; i++)
        {
            var factor = i == 0 ? 1 : times;
            var difference = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => Math.Pow(((double)a * factor) - b, 2))
                .Sum() / (factor * factor) / expected[i].Sum(a => (double)a * a));
            Assert.True(difference < (i < 3 ? 0.01 : 0.02), $"result {i} differs by {difference:P2}");
        }
    }
}
