using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>Both spellings of a rules file: what they mean for the modules of DeepSeek-V2-Lite (27 layers, the first dense), and what is refused.</summary>
public sealed class PlacementRulesTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void The_first_match_wins_and_what_matches_nothing_stays_mapped_on_the_CPU()
    {
        var placement = Resolve("""
            - match: { name: \.experts$ }
              place: { compute: cpu, weights: mmap }
            - match: { name: ^model\.layers }
              place: { weights: host }
            """);
        Assert.Equal(WeightHome.Mmap, placement.Of("model.layers.1.mlp.experts.3.up_proj.weight").Weights);
        Assert.Equal(WeightHome.Host, placement.Of("model.layers.1.self_attn.q_proj.weight").Weights);
        Assert.Equal(WeightHome.Mmap, placement.Of("lm_head.weight").Weights);
        Assert.Equal([Device.Cpu], placement.Devices);
    }

    [Fact]
    public void A_rule_on_a_module_holds_for_what_lies_below_it_until_another_rule_matches()
    {
        var placement = Resolve("""
            - match: { name: 'layers\.3\.mlp\.shared_experts$' }
              place: { compute: 'cuda:0', weights: device }
            - match: { class: layer, name: 'layers\.3$' }
              place: { compute: 'cuda:0' }
            - match: { class: experts, name: 'layers\.[45]\.' }
              place: { compute: cpu, weights: host, format: int8, kernel: avx2 }
            """, "device=cuda:1");
        Assert.Equal(Device.Cuda(0), placement.Of("model.layers.3").Compute);
        Assert.Equal(Device.Cuda(0), placement.Of("model.layers.3.self_attn.kv_b_proj.weight").Compute);
        Assert.Equal(Device.Cuda(0), placement.Of("model.layers.3.mlp.shared_experts.up_proj").Compute);
        Assert.Equal((Device.Cuda(0), WeightHome.Host, ExecutorKind.Auto), Bank(placement, 3));
        Assert.Equal((Device.Cuda(1), WeightHome.Host, ExecutorKind.Auto), Bank(placement, 6));
        var five = placement.Of("model.layers.5.mlp.experts");
        Assert.Equal((Device.Cpu, WeightHome.Host, ExecutorKind.Cpu, StorageFormat.Int8, "avx2"),
            (five.Compute, five.Weights, five.Executor, five.Format, five.Kernel));
        Assert.Equal([Device.Cpu, Device.Cuda(0), Device.Cuda(1)], placement.Devices);
    }

    [Fact]
    public void Cards_take_layers_in_turn_where_no_rule_names_a_card()
    {
        var placement = Resolve("""
            - match: { class: experts, name: 'layers\.[45]\.' }
              place: { compute: cpu, weights: host, format: int8 }
            - match: { class: experts }
              place: { weights: host }
            - match: { class: attention }
              place: { compute: cuda }
            """, "cards=4");
        for (var layer = 0; layer < 27; layer++)
        {
            Assert.Equal(Device.Cuda(layer % 4), placement.Of($"model.layers.{layer}").Compute);
            Assert.Equal(Device.Cuda(layer % 4), placement.Of($"model.layers.{layer}.self_attn.q_proj.weight").Compute);
            if (layer is not (0 or 4 or 5)) Assert.Equal((Device.Cuda(layer % 4), WeightHome.Host, ExecutorKind.Streamed), Bank(placement, layer));
        }
        Assert.Equal((Device.Cpu, WeightHome.Host, ExecutorKind.Cpu), Bank(placement, 4));
        // with the last layer, 26
        Assert.Equal((Device.Cuda(0), Device.Cuda(2), Device.Cuda(2)),
            (placement.Of("model.embed_tokens").Compute, placement.Of("model.norm").Compute, placement.Of("lm_head").Compute));
        Assert.Equal([Device.Cpu, Device.Cuda(0), Device.Cuda(1), Device.Cuda(2), Device.Cuda(3)], placement.Devices);
    }

    [Fact]
    public void One_card_of_cards_is_the_first()
    {
        Assert.Equal([Device.Cuda(0)], Resolve("- match: { class: experts }\n  place: { weights: host }\n", "cards=1").Devices);
        Assert.Equal([Device.Cpu], Resolve("- match: { class: experts }\n  place: { weights: host }\n", "cards=2", "device=cpu").Devices);
    }

    [Theory]
    [InlineData("- match: { name: x }\n  place: { compute: 'cuda:1' }\n", "cards=2", "cards and a rules file that numbers cards exclude each other")]
    [InlineData("- match: { name: x }\n  place: { compute: auto }\n", "cards=2 device=cuda:1", "cards and device: cuda:1 exclude each other")]
    [InlineData("- match: { name: x }\n  place: { compute: auto }\n", "cards=0", "cards")]
    [InlineData("- match: { name: x }\n  place: { compute: auto }\n", "cards=both", "cards")]
    public void Cards_that_cannot_be_are_refused(string rules, string keys, string says) =>
        Assert.Contains(says, Assert.ThrowsAny<ArgumentException>(() => Resolve(rules, keys.Split(' '))).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("weights: device", "cuda:0", WeightHome.Device, ExecutorKind.Resident)]
    [InlineData("weights: host", "cuda:0", WeightHome.Host, ExecutorKind.Streamed)]
    [InlineData("experts: split", "cuda:0", WeightHome.Host, ExecutorKind.Split)]
    [InlineData("compute: auto", "cuda:0", WeightHome.Host, ExecutorKind.Auto)]
    [InlineData("compute: cpu", "cpu", WeightHome.Host, ExecutorKind.Cpu)]
    [InlineData("experts: cpu, compute: cpu, weights: mmap", "cpu", WeightHome.Mmap, ExecutorKind.Cpu)]
    public void Experts_run_where_their_place_says(string place, string device, WeightHome home, ExecutorKind executor)
    {
        var placement = Resolve($"- match: {{ class: experts }}\n  place: {{ {place} }}\n", "device=cuda:0");
        Assert.Equal((Device.Parse(device), home, executor), Bank(placement, 26));
    }

    [Theory]
    [InlineData("cpu", "cpu", WeightHome.Mmap, ExecutorKind.Cpu)]
    [InlineData("streamed", "cuda:1", WeightHome.Host, ExecutorKind.Streamed)]
    [InlineData("resident", "cuda:1", WeightHome.Device, ExecutorKind.Resident)]
    [InlineData("split", "cuda:1", WeightHome.Host, ExecutorKind.Split)]
    [InlineData("auto", "cuda:1", WeightHome.Host, ExecutorKind.Auto)]
    public void The_key_experts_wins_over_every_rule(string experts, string device, WeightHome home, ExecutorKind executor)
    {
        var placement = Resolve("- match: { class: experts }\n  place: { compute: cpu, weights: mmap }\n", "device=cuda:1", "experts=" + experts);
        Assert.Equal((Device.Parse(device), home, executor), Bank(placement, 1));
    }

    [Fact]
    public void Device_cpu_wins_over_a_file_that_names_cards()
    {
        var placement = Resolve(File.ReadAllText(Path.Combine(Checkout.Root, "rules/DeepSeek-V2-Lite-Chat-sft-amx-multi-gpu.yaml")), "device=cpu");
        Assert.Equal([Device.Cpu], placement.Devices);
        Assert.DoesNotContain(placement.All, m => m.Place.Weights == WeightHome.Device);
        Assert.Equal(StorageFormat.Int8, placement.Of("model.layers.20.mlp.experts").Format);
        placement.PrepareDevices();
    }

    [Fact]
    public void A_card_that_is_not_there_is_refused_with_the_line_to_change()
    {
        var error = Assert.Throws<NotSupportedException>(Resolve("# a comment\n- match: { class: embedding }\n  place: { compute: cpu }\n- match: { class: "
            + "layer }\n  place: { compute: 'cuda:97' }\n").PrepareDevices);
        Assert.StartsWith($"{_folder.Path}/rules.yaml:4: puts model.layers.0.input_layernorm on cuda:97, but ", error.Message, StringComparison.Ordinal);
        Assert.EndsWith("Change that line, or write device: cpu to compute everything on the CPU", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("- match: { nam: x }\n  place: { weights: host }", ":1: unknown key 'nam'. Did you mean 'name'?")]
    [InlineData("- match: { name: x }\n  place: { weights: host }\n- match: { name: y }\n  place: { compute: 'npu:0' }",
        ":4: device 'npu:0' is not known; write cpu, cuda or cuda:N")]
    [InlineData("- match: { name: x }\n  place: { weights: tape }", ":2: weights must be host, device, mmap or disk, but is 'tape'")]
    [InlineData("- match: { name: x }\n  place: { format: int3 }", ":2: format must be bf16, fp8, int8, int4 or mxfp4, but is 'int3'")]
    [InlineData("- match: { name: x }\n  place: { kernel: sse }", ":2: kernel must be auto, amx, amx_int8, avx512bf16, avx512, avx2 or plain, but is 'sse'")]
    [InlineData("- match: { name: x }\n  place: { compute: cpu, weights: device }", ":2: weights: device means a card, but compute is cpu")]
    [InlineData("- match: { name: x }\n  place: { compute: cpu, experts: split }", ":2: experts: split needs a card, but compute is cpu")]
    [InlineData("- match: { name: '(' }\n  place: { weights: host }", ":1: not a regular expression")]
    [InlineData("- match: { name: [a] }\n  place: { weights: host }", ":1: expected a word")]
    [InlineData("- match: { name: x }", ":1: 'place' (or KTransformers' 'replace') is missing")]
    [InlineData("- match: {}\n  place: { weights: host }", ":1: match needs a name, a class, or both")]
    [InlineData("- match: { name: x }\n  place: { weights: host }\n  replace: { class: default }", ":1: 'place' and 'replace' exclude each other")]
    [InlineData("- match: { class: torch.nn.Linaer }\n  place: { weights: host }", ":1: unknown class 'torch.nn.Linaer'. Did you mean 'torch.nn.Linear'?")]
    [InlineData("- match: { name: x }\n  replace: { class: ktransformers.operators.experts.KTransformerExperts }",
        ":2: unknown class 'ktransformers.operators.experts.KTransformerExperts'. Did you mean 'ktransformers.operators.experts.KTransformersExperts'?")]
    [InlineData("- match: { name: x }\n  replace:\n    class: ktransformers.operators.experts.KTransformersExperts\n    kwargs: { generate_op: KSFTExpertCPU }",
        ":4: unknown generate_op 'KSFTExpertCPU'. Did you mean 'KSFTExpertsCPU'?")]
    [InlineData("- match: { name: x }\n  replace:\n    class: ktransformers.operators.experts.KTransformersExperts\n    kwargs:\n      backend: AMXIn8",
        ":5: unknown backend 'AMXIn8'. Did you mean 'AMXInt8'?")]
    [InlineData("- match: { name: x }\n  replace:\n    class: ktransformers.operators.linear.KTransformersLinear\n    kwargs:\n      generate_devce: cuda",
        ":5: unknown key 'generate_devce'. Did you mean 'generate_device'?")]
    [InlineData("- match: { name: x }\n  replace:\n    class: ktransformers.operators.linear.KTransformersLinear\n    kwargs:\n      prefill_op: KLinearTorhc",
        ":5: unknown prefill_op 'KLinearTorhc'. Did you mean 'KLinearTorch'?")]
    [InlineData("- match: { name: x }\n  replace:\n    class: ktransformers.operators.models.KDeepseekV2Model\n    kwargs:\n      transfer_map: { one: "
        + "'cuda:1' }", ":5: transfer_map must name the number of a layer, but says 'one'")]
    [InlineData("- match: { name: x }\n  replace: { class: default }\n  recursive: maybe", ":3: recursive must be true, false, True or False, but is 'maybe'")]
    [InlineData("match: x", ":1: a rules file is a list")]
    [InlineData("- {", ": not valid YAML")]
    public void A_wrong_file_is_named_with_its_line(string yaml, string expected)
    {
        var error = Assert.Throws<InvalidDataException>(() => PlacementRules.Load(_folder.Write("rules.yaml", yaml)));
        Assert.StartsWith($"{_folder.Path}/rules.yaml", error.Message, StringComparison.Ordinal);
        Assert.Contains(expected, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("- match: { name: 'layers\\.4\\.self_attn' }\n  place: { compute: 'cuda:1' }",
        ":1: puts model.layers.4.self_attn.q_proj on cuda:1, but command line puts model.layers.4.input_layernorm of the same layer on cuda:0")]
    [InlineData("- match: { name: 'lm_head' }\n  place: { compute: 'cuda:0', weights: host }",
        ":1: lm_head computes on cuda:0, so its weights must live there (weights: device); only experts and linear layers in the decoder's layers can come")]
    [InlineData("- match: { class: experts }\n  place: { weights: mmap }",
        ":1: model.layers.1.mlp.experts computes on cuda:0: its weights must be pinned (weights: host) or live there (weights: device), not mapped")]
    [InlineData("- match: { name: 'self_attn' }\n  replace: { class: ktransformers.operators.attention.KDeepseekV2Attention }",
        ":1: replaces model.layers.0.self_attn.q_proj, which is of class linear, by a class for attention; add a class to the match, or narrow the name")]
    [InlineData("- match: { name: '^model$' }\n  replace:\n    class: ktransformers.operators.models.KDeepseekV2Model\n    kwargs:\n      transfer_map: { 9: "
        + "'cuda:1' }\n- match: { name: layers }\n  place: { compute: 'cuda:0' }", ":5: transfer_map sends model.layers.9 to cuda:1, but ")]
    [InlineData("- match: { class: experts }\n  replace:\n    class: ktransformers.operators.experts.KTransformersExperts\n    kwargs: { generate_op: "
        + "KExpertsCPU, out_device: 'cuda:1' }", ":1: out_device of model.layers.1.mlp.experts is cuda:1, but its layer computes on cuda:0")]
    public void What_cannot_be_is_named_with_the_line_that_asks_for_it(string yaml, string expected)
    {
        var error = Assert.Throws<InvalidDataException>(() => Resolve(yaml, "device=cuda:0"));
        Assert.Contains(expected, error.Message.Replace(_folder.Path + "/rules.yaml", "", StringComparison.Ordinal), StringComparison.Ordinal);
    }

    /// <summary>A slip in a name would send what it meant elsewhere; nothing that a file says is passed over without a word.</summary>
    [Theory]
    [InlineData(@"{ name: '^model\.layers\..*\.mlp\.expert$' }", "{ compute: cpu }", "matches no module of this model")]
    [InlineData("{ name: nosuchthing }", "{ compute: 'cuda:3' }", "matches no module of this model")]
    [InlineData(@"{ name: 'layers\.1\.mlp\.experts\.3' }", "{ compute: cpu }",
        "matches single experts, which no rule can place: a layer's experts go together, as mlp.experts")]
    public void A_rule_that_places_nothing_is_said(string match, string place, string expected)
    {
        var placement = Resolve($"- match: {{ name: 'layers\\.2\\.' }}\n  place: {{ weights: host }}\n- match: {match}\n  place: {place}\n");
        Assert.Equal([$"{_folder.Path}/rules.yaml:3: {expected}"], placement.Notes);
        Assert.Empty(Resolve("- match: { class: experts }\n  place: { compute: cpu }\n").Notes);
    }

    /// <summary>Only experts are stored in a format of choice, and `class: linear` does not mean them.</summary>
    [Fact]
    public void A_format_without_experts_is_refused()
    {
        foreach (var match in (string[])["name: self_attn", "class: linear", "name: lm_head"])
            Assert.Contains("rules.yaml:1: format is of routed experts alone, and this rule places none", Assert.Throws<InvalidDataException>(() =>
                Resolve($"- match: {{ {match} }}\n  place: {{ compute: cpu, format: int4 }}\n")).Message, StringComparison.Ordinal);
        Assert.Equal(StorageFormat.Int4, Resolve("- match: { name: . }\n  place: { compute: cpu, format: int4 }\n").Of("model.layers.3.mlp.experts").Format);
        Assert.Equal(WeightHome.Mmap, Resolve("- match: { class: linear }\n  place: { weights: host }\n").Of("model.layers.3.mlp.experts").Weights);
    }

    /// <summary>kt plan must not say "fits" of what kt train refuses here.</summary>
    [Fact]
    public void A_kernel_that_is_not_here_does_not_fit()
    {
        var missing = ((string[])["amx_int8", "amx", "avx512bf16"]).FirstOrDefault(k => !KtNotebooks.Interop.Cpu.Variants.Contains(k));
        if (missing is null) Assert.Skip("this processor has them all");
        var rules = _folder.Write("rules.yaml", $"- match: {{ class: experts }}\n  place: {{ compute: cpu, format: int8, kernel: {missing} }}\n");
        var plan = KtNotebooks.Planning.MemoryPlan.Open("deepseek-v2-lite", $"kt_optimize_rule={rules}");
        Assert.Contains($"asks for kernel: {missing}, which does not run on this processor", plan.Missing, StringComparison.Ordinal);
        var (fits, line) = KtNotebooks.Planning.Machine.Here(_folder.Path).Judge(plan);
        Assert.False(fits);
        Assert.Contains(plan.Missing!, line, StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_file_is_named() =>
        Assert.Contains("nowhere.yaml: no such file", Assert.Throws<FileNotFoundException>(() => PlacementRules.Load("nowhere.yaml")).Message);

    [Fact]
    public void The_model_computes_the_same_bits_wherever_its_weights_live()
    {
        var golden = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/deepseek_v2_lite/model");
        var batch = TokenBatch.ForInference([[3, 1, 4, 1, 5, 9, 2, 6]]);
        using var mapped = ModelFolder.Load(golden, DType.F32);
        using var placed = ModelFolder.Load(golden, DType.F32,
            ModelFolder.Plan(golden, new PlacementSettings { Rules = PlacementRules.Load(Path.Combine(Checkout.Root, "rules/cpu.yaml")) }, DType.F32));
        using var a = mapped.Logits(batch);
        using var b = placed.Logits(batch);
        Assert.Equal(a.ToFloats(), b.ToFloats());
    }

    private static (Device, WeightHome, ExecutorKind?) Bank(ModelPlacement placement, int layer)
    {
        var place = placement.Of($"model.layers.{layer}.mlp.experts");
        return (place.Compute, place.Weights, place.Executor);
    }

    private ModelPlacement Resolve(string yaml, params string[] keys)
    {
        _folder.Write("rules.yaml", yaml);
        return Shapes.Resolve("deepseek-v2-lite", ["kt_optimize_rule=" + _folder.Path + "/rules.yaml", .. keys]);
    }
}
