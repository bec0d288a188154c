using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Experts;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>
/// A step over several cards computes what it computes on one, the cards work at the same time, and whatever happens in one thread ends the others.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // buffers are counted, and cards are full
public sealed class SeveralCardsTests : IDisposable
{
    private const int Layers = 5; // the first is dense
    private const double F32 = 1.0 / (1 << 23);
    private static readonly int[] Lengths = [5, 11, 1, 30, 8, 2];

    private readonly Samples.Folder _folder = new();

    public SeveralCardsTests() => Tiny.Save(Path.Combine(_folder.Path, "model"),
        change: config => config.Replace("\"num_hidden_layers\": 3", $"\"num_hidden_layers\": {Layers}", StringComparison.Ordinal));

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData(2, false, ExecutorKind.Resident, null)]
    [InlineData(2, false, ExecutorKind.Streamed, null)]
    [InlineData(2, false, ExecutorKind.Cpu, null)]
    [InlineData(2, false, ExecutorKind.Split, null)]
    [InlineData(2, true, ExecutorKind.Resident, null)]
    [InlineData(2, true, ExecutorKind.Streamed, null)]
    [InlineData(2, false, ExecutorKind.Streamed, 1)]
    [InlineData(2, false, ExecutorKind.Streamed, 5)]
    [InlineData(4, false, ExecutorKind.Streamed, null)]
    [InlineData(4, false, ExecutorKind.Resident, null)]
    [InlineData(4, true, ExecutorKind.Cpu, 3)]
    public void Several_cards_give_what_one_gives(int cards, bool contiguous, ExecutorKind experts, int? parts)
    {
        Need(cards);
        var batch = Tiny.Batch(1, Lengths);
        using var host = Load(new PlacementSettings { Device = "cpu" });
        using var one = Load(new PlacementSettings { Device = "cuda:0", Experts = experts });
        using var several = Load(Over(cards, contiguous, experts));
        Assert.Equal(cards, several.Stages.Select(s => s.Device).Distinct().Count());
        var expected = Run(one, batch, new LayerMajorStep(one));
        var step = new LayerMajorStep(several, 16, 5, savedBytes: _ => 0, parts);
        var actual = Run(several, batch, step);
        Close(Run(host, batch, new LayerMajorStep(host)), actual, batch.Tokens);
        Close(expected, actual, batch.Tokens);
        // The same work in the same order, however the threads were mixed.
        var again = Run(several, batch, step);
        Assert.Equal(actual.Loss, again.Loss);
        foreach (var (name, values) in actual.Gradients) Assert.Equal(values, again.Gradients[name]);
    }

    /// <summary>Layers on the CPU between layers on cards, and a head that is not where the last layer is.</summary>
    [Theory]
    [InlineData(null)]
    [InlineData(1)]
    public void Layers_may_lie_anywhere(int? parts)
    {
        Need(2);
        var batch = Tiny.Batch(1, Lengths);
        using var one = Load(new PlacementSettings { Device = "cuda:0", Experts = ExecutorKind.Cpu });
        var rules = PlacementRules.Load(_folder.Write("rules.yaml", """
            - match: { name: 'layers\.2(\.|$)|embed_tokens' }
              place: { compute: cpu }
            - match: { name: 'layers\.[14](\.|$)' }
              place: { compute: 'cuda:1' }
            - match: { name: . }
              place: { compute: 'cuda:0' }
            """));
        using var several = Load(new PlacementSettings { Rules = rules });
        Assert.Equal([Device.Cuda(0), Device.Cuda(1), Device.Cpu, Device.Cuda(0), Device.Cuda(1)], several.Stages.Where(s => s.NeedsWholeSequences)
            .Select(s => s.Device));
        Assert.Equal(Device.Cuda(0), several.Head.Device);
        Close(Run(one, batch, new LayerMajorStep(one)), Run(several, batch, new LayerMajorStep(several, parts: parts)), batch.Tokens);
    }

    /// <summary>
    /// Not by the clock: card 0 holds the second part in layer 0 until card 1 has begun the first part in layer 1, and card 1 holds that until card 0 has
    /// begun. Then the same on the way back, in layers 4 and 3. Cards that took turns would wait for ever.
    /// </summary>
    /// <summary>Pairs of sequences whose weights come from their log-probabilities, which each card has for its part of the window alone.</summary>
    [Theory]
    [InlineData(ExecutorKind.Resident)]
    [InlineData(ExecutorKind.Streamed)]
    public void Several_cards_weigh_pairs_as_one_does(ExecutorKind experts)
    {
        Need(2);
        var (batch, objective) = (Tiny.Batch(1, Lengths), new DpoObjective(new PreferenceSettings(Beta: 0.5, Smoothing: 0.1, Supervised: 0.2)));
        using var host = Load(new PlacementSettings { Device = "cpu" });
        using var several = Load(Over(2, contiguous: false, experts));
        var expected = Run(host, batch, new LayerMajorStep(host) { Objective = objective });
        Close(expected, Run(several, batch, new LayerMajorStep(several, 16, 5, savedBytes: _ => 0) { Objective = objective }), batch.Tokens);
    }

    [Fact]
    public void Two_cards_work_at_once()
    {
        Need(2);
        using var model = Load(Over(2, contiguous: false, ExecutorKind.Streamed));
        Meeting forward = new(), backward = new();
        HashSet<(int Stage, int Part)> seen = [];
        Dictionary<Device, HashSet<int>> threads = new() { [Device.Cuda(0)] = [], [Device.Cuda(1)] = [] };
        var step = new LayerMajorStep(model)
        {
            OnPart = mark =>
            {
                if (mark.Stage < 0) return;
                bool first;
                lock (seen) first = seen.Add((mark.Stage, mark.Part));
                lock (threads) threads[mark.Device].Add(Environment.CurrentManagedThreadId);
                switch (mark.Layer, mark.Part, first)
                {
                    case (0, 1, true): forward.Come(0); break;
                    case (1, 0, true): forward.Come(1); break;
                    case (4, 1, true): backward.Come(0); break;
                    case (3, 0, false): backward.Come(1); break;
                }
            },
        };
        step.Run(Tiny.Batch(1, Lengths), cancel: Stop);
        Tiny.DropGradients(model);
        Assert.Equal((2, 2), (forward.Came, backward.Came));
        Assert.All(threads.Values, of => Assert.Single(of));
        Assert.Equal(2, threads.Values.SelectMany(of => of).Append(Environment.CurrentManagedThreadId).Distinct().Count() - 1);
    }

    [Fact]
    public void A_step_of_one_part_needs_no_thread()
    {
        Need(2);
        using var model = Load(Over(2, contiguous: false, ExecutorKind.Resident));
        HashSet<int> threads = [];
        new LayerMajorStep(model, parts: 1) { OnPart = _ => threads.Add(Environment.CurrentManagedThreadId) }.Run(Tiny.Batch(1, Lengths), cancel: Stop);
        Tiny.DropGradients(model);
        Assert.Equal([Environment.CurrentManagedThreadId], threads);
    }

    /// <summary>In the forward and in the backward pass of either card's experts.</summary>
    [Theory]
    [InlineData(1, 1, false)]
    [InlineData(1, 3, false)]
    [InlineData(2, 1, false)]
    [InlineData(2, 4, false)]
    [InlineData(1, 1, true)]
    [InlineData(1, 3, true)]
    [InlineData(2, 4, true)]
    public void What_ends_one_thread_ends_the_step_and_leaves_nothing_behind(int layer, int call, bool cancels)
    {
        Need(2);
        using var model = Load(Over(2, contiguous: false, ExecutorKind.Streamed));
        var (batch, step) = (Tiny.Batch(1, Lengths), new LayerMajorStep(model, savedBytes: _ => 0));
        var expected = Run(model, batch, step);
        var before = Tiny.Alive();
        var calls = 0;
        using var stop = new CancellationTokenSource();
        var moe = model.All().OfType<MoeMlp>().Single(m => m.Path == $"model.layers.{layer}.mlp");
        moe.OnRouted = (_, _) =>
        {
            if (++calls != call) return;
            if (!cancels) throw new InvalidDataException("the picture cannot be drawn");
            stop.Cancel();
        };
        if (cancels) Assert.ThrowsAny<OperationCanceledException>(() => step.Run(batch, 7, stop.Token));
        else Assert.Equal("the picture cannot be drawn", Assert.Throws<InvalidDataException>(() => step.Run(batch, 7, stop.Token)).Message);
        Assert.Equal(call, calls);
        moe.OnRouted = null;
        Tiny.DropGradients(model);
        Assert.Equal(before, (KtNotebooks.Tensors.Buffer.AliveCount, KtNotebooks.Tensors.Buffer.AliveBytes));
        var after = Run(model, batch, step);
        Assert.Equal(expected.Loss, after.Loss);
        foreach (var (name, values) in expected.Gradients) Assert.Equal(values, after.Gradients[name]);
    }

    /// <summary>
    /// What docs/gpu.md says on paper, of four banks and slots that hold one: n banks cost 2 (n − 1), as each turn finds the last one still there.
    /// </summary>
    [Fact]
    public void Layers_in_turn_share_the_bus_and_ranges_bring_every_bank_once_a_part()
    {
        Need(2);
        Assert.Equal([6.0], CopiedBanks(1, contiguous: false));
        Assert.Equal([2.0, 2.0], CopiedBanks(2, contiguous: false));
        // Twice up and twice down through two banks: six changes of the bank on the first card. The last card turns part by part: four.
        Assert.Equal([6.0, 4.0], CopiedBanks(2, contiguous: true));
    }

    /// <summary>Where slots do not hold a bank, layers in turn go without parts; ranges bring every bank once a part in any case.</summary>
    [Theory]
    [InlineData(false, 1.0, 2)]
    [InlineData(false, 0.5, 1)]
    [InlineData(true, 0.5, 2)]
    public void Parts_are_as_many_as_the_slots_bear(bool contiguous, double banksInSlots, int parts)
    {
        Need(2);
        using var model = Load(Over(2, contiguous, ExecutorKind.Cpu));
        var step = new LayerMajorStep(model);
        Assert.Equal(2, step.Parts); // the CPU's experts need no slots
        Stream(model, banksInSlots);
        Assert.Equal((parts, 3), (step.Parts, new LayerMajorStep(model, parts: 3).Parts));
    }

    /// <summary>Streams all experts, each card's through slots of so many banks.</summary>
    private static ExpertExecutors Stream(CausalLm model, double banksInSlots)
    {
        var executors = model.Executors = new ExpertExecutors();
        foreach (var banks in model.Stages.SelectMany(s => s.All().OfType<ExpertBank>().Select(b => (s.Device, Bank: b))).GroupBy(b => b.Device, b => b.Bank))
        {
            foreach (var bank in banks) bank.RemoveAdapter();
            executors.Stream([.. banks], banks.Key, (long)(banksInSlots * banks.First().StoredBytes));
        }
        return executors;
    }

    /// <summary>Banks over the bus of each card in the second step; what is announced for the third and fetched ahead counts there.</summary>
    private double[] CopiedBanks(int cards, bool contiguous)
    {
        using var model = Load(cards == 1 ? new PlacementSettings
        {
            Device = "cuda:0",
            Experts = ExecutorKind.Cpu,
        } : Over(cards, contiguous, ExecutorKind.Cpu));
        var executors = Stream(model, banksInSlots: 1);
        var step = new LayerMajorStep(model);
        var before = Array.Empty<long>();
        for (var s = 0; s < 2; s++)
        {
            before = [.. executors.Streams.Select(stream => stream.CopiedBytes)];
            step.Run(Tiny.Batch(1, Lengths), cancel: Stop);
            Tiny.DropGradients(model);
        }
        var bytes = model.All().OfType<ExpertBank>().First().StoredBytes;
        return [.. executors.Streams.Zip(before, (stream, then) => (stream.CopiedBytes - then) / (double)bytes)];
    }

    private static void Need(int cards)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (CudaDevice.Count < cards) Assert.Skip($"there are {CudaDevice.Count} cards of {cards}");
    }

    /// <summary>Layers in turn by `cards`, or consecutive ones by rules.</summary>
    private PlacementSettings Over(int cards, bool contiguous, ExecutorKind experts)
    {
        if (!contiguous) return new PlacementSettings { Gpus = cards, Experts = experts };
        var rules = string.Concat(Enumerable.Range(0, Layers)
            .Select(l => $"- match: {{ name: 'layers\\.{l}(\\.|$)' }}\n  place: {{ compute: 'cuda:{l * cards / Layers}' }}\n"));
        return new PlacementSettings
        {
            Rules = PlacementRules.Load(_folder.Write("rules.yaml", rules
                + $"- match: {{ name: 'norm|lm_head' }}\n  place: {{ compute: 'cuda:{cards - 1}' }}\n")),
            Experts = experts,
        };
    }

    private CausalLm Load(PlacementSettings settings)
    {
        var folder = Path.Combine(_folder.Path, "model");
        var model = ModelFolder.Load(folder, DType.F32, ModelFolder.Plan(folder, settings, DType.F32));
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Dropout: 0.2, Experts: true), seed: 1);
        var random = new Random(1);
        foreach (var (_, tensor) in model.AllTrainable)
        {
            using var values = Tensor.From([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)], tensor.Shape);
            Memory.Copy(values, tensor);
        }
        return model;
    }

    private static (double Loss, Dictionary<string, float[]> Gradients) Run(CausalLm model, KtNotebooks.Nn.TokenBatch batch, LayerMajorStep step)
    {
        var loss = step.Run(batch, 7, Stop);
        return (loss, Tiny.TakeGradients(model));
    }

    /// <summary>
    /// The tolerance of <see cref="LayerMajorStepTests"/>: sums over rows in another order, of numbers that went through sums of up to V terms.
    /// </summary>
    private static void Close((double Loss, Dictionary<string, float[]> Gradients) expected, (double Loss, Dictionary<string, float[]> Gradients) actual,
        int rows)
    {
        Assert.InRange(actual.Loss, expected.Loss * (1 - (rows * F32)), expected.Loss * (1 + (rows * F32)));
        Assert.Equal(expected.Gradients.Keys, actual.Gradients.Keys);
        foreach (var (name, values) in expected.Gradients)
        {
            var (other, limit) = (actual.Gradients[name], values.Max(Math.Abs) * (rows + Tiny.Vocabulary) * F32);
            for (var i = 0; i < values.Length; i++)
                Assert.True(Math.Abs(values[i] - other[i]) <= limit, $"{name}[{i}] is {other[i]}, expected {values[i]} within {limit}");
        }
    }

    /// <summary>Two threads that go on only when both are there.</summary>
    private sealed class Meeting
    {
        private readonly ManualResetEventSlim[] _here = [new(), new()];

        public int Came => _here.Count(h => h.IsSet);

        public void Come(int who)
        {
            _here[who].Set();
            if (!_here[1 - who].Wait(TimeSpan.FromSeconds(60), Stop)) throw new TimeoutException($"card {1 - who} did not come");
        }
    }
}
