using KtNotebooks.Formats;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>Every file in rules/ against the model that it is for, in its real shape: 61 layers of DeepSeek-V3 without a byte of weights.</summary>
public class RulesFilesTests
{
    private static readonly string Folder = Path.Combine(Checkout.Root, "rules");

    /// <summary>File → experts: CPU format (null: as stored), and the cards.</summary>
    private static readonly Dictionary<string, (string Shape, StorageFormat? Format, int Gpus)> Files = new()
    {
        ["DeepSeek-V2-Chat-sft-amx"] = ("deepseek-v2", StorageFormat.Int8, 1),
        ["DeepSeek-V2-Lite-Chat-sft"] = ("deepseek-v2-lite", null, 1),
        ["DeepSeek-V2-Lite-Chat-sft-amx"] = ("deepseek-v2-lite", StorageFormat.Int8, 1),
        ["DeepSeek-V2-Lite-Chat-sft-amx-multi-gpu"] = ("deepseek-v2-lite", StorageFormat.Int8, 2),
        ["DeepSeek-V2-Lite-Chat-use-adapter"] = ("deepseek-v2-lite", null, 1),
        ["DeepSeek-V3-Chat-sft-amx"] = ("deepseek-v3", StorageFormat.Int8, 1),
        ["DeepSeek-V3-Chat-sft-amx-multi-gpu"] = ("deepseek-v3", StorageFormat.Int8, 2),
        ["DeepSeek-V3-Chat-sft-amx-multi-gpu-4"] = ("deepseek-v3", StorageFormat.Int8, 4),
        ["Qwen3Moe-sft-amx"] = ("qwen3-30b-a3b", StorageFormat.Int8, 1),
        ["DeepSeek-V2-Chat"] = ("deepseek-v2", null, 1),
        ["DeepSeek-V2-Chat-multi-gpu"] = ("deepseek-v2", null, 2),
        ["DeepSeek-V2-Chat-multi-gpu-4"] = ("deepseek-v2", null, 4),
        ["DeepSeek-V2-Lite-Chat"] = ("deepseek-v2-lite", null, 1),
        ["DeepSeek-V2-Lite-Chat-gpu-cpu"] = ("deepseek-v2-lite", null, 1),
        ["DeepSeek-V2-Lite-Chat-multi-gpu"] = ("deepseek-v2-lite", null, 2),
        ["DeepSeek-V3-Chat"] = ("deepseek-v3", null, 1),
        ["DeepSeek-V3-Chat-amx"] = ("deepseek-v3", StorageFormat.BF16, 1),
        ["DeepSeek-V3-Chat-serve"] = ("deepseek-v3", null, 1),
        ["DeepSeek-V3-Chat-serve-amx"] = ("deepseek-v3", StorageFormat.Int8, 1),
        ["DeepSeek-V3-Chat-fp8-linear-ggml-experts"] = ("deepseek-v3", null, 1),
        ["DeepSeek-V3-Chat-fp8-linear-ggml-experts-serve"] = ("deepseek-v3", null, 1),
        ["DeepSeek-V3-Chat-fp8-linear-ggml-experts-serve-amx"] = ("deepseek-v3", StorageFormat.Int8, 1),
        ["DeepSeek-V3-Chat-multi-gpu"] = ("deepseek-v3", null, 2),
        ["DeepSeek-V3-Chat-multi-gpu-4"] = ("deepseek-v3", null, 4),
        ["DeepSeek-V3-Chat-multi-gpu-8"] = ("deepseek-v3", null, 8),
        ["DeepSeek-V3-Chat-multi-gpu-fp8-linear-ggml-experts"] = ("deepseek-v3", null, 2),
        ["DeepSeek-V3-Chat-multi-gpu-marlin"] = ("deepseek-v3", null, 2),
        ["Moonlight-16B-A3B"] = ("moonlight-16b-a3b", null, 1),
        ["Moonlight-16B-A3B-serve"] = ("moonlight-16b-a3b", null, 1),
        ["Qwen3Moe-serve"] = ("qwen3-30b-a3b", null, 1),
        ["Qwen3Moe-serve-amx"] = ("qwen3-30b-a3b", StorageFormat.Int8, 1),
        ["cpu"] = ("deepseek-v2-lite", null, 0),
    };

    public static TheoryData<string> Names => [.. Files.Keys];

    [Fact]
    public void Every_file_has_its_test() =>
        Assert.Equal(Directory.GetFiles(Folder, "*.yaml").Select(Path.GetFileNameWithoutExtension).Order(), Files.Keys.Order());

