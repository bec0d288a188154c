using KtNotebooks.Bench;
using KtNotebooks.Generation;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>Recorded steps give the numbers of the steps that were recorded, bit for bit, and stop where something has moved.</summary>
[Trait("card", "cuda")]
[Collection(Tests.Alone.Name)]
public sealed class StepReplayTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    /// <summary>Latent attention, grouped queries, partial rotation, windows with sinks; sequences that join and leave, one that outgrows its bound.</summary>
    [Theory]
    [InlineData("deepseek_v2_lite", true)]
    [InlineData("qwen3_moe", false)]
    [InlineData("glm4_moe", false)]
    [InlineData("gpt_oss", false)]
    [InlineData("glm4_moe", false, true)]
    [InlineData("deepseek_v2_lite", true, false, ExecutorKind.Cpu)]
    [InlineData("qwen3_moe", false, false, ExecutorKind.Cpu)]
    [InlineData("gpt_oss", false, false, ExecutorKind.Cpu)]
    public void A_replayed_step_is_the_step(string name, bool adapter, bool tableInHostMemory = false, ExecutorKind experts = ExecutorKind.Resident)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var model = Load(name, experts, tableInHostMemory);
        Assert.Equal(tableInHostMemory ? DeviceKind.Cpu : DeviceKind.Cuda, model.Embedding.Device.Kind);
        if (adapter) Attach(model);
        (int Prompt, int New)[] lengths = [(3, 9), (250, 14), (1, 6), (17, 11), (5, 1)];
        GenerationRequest[] requests = [.. lengths.Select((r, i) =>
            new GenerationRequest([.. Enumerable.Range(0, r.Prompt).Select(t => ((t * 37) + (i * 11) + 5) % 256)], Sampling.Greedy(r.New)) { Logprobs = 2 })];
        var (expected, _) = Answers(model, requests, record: false);
        var (actual, replays) = Answers(model, requests, record: true);
        Assert.Equal(expected, actual);
        Assert.True(replays > 10, $"{replays} steps were replayed");
    }

    /// <summary>
    /// Base and adapters in one step, each row with its own pairs, on dense layers, in absorbed attention and on experts, which some rows share and some do
    /// not; a third adapter comes later and has another rank. Prompts together are fewer rows than a tile of the experts, or more.
    /// </summary>
    [Theory]
    [InlineData("deepseek_v2_lite", 5)]
    [InlineData("deepseek_v2_lite", 45)]
    [InlineData("qwen3_moe", 5)]
    [InlineData("qwen3_moe", 45)]
    public void Rows_of_several_adapters_share_a_recorded_step(string name, int prompt)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var model = Load(name, ExecutorKind.Resident, type: DType.F32); // no rounding that could turn a draw
        ServedShape.Adapt(model, "cat", 4, 1, 0.3f);
        ServedShape.Adapt(model, "dog", 4, 2, 0.3f);
        string[] adapters = ["cat", Pass.BaseModel, "dog", "cat", Pass.BaseModel, "dog", "bird"];
        GenerationRequest[] requests = [.. adapters.Select((adapter, i) => new GenerationRequest([.. Enumerable.Range(0, prompt + i)
            .Select(t => ((t * 37) + (i * 11) + 5) % 256)], Sampling.Greedy(8)) { Logprobs = 1, Adapter = adapter })];
        (string[] Texts, int[][] Ids, long Replays) Run(bool record)
        {
            using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 8, RecordSteps = record });
            Assert.Equal(6, scheduler.ReadAll(requests[..^1], Stop).Count());
            ServedShape.Adapt(model, "bird", 7, 3, 0.3f);
            Completion[] answers = [.. scheduler.ReadAll(requests, Stop).OrderBy(a => a.Row).Select(a => a.Answer)];
            NamedAdapters.Remove(model, "bird");
            return ([.. answers.Select(Text)], [.. answers.Select(a => a.Ids)], scheduler.ReplayedSteps);
        }
        var (texts, ids, replays) = Run(record: true);
        Assert.True(replays > 8, $"{replays} steps were replayed");
        Assert.Equal(Run(record: false).Texts, texts);
        ServedShape.Adapt(model, "bird", 7, 3, 0.3f);
        for (var i = 0; i < requests.Length; i++) Assert.Equal($"{i}: {string.Join(' ', Alone(model, requests[i]).Ids)}", $"{i}: {string.Join(' ', ids[i])}");
        Assert.NotEqual(Alone(model, requests[0] with { Adapter = Pass.BaseModel }).Ids, ids[0]);
    }

    [Fact]
    public void Changed_weights_are_the_ones_that_answer()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var model = Load("qwen3_moe", ExecutorKind.Resident);
        using var scheduler = new Scheduler(model);
        var request = new GenerationRequest([7, 8, 9], Sampling.Greedy(12)) { Logprobs = 1 };
        string Answer() => Text(scheduler.ReadAll([request], Stop).Single().Answer);
        var before = Answer();
        Assert.Equal(before, Answer());
        Attach(model);
        var after = Answer();
        Assert.NotEqual(before, after);
        Assert.Equal(Text(Alone(model, request)), after);
        model.Stages.SelectMany(s => s.All()).OfType<IAdaptable>().ToList().ForEach(m => m.Adapter = null);
        Assert.Equal(before, Answer());
        Assert.True(scheduler.ReplayedSteps > 20);
    }

    [Fact]
    public void Experts_that_need_the_host_are_not_recorded()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var model = Load("qwen3_moe", ExecutorKind.Streamed);
        using var scheduler = new Scheduler(model);
        var request = new GenerationRequest([7, 8, 9], Sampling.Greedy(6)) { Logprobs = 1 };
        Assert.Equal(Text(Alone(model, request)), Text(scheduler.ReadAll([request], Stop).Single().Answer));
        Assert.Equal(0, scheduler.ReplayedSteps);
        Assert.Contains("cannot be recorded", scheduler.NotRecorded);
    }

    [Fact]
    public void Work_that_waits_is_refused_and_the_card_goes_on()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var card = CudaDevice.Get(0);
        using var x = Memory.Place([1, 2, 3], Device.Cuda());
        var pool = new CudaPool(card);
        Assert.Contains("a copy to host memory", Assert.Throws<NotRecordableException>(() => CudaGraph.Record(card, pool, () => x.ToInts())).Message);
        Assert.Equal([1, 2, 3], x.ToInts());
        using var y = Memory.Place([0, 0, 0], Device.Cuda());
        using var copy = CudaGraph.Record(card, pool, () => Memory.Copy(x, y));
        Assert.Equal([0, 0, 0], y.ToInts()); // recorded, not run
        copy.Launch();
        Assert.Equal([1, 2, 3], y.ToInts());
        using var other = Memory.Place([4, 5, 6], Device.Cuda());
        Memory.Copy(other, x);
        copy.Launch();
        Assert.Equal([4, 5, 6], y.ToInts());
    }

    [Fact]
    public void Code_on_the_host_is_a_part_of_the_graph_and_its_faults_are_told()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var card = CudaDevice.Get(0);
        var pool = new CudaPool(card);
        var (runs, fails) = (0, false);
        using var graph = CudaGraph.Record(card, pool, () => card.RecordHostWork(() =>
        {
            runs++;
            if (fails) throw new InvalidDataException("expert 3 is ill");
        }));
        Assert.Equal(0, runs);
        graph.Launch();
        fails = true;
        Assert.Equal("expert 3 is ill", Assert.Throws<InvalidDataException>(graph.Launch).Message);
        fails = false;
        graph.Launch();
        Assert.Equal(3, runs);
    }

    private static (string[] Answers, long Replays) Answers(CausalLm model, GenerationRequest[] requests, bool record)
    {
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { Slots = 3, RecordSteps = record });
        var answers = new string[requests.Length];
        for (var again = 0; again < 2; again++)
            foreach (var (row, answer) in scheduler.ReadAll(requests, Stop)) answers[row] += Text(answer) + "\n";
        return (answers, scheduler.ReplayedSteps);
    }

    private static Completion Alone(CausalLm model, GenerationRequest request)
    {
        using var scheduler = new Scheduler(model, settings: new SchedulerSettings { RecordSteps = false });
        return scheduler.ReadAll([request], Stop).Single().Answer;
    }

    /// <summary>Tokens and the bits of their log-probabilities.</summary>
    private static string Text(Completion answer)
    {
        List<string> tokens = [];
        while (answer.TryRead(out var token))
            if (token.Id is { } id) tokens.Add($"{id}:{BitConverter.SingleToInt32Bits(token.Logprob!.Value):x}");
        return string.Join(' ', tokens);
    }

    private static void Attach(CausalLm model)
    {
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Experts: true), seed: 4);
        var random = new Random(4);
        foreach (var (_, tensor) in model.AllTrainable)
        {
            using var values = Tensor.From([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)], tensor.Shape);
            Memory.Copy(values, tensor);
        }
    }

    private static CausalLm Load(string name, ExecutorKind experts, bool tableInHostMemory = false, DType type = DType.BF16)
    {
        var folder = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden", name, "model");
        using var rules = new Samples.Folder();
        var rule = rules.Write("rules.yaml", "- match: { name: ^model\\.embed_tokens }\n  place: { compute: cpu, weights: host }\n");
        return ModelFolder.Load(folder, type, ModelFolder.Plan(folder, new PlacementSettings
        {
            Device = "cuda:0",
            Experts = experts,
            Rules = tableInHostMemory ? PlacementRules.Load(rule) : null,
        }, type));
    }
}
