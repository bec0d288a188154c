using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>
/// PEFT's target_parameters form against its definition: with A as [E, r, in] and B as [out, r, E], expert e's update is Σ_i B[:, i, e] A[e, i, :]
/// (peft/tuners/lora/layer.py, ParamWrapper.get_delta_weight, of parameters [E, out, in]). The same update as pairs of single experts gives the same logits.
/// </summary>
[Collection("cpu variant")]
public sealed class ParameterPairsTests : IDisposable
{
    private const int E = 4, R = 3, D = 40, I = 18;

    private readonly Samples.Folder _folder = new();
    private readonly Random _random = new(11);

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("gate_up_proj", "down_proj")]
    [InlineData("down_proj", "gate_up_proj")]
    [InlineData("gate_up_proj", null)]
    [InlineData("down_proj", null)]
    public void Pairs_on_parameters_act_as_the_pairs_of_each_expert(string inner, string? outer)
    {
        List<(string, Tensor)> fused = [], single = [];
        foreach (var layer in new[] { 1, 2 })
            foreach (var (parameter, place) in new[] { (inner, outer is null ? "" : ".base_layer"), (outer, "") })
            {
                if (parameter is null) continue;
                var (width, output) = parameter == "gate_up_proj" ? (D, 2 * I) : (I, D);
                var (a, b) = (Values(E * R * width), Values(output * R * E));
                var bank = $"base_model.model.model.layers.{layer}.mlp.experts";
                fused.Add(($"{bank}{place}.lora_A.weight", Tensor.From(a, E * R, width)));
                fused.Add(($"{bank}{place}.lora_B.weight", Tensor.From(b, output, E * R)));
                for (var e = 0; e < E; e++)
                    foreach (var (name, from, count) in parameter == "gate_up_proj" ? [("gate_proj", 0, I), ("up_proj", I, I)] : new[] { ("down_proj", 0, D) })
                    {
                        var (A, B) = (new float[R * width], new float[count * R]);
                        for (var i = 0; i < R; i++)
                        {
                            for (var x = 0; x < width; x++) A[(i * width) + x] = a[(((e * R) + i) * width) + x];
                            for (var o = 0; o < count; o++) B[(o * R) + i] = b[((((from + o) * R) + i) * E) + e];
                        }
                        single.Add(($"{bank}.{e}.{name}.lora_A.weight", Tensor.From(A, R, width)));
                        single.Add(($"{bank}.{e}.{name}.lora_B.weight", Tensor.From(B, count, R)));
                    }
            }
        if (outer is null) // pairs of the other projections, which change nothing
            foreach (var layer in new[] { 1, 2 })
                for (var e = 0; e < E; e++)
                    foreach (var (name, width, output) in inner == "down_proj" ? [("gate_proj", D, I), ("up_proj", D, I)] : new[] { ("down_proj", I, D) })
                    {
                        single.Add(($"base_model.model.model.layers.{layer}.mlp.experts.{e}.{name}.lora_A.weight", Tensor.Zeros(DType.F32, R, width)));
                        single.Add(($"base_model.model.model.layers.{layer}.mlp.experts.{e}.{name}.lora_B.weight", Tensor.Zeros(DType.F32, output, R)));
                    }
        var targets = string.Join(", ", new[] { inner, outer }.OfType<string>().Select(t => $"\"mlp.experts.{t}\""));
        Write("fused", fused, $"\"target_modules\": [\"q_proj\"], \"target_parameters\": [{targets}]");
        Write("single", single, "\"target_modules\": [\"gate_proj\", \"up_proj\", \"down_proj\"]");
        Assert.Equal(Logits("single"), Logits("fused"));
        using var plain = Tiny.Build();
        Assert.NotEqual(Logits(plain), Logits("fused"));

        // Together again, its A shared: the same file up to the parameter that had no pair.
        using (var source = AdapterSource.Open(Path.Combine(_folder.Path, "fused"))) source.Save(Path.Combine(_folder.Path, "again"), ExpertForm.Parameters);
        Assert.Equal(Logits("single"), Logits("again"));
        using (var again = AdapterSource.Open(Path.Combine(_folder.Path, "again"))) Assert.Equal(R, again.Settings.Rank);

        // Written again it is an adapter of single experts, which loads as such.
        using (var source = AdapterSource.Open(Path.Combine(_folder.Path, "fused"))) source.Save(Path.Combine(_folder.Path, "converted"), ExpertForm.Each);
        Assert.Equal(Logits("single"), Logits("converted"));
    }

    /// <summary>Gate and up with an A of their own: twice the rank, and the same logits, dense pairs among them.</summary>
    [Fact]
    public void Pairs_of_single_experts_become_pairs_on_parameters()
    {
        using var model = Tiny.WithAdapter();
        var expected = Logits(model);
        var settings = new LoraSettings(R, Experts: true);
        foreach (var form in (ExpertForm[])[ExpertForm.Each, ExpertForm.Parameters])
            AdapterFolder.Save(model, settings, Directory.CreateDirectory(Path.Combine(_folder.Path, form.ToString())).FullName, "base", form);
        using (var source = AdapterSource.Open(Path.Combine(_folder.Path, "Each"))) source.Save(Path.Combine(_folder.Path, "converted"), ExpertForm.Parameters);
        foreach (var name in (string[])["Parameters", "converted"])
        {
            var logits = Logits(name);
            Assert.All(logits.Zip(expected), v => Assert.Equal(v.Second, v.First, 1e-4 * expected.Max(Math.Abs)));
            using var file = new SafetensorsFile(Path.Combine(_folder.Path, name, "adapter_model.safetensors"));
            const string Bank = "base_model.model.model.layers.1.mlp.experts";
            Assert.Equal([E * 2 * R, D], file.Entries[$"{Bank}.base_layer.lora_A.weight"].Shape);
            Assert.Equal([2 * I, E * 2 * R], file.Entries[$"{Bank}.base_layer.lora_B.weight"].Shape);
            Assert.Equal([E * 2 * R, I], file.Entries[$"{Bank}.lora_A.weight"].Shape);
            Assert.Equal([D, E * 2 * R], file.Entries[$"{Bank}.lora_B.weight"].Shape);
            Assert.Equal([2 * R, D], file.Entries["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"].Shape);
            var config = File.ReadAllText(Path.Combine(_folder.Path, name, "adapter_config.json"));
            Assert.Contains("\"mlp.experts.gate_up_proj\"", config, StringComparison.Ordinal);
            Assert.DoesNotContain("\"experts\"", config, StringComparison.Ordinal);
            Assert.DoesNotContain("\"base_layer\"", config, StringComparison.Ordinal);
        }
        using var first = AdapterSource.Open(Path.Combine(_folder.Path, "Parameters"));
        using var second = AdapterSource.Open(Path.Combine(_folder.Path, "converted"));
        Assert.All(first.Tensors, t => Assert.Equal(t.Value.Read(), second.Tensors[t.Key].Read()));
    }

    [Fact]
    public void Shapes_that_do_not_go_together_are_named()
    {
        const string Bank = "base_model.model.model.layers.1.mlp.experts";
        Write("odd", [($"{Bank}.lora_A.weight", Tensor.From(Values(E * R * D), E * R, D)), ($"{Bank}.lora_B.weight", Tensor.From(Values(D * R * E), D, R * E)),
            ($"{Bank}.base_layer.lora_A.weight", Tensor.From(Values(E * R * I), E * R, I)),
            ($"{Bank}.base_layer.lora_B.weight", Tensor.From(Values(I * R * E), I, R * E))],
            "\"target_parameters\": [\"experts.gate_up_proj\", \"experts.down_proj\"]");
        Assert.Contains("are not those of gate_up_proj [E, 2I, D] and down_proj [E, D, I]", Assert.Throws<InvalidDataException>(() => Logits("odd")).Message,
            StringComparison.Ordinal);
    }

    private float[] Values(int count) => [.. Enumerable.Range(0, count).Select(_ => (_random.NextSingle() - 0.5f) * 0.4f)];

    private void Write(string name, List<(string, Tensor)> tensors, string more)
    {
        var folder = Directory.CreateDirectory(Path.Combine(_folder.Path, name)).FullName;
        SafetensorsWriter.Write(Path.Combine(folder, "adapter_model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
        File.WriteAllText(Path.Combine(folder, "adapter_config.json"), $$"""{"peft_type": "LORA", "r": {{R}}, "lora_alpha": 6, {{more}} }""");
    }

    private float[] Logits(string name)
    {
        using var model = Tiny.Build();
        AdapterFolder.Load(model, Path.Combine(_folder.Path, name));
        return Logits(model);
    }

    private static float[] Logits(CausalLm model)
    {
        using var logits = model.Logits(TokenBatch.ForInference([[3, 14, 15, 92, 65, 35]]));
        return logits.ToFloats();
    }
}