    [Theory]
    [MemberData(nameof(Names))]
    public void A_file_puts_attention_on_its_cards_and_experts_on_the_CPU(string name)
    {
        var (shape, format, cards) = Files[name];
        var placement = Resolve(name, shape);
        Assert.Empty(placement.Settings.Notes);
        Assert.Equal([], placement.Notes);
        Assert.Equal(cards, placement.Devices.Count(d => d.Kind == DeviceKind.Cuda));
        Assert.Equal((Device.Cpu, WeightHome.Host), (placement.Of("model.embed_tokens").Compute, placement.Of("model.embed_tokens").Weights));
        foreach (var (path, place) in placement.All)
        {
            if (place.Executor is null) Assert.Equal(place.Compute.Kind == DeviceKind.Cuda ? WeightHome.Device : WeightHome.Host, place.Weights);
            else if (place.Executor == ExecutorKind.Cpu) Assert.Equal((Device.Cpu, format), (place.Compute, place.Format));
            if (cards > 0 && path != "model.embed_tokens" && place.Executor is null && name != "DeepSeek-V2-Lite-Chat-gpu-cpu")
                Assert.Equal(DeviceKind.Cuda, place.Compute.Kind);
        }
        var bank = placement.Of("model.layers.5.mlp.experts");
        Assert.Equal((ExecutorKind.Cpu, name == "cpu" ? WeightHome.Mmap : WeightHome.Host), (bank.Executor, bank.Weights));
    }

    [Theory]
    [InlineData("DeepSeek-V3-Chat-sft-amx-multi-gpu", "deepseek-v3", 0, 29, 30, 60)]
    [InlineData("DeepSeek-V3-Chat-sft-amx-multi-gpu-4", "deepseek-v3", 0, 14, 15, 29, 30, 44, 45, 60)]
    [InlineData("DeepSeek-V3-Chat-multi-gpu-8", "deepseek-v3", 0, 7, 8, 15, 16, 23, 24, 31, 32, 39, 40, 47, 48, 55, 56, 60)]
    [InlineData("DeepSeek-V2-Lite-Chat-sft-amx-multi-gpu", "deepseek-v2-lite", 0, 13, 14, 26)]
    [InlineData("DeepSeek-V2-Chat-multi-gpu-4", "deepseek-v2", 0, 14, 15, 29, 30, 44, 45, 59)]
    public void Digit_ranges_put_every_layer_on_its_card(string name, string shape, params int[] ranges)
    {
        var placement = Resolve(name, shape);
        for (var card = 0; card < ranges.Length / 2; card++)
            for (var layer = ranges[2 * card]; layer <= ranges[(2 * card) + 1]; layer++)
                foreach (var (path, place) in placement.All)
                    if (path.StartsWith($"model.layers.{layer}.", StringComparison.Ordinal) && place.Executor is null)
                        Assert.Equal((path, Device.Cuda(card)), (path, place.Compute));
        if (shape == "deepseek-v3") Assert.Equal([Device.Cuda((ranges.Length / 2) - 1), Device.Cuda((ranges.Length / 2) - 1)],
            [placement.Of("model.norm").Compute, placement.Of("lm_head").Compute]);
    }

    [Fact]
    public void Marlin_experts_live_on_their_card_in_four_bits()
    {
        var placement = Resolve("DeepSeek-V3-Chat-multi-gpu-marlin", "deepseek-v3");
        foreach (var (layer, card) in new[] { (3, 0), (4, 0), (59, 1), (60, 1) })
        {
            var bank = placement.Of($"model.layers.{layer}.mlp.experts");
            Assert.Equal((ExecutorKind.Resident, Device.Cuda(card), WeightHome.Device, StorageFormat.Int4),
                (bank.Executor, bank.Compute, bank.Weights, bank.Format));
        }
    }

    [Fact]
    public void A_layer_may_be_left_to_the_CPU_as_a_whole()
    {
        var placement = Resolve("DeepSeek-V2-Lite-Chat-gpu-cpu", "deepseek-v2-lite");
        Assert.Equal((Device.Cuda(), Device.Cpu), (placement.Of("model.layers.9").Compute, placement.Of("model.layers.10").Compute));
        Assert.Equal(WeightHome.Host, placement.Of("model.layers.26.self_attn.q_proj").Weights);
        Assert.Equal((Device.Cpu, Device.Cpu), (placement.Of("model.norm").Compute, placement.Of("lm_head").Compute));
    }

    private static ModelPlacement Resolve(string name, string shape) => Shapes.Resolve(shape, $"kt_optimize_rule={Path.Combine(Folder, name + ".yaml")}");
}
