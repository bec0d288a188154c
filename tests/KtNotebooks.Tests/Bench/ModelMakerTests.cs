using System.Text.Json.Nodes;

using KtNotebooks.Bench;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Files;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Bench;

/// <summary>
/// Checkpoints of true shape: what real models publish about themselves holds, what is made loads, and loading takes the memory that the weights need.
/// </summary>
public sealed class ModelMakerTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Target => Path.Combine(_folder.Path, "made");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("deepseek-v2-lite", 15_706_484_224)] // what Hugging Face shows for DeepSeek-V2-Lite
    [InlineData("deepseek-v2", 235_741_434_880)] // and for DeepSeek-V2
    [InlineData("moonlight-16b-a3b", 15_960_110_208)] // "16B"; by hand from its config
    [InlineData("qwen3-30b-a3b", 30_532_122_624)] // and for Qwen3-30B-A3B
    [InlineData("deepseek-v3", 671_026_419_200)] // 671 billion without the prediction layer
    public void A_whole_shape_has_the_published_number_of_parameters(string shape, long parameters) =>
        Assert.Equal(parameters, ModelMaker.TensorsOf(shape, ModelShapes.Config(shape)).Sum(t => t.Dims.Aggregate(1L, (a, b) => a * b)));

    [Fact]
    public void What_is_made_loads_in_no_more_memory_than_it_has_and_can_be_inspected()
    {
        // Of two models of one sparse layer each, the larger takes as much more memory as its file is larger: what the program itself takes (its code, made
        // while it loads: 20 MB) is in both and cancels.
        var (target, few) = (Target, Path.Combine(_folder.Path, "few"));
        var bytes = Made(64, target);
        Assert.InRange(bytes, 500_000_000, 600_000_000);
        var more = bytes - Made(8, few);
        Assert.InRange((Peak(target) - Peak(few)) * 1e6 / more, 0.97, 1.03);

        var (exit, output, errors) = Kt.Run("model", "inspect", Target, "--json");
        Assert.True(exit == 0, errors);
        var parts = JsonNode.Parse(output)!["parts"]!.AsArray().ToDictionary(p => (string)p!["part"]!, p => (long)p!["parameters"]!);
        Assert.Equal(16384L * 2048, parts["embedding"]);
        Assert.Equal(3L * 64 * 2048 * 512, parts["routed experts"]);
    }

    [Fact]
    public void Four_bits_are_made_as_Kimi_ships_them_and_stay_so()
    {
        var maker = new ModelMaker(Small(1024, width: 256, inner: 192, experts: 16), Target, 2, StorageFormat.Int4);
        Assert.Throws<OperationCanceledException>(() => maker.Run(cancel: new CancellationToken(canceled: true)));
        Assert.Empty(Directory.GetFiles(Target)); // nothing half
        maker.Run(cancel: TestContext.Current.CancellationToken);
        using var model = ModelFolder.Load(Target);
        var bank = Assert.Single(model.All().OfType<ExpertBank>());
        Assert.Equal(StorageFormat.Int4, bank.Format);
        using var checkpoint = new Checkpoint(Target);
        const string name = "model.layers.1.mlp.experts.15.down_proj.weight";
        using var matrix = checkpoint.Take(name, DType.F32, 256, 192);
        var values = matrix.ToFloats();
        Assert.Equal(0.02, Math.Sqrt(values.Average(v => (double)v * v)), 0.002); // initializer_range
        var experts = CheckpointReport.Parts(checkpoint).Single(p => p.Part == "routed experts");
        Assert.Equal(3L * 16 * 256 * 192, experts.Parameters);
        Assert.Equal(experts.Parameters * 9 / 16 + (3 * 16 * 16), experts.Bytes); // 4 bits and a BF16 for 32 of them; shapes
        var errors = CheckpointReport.Errors(checkpoint, StorageFormat.Int8, expertsPerLayer: 1).ToList();
        Assert.Equal(["gate_proj", "up_proj", "down_proj"], errors.Select(e => e.Projection));
        Assert.All(errors, e => Assert.InRange(e.Relative, 0.001, 0.02));
        Assert.Equal([192L, 192, 256], errors.Select(e => e.Blocks.Sum())); // a block is a row
    }

    [Fact]
    public void FP8_is_made_as_DeepSeek_ships_it()
    {
        var config = ModelShapes.Config("deepseek-v3", 1);
        var maker = new ModelMaker("deepseek-v3", Target, 1);
        Assert.Equal(StorageFormat.Fp8, maker.Format);
        Assert.Equal(7168, (int)config["hidden_size"]!);
        using var small = new SmallDisk(8);
        Assert.Contains("not enough disk", Assert.Throws<IOException>(() => new ModelMaker("deepseek-v3", Path.Combine(small.Path, "x"), 1)).Message,
            StringComparison.Ordinal);
    }

    /// <summary>DeepSeek-V2-Lite's config with other sizes, as a file.</summary>
    private string Small(int vocabulary, int width, int inner, int experts)
    {
        var config = ModelShapes.Config("deepseek-v2-lite");
        foreach (var (key, value) in new[]
        {
            ("vocab_size", vocabulary), ("hidden_size", width), ("moe_intermediate_size", inner), ("n_routed_experts", experts),
            ("intermediate_size", 4 * width), ("num_attention_heads", 4)
        }) config[key] = value;
        return _folder.Write("shape/config.json", config.ToJsonString());
    }

    [Fact]
    public void What_cannot_be_made_is_named()
    {
        Assert.StartsWith("shape 'llama' is not known", Assert.Throws<ArgumentException>(() => new ModelMaker("llama", Target)).Message,
            StringComparison.Ordinal);
        Assert.StartsWith("a checkpoint is made as bf16, fp8 or int4",
            Assert.Throws<ArgumentException>(() => new ModelMaker("deepseek-v2-lite", Target, 1, StorageFormat.Int8)).Message, StringComparison.Ordinal);
        Directory.CreateDirectory(Target);
        File.WriteAllText(Path.Combine(Target, "a"), "b");
        Assert.EndsWith("is not empty (there is a); choose a new folder",
            Assert.Throws<IOException>(() => new ModelMaker("deepseek-v2-lite", Target, 1)).Message, StringComparison.Ordinal);
    }

    /// <summary>Bytes of a file made with so many experts.</summary>
    private long Made(int experts, string folder)
    {
        var shape = Small(16384, width: 2048, inner: 512, experts);
        var (exit, output, errors) = Kt.Run("model", "make", "--shape", shape, "--layers", "1", "--out", folder);
        Assert.True(exit == 0, errors);
        Assert.InRange(Kt.PeakMegabytes(output), 20, 200); // written in pieces
        return new FileInfo(Path.Combine(folder, "model.safetensors")).Length;
    }

    /// <summary>MB at the peak of loading; the least of three loads is the model's: a second copy of anything would be in all of them.</summary>
    private static double Peak(string folder) => Enumerable.Range(0, 3).Min(_ =>
    {
        var (exit, output, errors) = Kt.Run("model", "load", folder);
        Assert.True(exit == 0, errors);
        return Kt.PeakMegabytes(output);
    });
}
