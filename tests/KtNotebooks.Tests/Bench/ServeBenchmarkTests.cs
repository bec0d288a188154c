using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Placement;
using KtNotebooks.Server;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Bench;

/// <summary>`kt bench serve` measures what it says, and its soak finds every request answered or refused.</summary>
[Collection(Tests.Alone.Name)]
public sealed class ServeBenchmarkTests
{
    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Streams_become_what_they_are_alone_with_and_without_adapters()
    {
        var golden = File.ReadAllText(Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/deepseek_v2_lite/model/config.json"));
        using var folder = new Samples.Folder();
        var config = folder.Write("config.json", golden.Replace("\"vocab_size\": 256", "\"vocab_size\": 400", StringComparison.Ordinal));
        var shape = new ServedShapeSettings(config, null, ExecutorKind.Cpu, StorageFormat.BF16, Device.Cpu, 1 << 20, Adapters: 2);
        using var served = new ServedShape(shape, 5, _ => { });
        Assert.Equal(["base", "adapter-1", "adapter-2"], served.Engine.Models.Select(m => m.Name));
        await using var benchmark = await ServeBenchmark.StartAsync(served.Engine, new ServeBenchmarkSettings([5], Prompt: 8, Tokens: 40, FirstPrompt: 8,
            LongPrompt: 16, Rounds: 1), Stop);
        var result = await benchmark.RunAsync(cancel: Stop);
        Assert.Equal([1, 5], result.Streams.Select(s => s.Streams));
        Assert.Equal((5, 5), (result.SameTexts, result.ComparedTexts));
        Assert.True(result.Streams[1].Mixed?.TokensPerSecond > 0 && result.Streams[0].Mixed is null);
        Assert.True(result.FirstTokenMs > 0, $"first token after {result.FirstTokenMs} ms");
        Assert.True(result.SlowestGapMs > 0, $"slowest gap {result.SlowestGapMs} ms");
        Assert.True(result.Steps > 200, $"{result.Steps} steps");
        Assert.All(result.Streams, s => Assert.True(s.Direct is { TokensPerSecond: > 0, StepMs: > 0 } && s.Http.StepMs > 0));
    }

    [Theory]
    [InlineData(0, 8)]
    [InlineData(2, 5000)]
    public async Task What_cannot_be_measured_is_told(int streams, int prompt)
    {
        using var engine = Tiny();
        await Assert.ThrowsAsync<ArgumentException>(() => ServeBenchmark.StartAsync(engine, new ServeBenchmarkSettings([streams], prompt), Stop));
    }

    /// <summary>The whole one is `kt bench serve --soak 10000`.</summary>
    [Fact]
    public async Task Requests_of_all_kinds_are_answered_or_refused_and_leave_nothing()
    {
        using var engine = Tiny();
        var soak = await ServeSoak.RunAsync(engine, 140, cancel: Stop);
        Assert.Empty(soak.Failed);
        Assert.Equal((140, 90, 30, 20), (soak.Requests, soak.Answered, soak.Refused, soak.Left));
        Assert.Equal((0, 0, 0), (engine.Active, engine.Running, engine.Waiting));
        Assert.InRange(soak.HeapMb[^1] - soak.HeapMb[2], -50, 4); // MB
    }

    private static ModelEngine Tiny() =>
        ModelEngine.Open($"model_name_or_path={Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")}", "template=deepseek", "max_new_tokens=24");
}
