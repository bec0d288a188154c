using System.Text.Json.Nodes;

using KtNotebooks.Evaluation;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

/// <summary>The whole engine against another implementation's numbers: Golden/README.md says which.</summary>
[Collection("cpu variant")]
public class GoldenTests
{
    public static string Lite => Path.Combine(Checkout.Root, "tests", "KtNotebooks.Tests", "Golden", "deepseek_v2_lite");

    public static TheoryData<string, DType> Everywhere => [.. from variant in new[] { "amx", "avx512bf16", "avx512", "avx2", Cpu.Plain } from type in new[] { DType.F32, DType.BF16 } select (variant, type)];

    [Theory]
    [MemberData(nameof(Everywhere))]
    public void Logits_loss_gradients_steps_and_tokens_are_the_reference_s(string variant, DType type)
    {
        using var on = variant == Cpu.Plain ? null : new OnVariant(variant);
        if (on is null) Cpu.Use(Cpu.Plain);
        try
        {
            var results = GoldenCheck.Run(Lite, type, TestContext.Current.CancellationToken);
            Assert.Equal(10, results.Count);
            Assert.Empty(results.Where(r => !r.Passed).Select(r => r.ToString()));
        }
        finally
        {
            Cpu.Use(null);
        }
    }

    [Fact]
    public void A_model_that_computes_something_else_does_not_pass()
    {
        using var folder = new Samples.Folder();
        Checkout.Copy(Lite, folder.Path);
        EditConfig(folder.Path, config => config["routed_scaling_factor"] = 1.01);
        var wrong = GoldenCheck.Run(folder.Path, DType.F32, TestContext.Current.CancellationToken).Where(r => !r.Passed).Select(r => r.What);
        Assert.Contains("logits", wrong);
        Assert.Contains("LoRA gradients", wrong);
    }

    [Fact]
    public void Both_spellings_of_the_rotary_settings_give_the_same_bits()
    {
        using var folder = new Samples.Folder();
        Checkout.Copy(Lite, folder.Path);
        EditConfig(folder.Path, config =>
        {
            var block = config["rope_parameters"]!.AsObject();
            config.Remove("rope_parameters");
            config["rope_theta"] = block["rope_theta"]!.DeepClone();
            block.Remove("rope_theta");
            block["type"] = block["rope_type"]!.DeepClone();
            block.Remove("rope_type");
            config["rope_scaling"] = block;
        });
        Assert.Equal(LongLogits(Path.Combine(Lite, "model")), LongLogits(Path.Combine(folder.Path, "model")));
    }

    private static float[] LongLogits(string folder)
    {
        using var model = ModelFolder.Load(folder, DType.F32);
        using var logits = model.Logits(TokenBatch.ForInference([[.. Enumerable.Range(0, 100).Select(i => i * 37 % 256)]]));
        return logits.ToFloats();
    }

    private static void EditConfig(string folder, Action<JsonObject> edit)
    {
        var path = Path.Combine(folder, "model", "config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        edit(config);
        File.WriteAllText(path, config.ToJsonString());
    }
}
