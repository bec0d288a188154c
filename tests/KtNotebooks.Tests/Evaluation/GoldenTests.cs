using System.Text.Json.Nodes;

using KtNotebooks.Evaluation;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

/// <summary>The whole engine against another implementation's numbers: Golden/README.md says which.</summary>
[Collection("cpu variant")]
public class GoldenTests
{
    public static string Lite => Of("deepseek_v2_lite");

    public static TheoryData<string, DType> Everywhere => [.. from variant in new[]
    {
        "amx", "avx512bf16", "avx512", "avx2", Cpu.Plain
    } from type in new[] { DType.F32, DType.BF16 } select (variant, type)];

    public static string Of(string model) => Path.Combine(Checkout.Root, "tests", "KtNotebooks.Tests", "Golden", model);

    [Theory]
    [MemberData(nameof(Everywhere))]
    public void Logits_loss_gradients_steps_and_tokens_are_the_reference_s(string variant, DType type)
    {
        using var on = variant == Cpu.Plain ? null : new OnVariant(variant);
        if (on is null) Cpu.Use(Cpu.Plain);
        try
        {
            var results = GoldenCheck.Run(Lite, type, cancel: TestContext.Current.CancellationToken);
            Assert.Equal(10, results.Count);
            Assert.Empty(results.Where(r => !r.Passed).Select(r => r.ToString()));
        }
        finally
        {
            Cpu.Use(null);
        }
    }

    [Theory]
    [InlineData("deepseek_v2", DType.F32)]
    [InlineData("deepseek_v2", DType.BF16)]
    [InlineData("deepseek_v3", DType.F32)]
    [InlineData("deepseek_v3", DType.BF16)]
    [InlineData("qwen3_moe", DType.F32)]
    [InlineData("qwen3_moe", DType.BF16)]
    [InlineData("glm4_moe", DType.F32)]
    [InlineData("glm4_moe", DType.BF16)]
    [InlineData("gpt_oss", DType.F32)]
    [InlineData("gpt_oss", DType.BF16)]
    [InlineData("kimi_k25", DType.F32)]
    [InlineData("kimi_k25", DType.BF16)]
    public void The_other_architectures_are_the_reference_s_as_well(string model, DType type)
    {
        var results = GoldenCheck.Run(Of(model), type, cancel: TestContext.Current.CancellationToken);
        Assert.Equal(10, results.Count);
        Assert.Empty(results.Where(r => !r.Passed).Select(r => r.ToString()));
    }

