using KtNotebooks.Lora;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>A run that goes on with an adapter (adapter_name_or_path): what its config asks of the adapter is there, or refused by name.</summary>
public sealed class GoingOnTests : IDisposable
{
    private readonly Workplace _place = new();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    private string First => Path.Combine(_place.Root, "first");

    public void Dispose() => _place.Dispose();

    [Fact]
    public void Keys_that_the_adapter_does_not_have_are_refused_and_dropout_acts()
    {
        Train(First, "lora_target=q_proj,o_proj", "lora_dropout=0.3");
        foreach (var (key, has) in ((string, string)[])[("lora_rank=8", "whose rank is 2"), ("lora_alpha=3", "whose alpha is 4"),
            ("lora_target=q_proj", "which has pairs of o_proj, q_proj"), ("lora_experts=true", "which has no pairs of routed experts"),
            ("use_rslora=true", "which is not rank-stabilised"), ("use_dora=true", "which has no magnitudes"), ("pissa_init=true", "whose pairs have begun")])
            Assert.Contains($"command line: {key.Replace("=", " is ", StringComparison.Ordinal)}, but the run goes on with {First}, {has}: leave the key out",
                Assert.Throws<ArgumentException>(() => Train("x", "adapter_name_or_path=" + First, key)).Message);
        string[] same = ["adapter_name_or_path=" + First, "lora_rank=2", "lora_alpha=4", "lora_target=o_proj,q_proj", "use_dora=false"];
        var (own, none, half) = (Train("a", same), Train("b", [.. same, "lora_dropout=0"]), Train("c", [.. same, "lora_dropout=0.5"]));
        Assert.Equal(3, new[] { own, none, half }.Distinct().Count());
        Assert.Equal([0.3, 0, 0.5], ((string[])["a", "b", "c"]).Select(DropoutOf));
    }

    private double DropoutOf(string name)
    {
        using var adapter = AdapterSource.Open(Path.Combine(_place.Root, name));
        return adapter.Settings.Dropout;
    }

    private double Train(string name, params string[] more)
    {
        using var run = FineTuneRun.Open(_place.Train([$"output_dir={Path.Combine(_place.Root, name)}", "max_steps=2", .. more])[1..]);
        return run.Run(Stop).MeanLoss;
    }
}
