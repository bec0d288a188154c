using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Placement;

public sealed class PlacementRulesTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("kt-placement-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void The_first_match_wins_and_what_matches_nothing_stays_mapped()
    {
        var rules = Load("""
            - match: { name: \.experts\. }
              place: { compute: cpu, weights: mmap }
            - match: { name: ^model\.layers }
              place: { weights: host }
            """);
        Assert.Equal(WeightHome.Mmap, rules.Of("model.layers.1.mlp.experts.3.up_proj.weight").Weights);
        Assert.Equal(WeightHome.Host, rules.Of("model.layers.1.self_attn.q_proj.weight").Weights);
        Assert.Equal(WeightHome.Mmap, rules.Of("lm_head.weight").Weights);
    }

    [Theory]
    [InlineData("- match: { nam: x }\n  place: { weights: host }", ":1: unknown key 'nam'. Did you mean 'name'?")]
    [InlineData("- match: { name: x }\n  place: { weights: host }\n- match: { name: y }\n  place: { compute: 'cuda:0' }", ":4: compute must be cpu in this version, but is 'cuda:0'")]
    [InlineData("- match: { name: x }\n  place: { weights: disk }", ":2: weights must be mmap or host in this version, but is 'disk'")]
    [InlineData("- match: { name: '(' }\n  place: { weights: host }", ":1: '(' is not a regular expression")]
    [InlineData("- match: { name: [a] }\n  place: { weights: host }", ":1: expected a word")]
    [InlineData("- match: { name: x }", ":1: 'place' is missing")]
    [InlineData("match: x", ":1: a rules file is a list")]
    [InlineData("- {", ": not valid YAML")]
    public void A_wrong_file_is_named_with_its_line(string yaml, string expected)
    {
        var error = Assert.Throws<InvalidDataException>(() => Load(yaml));
        Assert.Contains(expected, error.Message);
        Assert.StartsWith(_folder, error.Message);
    }

    [Fact]
    public void A_missing_file_is_named() => Assert.Contains("nowhere.yaml: no such file", Assert.Throws<FileNotFoundException>(() => PlacementRules.Load("nowhere.yaml")).Message);

    [Fact]
    public void The_shipped_rule_loads_and_the_model_computes_the_same_bits_wherever_its_weights_live()
    {
        var golden = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Golden/deepseek_v2_lite/model");
        var batch = TokenBatch.ForInference([[3, 1, 4, 1, 5, 9, 2, 6]]);
        using var mapped = ModelFolder.Load(golden, DType.F32);
        using var placed = ModelFolder.Load(golden, DType.F32, PlacementRules.Load(Path.Combine(Checkout.Root, "rules/cpu.yaml")));
        using var a = mapped.Logits(batch);
        using var b = placed.Logits(batch);
        Assert.Equal(a.ToFloats(), b.ToFloats());
    }

    private PlacementRules Load(string yaml)
    {
        var path = Path.Combine(_folder, "rules.yaml");
        File.WriteAllText(path, yaml);
        return PlacementRules.Load(path);
    }
}