    /// <summary>Every architecture, and every way to run the experts of a card.</summary>
    [Trait("card", "cuda")]
    [Theory]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Resident)]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Streamed)]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Cpu)]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Split)]
    [InlineData("deepseek_v2_lite", DType.BF16, ExecutorKind.Resident)]
    [InlineData("deepseek_v2", DType.F32, ExecutorKind.Resident)]
    [InlineData("deepseek_v3", DType.F32, ExecutorKind.Streamed)]
    [InlineData("qwen3_moe", DType.F32, ExecutorKind.Resident)]
    [InlineData("glm4_moe", DType.F32, ExecutorKind.Streamed)]
    [InlineData("gpt_oss", DType.F32, ExecutorKind.Resident)]
    [InlineData("gpt_oss", DType.F32, ExecutorKind.Split)]
    [InlineData("gpt_oss", DType.F32, ExecutorKind.Streamed)]
    [InlineData("gpt_oss", DType.BF16, ExecutorKind.Resident)]
    public void A_card_gives_the_reference_s_numbers(string model, DType type, ExecutorKind experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var results = GoldenCheck.Run(Of(model), type, new PlacementSettings { Device = "cuda:0", Experts = experts }, TestContext.Current.CancellationToken);
        Assert.Equal(10, results.Count);
        Assert.Empty(results.Where(r => !r.Passed).Select(r => r.ToString()));
    }

    /// <summary>Layers in turn over two cards, the window in two parts.</summary>
    [Trait("card", "cuda")]
    [Theory]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Streamed)]
    [InlineData("deepseek_v2_lite", DType.F32, ExecutorKind.Cpu)]
    [InlineData("deepseek_v3", DType.F32, ExecutorKind.Resident)]
    [InlineData("qwen3_moe", DType.F32, ExecutorKind.Streamed)]
    public void Two_cards_give_the_reference_s_numbers(string model, DType type, ExecutorKind experts)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (CudaDevice.Count < 2) Assert.Skip("there is one card");
        var results = GoldenCheck.Run(Of(model), type, new PlacementSettings { Gpus = 2, Experts = experts }, TestContext.Current.CancellationToken);
        Assert.Equal(10, results.Count);
        Assert.Empty(results.Where(r => !r.Passed).Select(r => r.ToString()));
    }

    [Fact]
    public void A_model_that_computes_something_else_does_not_pass()
    {
        using var folder = new Samples.Folder();
        Checkout.Copy(Lite, folder.Path);
        EditConfig(folder.Path, config => config["routed_scaling_factor"] = 1.01);
        var wrong = GoldenCheck.Run(folder.Path, DType.F32, cancel: TestContext.Current.CancellationToken).Where(r => !r.Passed).Select(r => r.What);
        Assert.Contains("logits", wrong);
        Assert.Contains("LoRA gradients", wrong);
    }

    /// <summary>Also in BF16, where rounding changes some of a random model's tokens.</summary>
    [Theory]
    [InlineData("deepseek_v2_lite", DType.F32)]
    [InlineData("deepseek_v2_lite", DType.BF16)]
    [InlineData("deepseek_v2", DType.BF16)]
    [InlineData("deepseek_v3", DType.BF16)]
    [InlineData("qwen3_moe", DType.BF16)]
    public void Other_greedy_tokens_do_not_pass(string model, DType type)
    {
        using var folder = new Samples.Folder();
        Checkout.Copy(Of(model), folder.Path);
        var path = Path.Combine(folder.Path, "expected.json");
        var expected = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        var tokens = expected["greedy_after6"]!.AsArray();
        for (var i = 0; i < tokens.Count; i++) tokens[i] = (tokens[i]!.GetValue<int>() + 1) % 256;
        File.WriteAllText(path, expected.ToJsonString());
        var greedy = GoldenCheck.Run(folder.Path, type, cancel: TestContext.Current.CancellationToken)[^1];
        Assert.False(greedy.Passed, greedy.ToString());
        Assert.InRange(greedy.Error, 0.5, 1);
    }

    /// <summary>A step of AdamW has one size: where the gradient is noise its sign is arbitrary, elsewhere one that went the other way shows.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void An_element_of_the_adapter_is_judged_where_its_gradient_determines_it(bool determined)
    {
        const string Name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight";
        using var folder = new Samples.Folder();
        Checkout.Copy(Lite, folder.Path);
        float[] gradient;
        using (var file = new SafetensorsFile(Path.Combine(folder.Path, "adapter_grads.safetensors")))
        using (var tensor = file.Get(Name)) gradient = [.. tensor.ToFloats().Select(Math.Abs)];
        var at = Array.IndexOf(gradient, determined ? gradient.Order().ElementAt(gradient.Length / 4) : gradient.Min());
        Move(Path.Combine(folder.Path, "adapter_after6.safetensors"), Name, at, 1e-3f);
        var adapter = GoldenCheck.Run(folder.Path, DType.F32, cancel: TestContext.Current.CancellationToken)[^2];
        Assert.Equal("adapter after six steps", adapter.What);
        Assert.Equal(determined, !adapter.Passed);
        Assert.Contains("151 of 32832 elements not judged", adapter.Where, StringComparison.Ordinal);
    }

    /// <summary>Adds to one value of a stored F32 tensor.</summary>
    private static void Move(string path, string name, int at, float by)
    {
        var bytes = File.ReadAllBytes(path);
        var header = BitConverter.ToInt32(bytes);
        var entry = JsonNode.Parse(bytes.AsSpan(8, header))![name]!;
        var value = bytes.AsSpan(8 + header + entry["data_offsets"]![0]!.GetValue<int>() + (4 * at), 4);
        BitConverter.TryWriteBytes(value, BitConverter.ToSingle(value) + by);
        File.WriteAllBytes(path, bytes);
    }

    [Theory]
    [InlineData("deepseek_v2_lite", "deepseek_v2")]
    [InlineData("deepseek_v2", "deepseek_v2")]
    [InlineData("deepseek_v3", "deepseek_v3")]
    [InlineData("deepseek_v3", "kimi_k2")]
    [InlineData("qwen3_moe", "qwen3_moe")]
    public void Both_spellings_of_the_rotary_settings_give_the_same_bits(string model, string type)
    {
        using var folder = new Samples.Folder();
        Checkout.Copy(Of(model), folder.Path);
        EditConfig(folder.Path, config =>
        {
            var block = config["rope_parameters"]!.AsObject();
            config["model_type"] = type;
            config.Remove("rope_parameters");
            config["rope_theta"] = block["rope_theta"]!.DeepClone();
            block.Remove("rope_theta");
            block["type"] = block["rope_type"]!.DeepClone();
            block.Remove("rope_type");
            config["rope_scaling"] = block["type"]!.GetValue<string>() == "default" ? null : block;
        });
        Assert.Equal(LongLogits(Path.Combine(Of(model), "model")), LongLogits(Path.Combine(folder.Path, "model")));
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
