using KtNotebooks.Experts;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>
/// The layer-major step: chunking and packing change nothing but rounding, dropout's recomputed forward is the first one, and nothing stays behind.
/// </summary>
[Collection("cpu variant")]
public class LayerMajorStepTests
{
    private const double F32 = 1.0 / (1 << 23);
    private static readonly int[] Lengths = [5, 11, 1, 30, 8, 2];

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1, 1)]
    [InlineData(7, 3)]
    [InlineData(16, 5)]
    [InlineData(57, 56)]
    public void Chunks_change_neither_loss_nor_gradients(int chunkRows, int headRows)
    {
        using var model = Tiny.WithAdapter(dropout: 0.2);
        var batch = Tiny.Batch(1, Lengths);
        var (loss, whole) = Run(model, batch, new LayerMajorStep(model), key: 9);
        var (inChunks, parts) = Run(model, batch, new LayerMajorStep(model, chunkRows, headRows), key: 9);
        Close(loss, inChunks, batch.Tokens);
        Close(whole, parts, batch.Tokens);
    }

    [Fact]
    public void The_same_step_gives_the_same_bits()
    {
        using var model = Tiny.WithAdapter(DType.BF16, dropout: 0.1);
        var step = new LayerMajorStep(model, 16, 8);
        var first = Run(model, Tiny.Batch(1, Lengths), step, key: 5);
        var second = Run(model, Tiny.Batch(1, Lengths), step, key: 5);
        Assert.Equal(first.Loss, second.Loss);
        foreach (var (name, values) in first.Gradients) Assert.Equal(values, second.Gradients[name]);
    }

    /// <summary>Kept activations are those that would be computed again, they are not computed twice, and none stays behind.</summary>
    [Theory]
    [InlineData(DType.F32, 0.1, 1)]
    [InlineData(DType.BF16, 0.1, 1)]
    [InlineData(DType.F32, 0.1, 12)]
    [InlineData(DType.BF16, 0.1, 12)]
    [InlineData(DType.BF16, 0, 12)]
    public void Kept_activations_of_experts_change_no_bit(DType type, double dropout, int times)
    {
        using var model = Tiny.WithAdapter(type, dropout);
        var batch = Tiny.Batch(1, [.. Enumerable.Repeat(Lengths, times).SelectMany(l => l)]); // twelve times: experts have more rows than dot products take
        var chunk = times == 1 ? 16 : 512;
        var again = Run(model, batch, new LayerMajorStep(model, chunk, 8), key: 5);
        var before = Tiny.Alive();
        var kept = Run(model, batch, new LayerMajorStep(model, chunk, 8) { KeepsActivations = true }, key: 5);
        Assert.Equal(before, Tiny.Alive());
        Assert.Equal(again.Loss, kept.Loss);
        foreach (var (name, values) in again.Gradients) Assert.Equal(values, kept.Gradients[name]);

        using var states = new KeptStates();
        var work = new StageWork(model, 16, 8) { Kept = states };
        var stage = Enumerable.Range(0, work.Devices.Count).First(i => work.KindOf(i) == StepWork.Experts);
        var part = new WindowPart(0, 0, batch.Tokens);
        using var x = Tensor.From([.. Enumerable.Range(0, batch.Tokens * model.Info.Width).Select(i => (i % 7) - 3f)], type, batch.Tokens, model.Info.Width);
        using var y = work.Forward(stage, x, batch, part, 5, Stop);
        Assert.Equal((batch.Tokens + 15) / 16, states.Count);
        using var dx = work.Backward(stage, x, y, batch, part, 5, Stop);
        Assert.Equal(0, states.Count);
        Tiny.DropGradients(model);
    }

    [Fact]
    public void A_window_is_the_sum_of_its_micro_batches()
    {
        using var model = Tiny.WithAdapter();
        var batch = Tiny.Batch(2, Lengths);
        var step = new LayerMajorStep(model);
        var (loss, whole) = Run(model, batch, step);
        var sum = step.Run(batch.Sequence(0, 2), cancel: Stop) + step.Run(batch.Sequence(2, 3), cancel: Stop) + step.Run(batch.Sequence(3, 6), cancel: Stop);
        Close(loss, sum, batch.Tokens);
        Close(whole, Tiny.TakeGradients(model), batch.Tokens);
    }

    [Fact]
    public void The_loss_without_gradients_is_the_loss_of_the_step()
    {
        using var model = Tiny.WithAdapter(dropout: 0.5);
        var batch = Tiny.Batch(3, Lengths);
        var plain = new LayerMajorStep(model).Loss(batch, Stop);
        Assert.NotEqual(plain, Run(model, batch, new LayerMajorStep(model)).Loss, 1e-4); // with dropout it is another
        foreach (var linear in model.All().OfType<KtNotebooks.Nn.Linear>().Where(l => l.Adapter is not null))
            linear.Adapter = linear.Adapter! with { Dropout = 0 };
        foreach (var bank in model.All().OfType<ExpertBank>()) WithoutDropout(bank);
        Close(plain, Run(model, batch, new LayerMajorStep(model)).Loss, batch.Tokens);
        Close(plain, new LayerMajorStep(model, 6, 4).Loss(batch, Stop), batch.Tokens);
    }

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void Packed_sequences_do_not_see_each_other(DType type)
    {
        using var model = Tiny.WithAdapter(type);
        int[] first = [.. Enumerable.Range(3, 9)], second = [.. Enumerable.Range(40, 14)], other = [.. Enumerable.Range(200, 9)];
        var packed = Logits(model, first, second);
        // Not the same bits: other tokens choose other experts, so a row may stand elsewhere in a kernel's tile.
        Close(packed[(9 * Tiny.Vocabulary)..], Logits(model, other, second)[(9 * Tiny.Vocabulary)..], 14, type);
        Close(Logits(model, second), packed[(9 * Tiny.Vocabulary)..], 14, type);
        Close(Logits(model, first), packed[..(9 * Tiny.Vocabulary)], 9, type);
    }

    [Fact]
    public void No_row_sees_a_later_one()
    {
        using var model = Tiny.WithAdapter();
        int[] ids = [.. Enumerable.Range(3, 20)], changed = [.. ids];
        changed[12] = 400;
        var (a, b) = (Logits(model, ids), Logits(model, changed));
        Close(a[..(12 * Tiny.Vocabulary)], b[..(12 * Tiny.Vocabulary)], 20);
        for (var row = 12; row < 20; row++)
            Assert.NotEqual(a[(row * Tiny.Vocabulary)..((row + 1) * Tiny.Vocabulary)], b[(row * Tiny.Vocabulary)..((row + 1) * Tiny.Vocabulary)]);
    }

    [Fact]
    public void Dropout_is_decided_by_its_key()
    {
        using var model = Tiny.WithAdapter(dropout: 0.3);
        var batch = Tiny.Batch(4, Lengths);
        var step = new LayerMajorStep(model);
        var one = Run(model, batch, step, key: 1);
        Assert.Equal(one.Loss, Run(model, batch, step, key: 1).Loss);
        Assert.NotEqual(one.Loss, Run(model, batch, step, key: 2).Loss, 1e-4);
    }

    [Fact]
    public void An_adapter_on_the_head_has_masks_of_its_own_too()
    {
        using var model = Tiny.Build();
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Dropout: 0.4, Target: ["lm_head"]));
        model.Head.Adapter!.B.Store([.. Enumerable.Range(0, 3 * Tiny.Vocabulary).Select(i => (i % 7) - 3f)]);
        var batch = Tiny.Batch(4, Lengths);
        var (loss, whole) = Run(model, batch, new LayerMajorStep(model), key: 1);
        var (inChunks, parts) = Run(model, batch, new LayerMajorStep(model, 16, 5), key: 1);
        Close(loss, inChunks, batch.Tokens);
        Close(whole, parts, batch.Tokens);
        Assert.NotEqual(loss, Run(model, batch, new LayerMajorStep(model), key: 2).Loss, 1e-4);
    }

    /// <summary>
    /// The gradient is the slope of the loss that forward computed. If backward recomputed a layer under another mask, they would differ by the share of
    /// dropped elements.
    /// </summary>
    [Theory]
    [InlineData(0)]
    [InlineData(0.4)]
    public void With_dropout_the_gradient_is_still_the_slope(double dropout)
    {
        using var model = Tiny.WithAdapter(dropout: dropout, chosen: Tiny.Experts); // no token changes its experts on the way
        var batch = Tiny.Batch(5, Lengths);
        var step = new LayerMajorStep(model, 16);
        var gradients = Run(model, batch, step, key: 3).Gradients;
        var slope = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        const double H = 0.002;
        double Along(double t)
        {
            Move(model, gradients, t / slope);
            var loss = Run(model, batch, step, key: 3).Loss;
            Move(model, gradients, -t / slope);
            return loss;
        }
        var difference = (Along(H) - Along(-H)) / (2 * H);
        // The loss carries some 1e-6 of rounding, divided by 2 H; the curvature's part is of the order H².
        Assert.InRange(difference, slope - (0.005 * slope) - 1e-3, slope + (0.005 * slope) + 1e-3);
    }

    [Fact]
    public void A_step_leaves_only_gradients_and_a_model_leaves_nothing()
    {
        using (var warm = Tiny.WithAdapter()) Run(warm, Tiny.Batch(1, Lengths), new LayerMajorStep(warm));
        var before = Tiny.Alive();
        using (var model = Tiny.WithAdapter(dropout: 0.1))
        {
            var step = new LayerMajorStep(model, 16, 8);
            var made = Tiny.Alive();
            for (var i = 0; i < 3; i++)
            {
                step.Run(Tiny.Batch(i, Lengths), cancel: Stop);
                Assert.Equal(made.Count + model.AllTrainable.Count, KtNotebooks.Tensors.Buffer.AliveCount);
                Tiny.DropGradients(model);
                step.Loss(Tiny.Batch(i, Lengths), Stop);
                Assert.Equal(made, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
            }
        }
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
    }

    /// <summary>Stopped in the forward or in the backward pass of the second layer's experts.</summary>
    [Theory]
    [InlineData(2)]
    [InlineData(14)]
    public void An_interrupt_leaves_the_weights_alone_and_no_buffers_behind(int call)
    {
        using var model = Tiny.WithAdapter();
        var step = new LayerMajorStep(model, 8);
        Run(model, Tiny.Batch(1, Lengths), step);
        var weights = model.AllTrainable.ToDictionary(p => p.Name, p => p.Tensor.ToFloats());
        var before = Tiny.Alive();
        using var stop = new CancellationTokenSource();
        var calls = 0;
        foreach (var moe in model.All().OfType<MoeMlp>())
            moe.OnRouted = (_, _) =>
            {
                if (++calls == call) stop.Cancel();
            };
        Assert.ThrowsAny<OperationCanceledException>(() => step.Run(Tiny.Batch(1, Lengths), cancel: stop.Token));
        Assert.Equal(call, calls);
        Tiny.DropGradients(model);
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
        foreach (var (name, tensor) in model.AllTrainable) Assert.Equal(weights[name], tensor.ToFloats());
    }

    [Fact]
    public void All_weights_can_be_trained()
    {
        using var model = Tiny.Build();
        model.Unfreeze();
        var batch = Tiny.Batch(6, Lengths);
        var (loss, whole) = Run(model, batch, new LayerMajorStep(model));
        Assert.All(whole, g => Assert.Contains(g.Value, v => v != 0));
        var (inChunks, parts) = Run(model, batch, new LayerMajorStep(model, 9, 4));
        Close(loss, inChunks, batch.Tokens);
        Close(whole, parts, batch.Tokens);
    }

    private static (double Loss, Dictionary<string, float[]> Gradients) Run(CausalLm model, TokenBatch batch, LayerMajorStep step, ulong key = 0)
    {
        var loss = step.Run(batch, key);
        return (loss, Tiny.TakeGradients(model));
    }

    private static float[] Logits(CausalLm model, params int[][] sequences)
    {
        using var logits = model.Logits(TokenBatch.ForInference(sequences));
        return logits.ToFloats();
    }

    private static void Move(CausalLm model, Dictionary<string, float[]> direction, double t)
    {
        foreach (var (name, tensor) in model.AllTrainable) tensor.Store([.. tensor.ToFloats().Zip(direction[name], (w, d) => (float)(w + (t * d)))]);
    }

    private static void WithoutDropout(ExpertBank bank)
    {
        var l = bank.Adapter!;
        bank.Adapter = l with
        {
            GateA = l.GateA.Alias(),
            GateB = l.GateB.Alias(),
            UpA = l.UpA.Alias(),
            UpB = l.UpB.Alias(),
            DownA = l.DownA.Alias(),
            DownB = l.DownB.Alias(),
            Dropout = 0,
        };
    }

    private static void Close(double expected, double actual, int rows) => Assert.InRange(actual, expected * (1 - (rows * F32)), expected * (1 + (rows * F32)));

    private static void Close(Dictionary<string, float[]> expected, Dictionary<string, float[]> actual, int rows)
    {
        Assert.Equal(expected.Keys, actual.Keys);
        foreach (var (name, values) in expected) Close(values, actual[name], rows, name: name);
    }

    /// <summary>
    /// Sums over rows in another order, of numbers that went through sums of up to V terms: (rows + V) roundings of the largest. BF16 activations are
    /// rounded some eight times a layer.
    /// </summary>
    private static void Close(float[] expected, float[] actual, int rows, DType type = DType.F32, string name = "logits")
    {
        Assert.Equal(expected.Length, actual.Length);
        var limit = expected.Max(Math.Abs) * (type == DType.F32 ? (rows + Tiny.Vocabulary) * F32 : 3 * 8 / 256.0);
        for (var i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - actual[i]) <= limit, $"{name}[{i}] is {actual[i]}, expected {expected[i]} within {limit}");
    }
}
