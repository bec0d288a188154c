using System.Text.Json;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Distributed;

/// <summary>Two processes with a card each, summed by NCCL: the emulated one's streams are lazy, so that a sum that waits for nothing sums nothing.</summary>
[Trait("card", "cuda")]
public sealed class CardRanksTests : IDisposable
{
    /// <summary>
    /// Whoever hangs ends by then. With nothing in the cache the first process has g++ make a library of every kernel, which takes longer than a minute where
    /// other tests compile beside it.
    /// </summary>
    private const int Minutes = 10;

    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    [Theory]
    [InlineData("card")]
    [InlineData("host")] // pairs of experts in page-locked memory pass through the card
    public void Two_cards_learn_what_one_learns(string experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (!Require.EmulatedCard && CudaDevice.Count < 2) Assert.Skip("needs two cards");
        string Out(string name) => Path.Combine(_place.Root, name);
        string[] Train(string output) => _place.Train([$"output_dir={Out(output)}", "infer_dtype=float32", "lora_experts=true", "device=cuda:0",
            "per_device_train_batch_size=4", "max_steps=3", "lr_scheduler_type=constant", "plot_loss=false", $"expert_lora={experts}"]);
        using (var one = Kt.Start(Train("one"))) one.End(Minutes).RequireDone();
        var ranks = Launched.ByEnvironment(2, _ => Train("two"));
        var ends = ranks.Select(rank => rank.End(Minutes)).ToArray();
        foreach (var rank in ranks) rank.Dispose();
        Assert.All(ends, Launched.RequireDone);
        Assert.Matches(@"gradients are summed by NCCL \S+ between 2 cards", ends[0].Output);
        double[] Losses(string output) => [.. File.ReadLines(Path.Combine(Out(output), "trainer_log.jsonl"))
            .Select(line => JsonDocument.Parse(line).RootElement).Where(line => line.TryGetProperty("loss", out _))
            .Select(line => line.GetProperty("loss").GetDouble())];
        var (expected, got) = (Losses("one"), Losses("two"));
        Assert.Equal(expected.Length, got.Length);
        for (var i = 0; i < got.Length; i++) Assert.Equal(expected[i], got[i], 1e-3);
    }
}
