using KtNotebooks.Lora;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>Where every tensor of an adapter goes is said on request, by every command that loads one, and on standard error.</summary>
public sealed class AdapterLogTests : IDisposable
{
    private const string Query = "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight";
    private const string Expert = "base_model.model.model.layers.1.mlp.experts.3.down_proj.lora_B.weight";

    private readonly Workplace _place = new();
    private readonly string[] _tensors;

    public AdapterLogTests()
    {
        var (exit, output, errors) = Kt.Run(_place.Train("max_steps=2", "save_steps=1", "lora_experts=true"));
        Assert.True(exit == 0, output + errors);
        using var adapter = AdapterSource.Open(_place.Output);
        _tensors = [.. adapter.Tensors.Keys];
        Assert.Contains(Query, _tensors);
        Assert.Contains(Expert, _tensors);
    }

    public void Dispose() => _place.Dispose();

    [Fact]
    public void By_chat_predict_and_train()
    {
        string[] model = [$"model_name_or_path={_place.Model}", $"adapter_name_or_path={_place.Output}", "template=deepseek"];
        string[] predict = ["predict", .. model, $"dataset_dir={Path.Combine(_place.Root, "data")}", "eval_dataset=good", "max_samples=1", "max_new_tokens=1",
            $"output_dir={_place.Output}-predicted", "overwrite_output_dir=true"];
        string[] train = _place.Train("max_steps=1", $"adapter_name_or_path={_place.Output}", $"output_dir={_place.Output}-more", "overwrite_output_dir=true");
        foreach (var command in (string[][])[["chat", .. model], predict, train])
        {
            IsLogged([.. command, "log_level=debug"], t => t["base_model.model.".Length..^".weight".Length] + ".default.weight");
            Assert.Equal("", Kt.Run([.. command, "log_level=info"]).Errors);
        }
        Assert.Equal("command line: 'log_level' must be one of debug, info, warning, error, critical, passive, but is 'verbose'",
            Kt.Refuses(["chat", .. model, "log_level=verbose"]));
    }

    [Fact]
    public void By_a_run_that_goes_on()
    {
        foreach (var file in Directory.GetFiles(_place.Output)) File.Delete(file); // as if it had died after its checkpoint
        IsLogged(_place.Train("max_steps=2", "save_steps=1", "lora_experts=true", "log_level=debug"), t =>
            t["base_model.model.".Length..^".weight".Length] + ".default.weight");
    }

    [Fact]
    public void By_export() => IsLogged(["export", $"model_name_or_path={_place.Model}", $"adapter_name_or_path={_place.Output}",
        $"export_dir={_place.Output}-merged", "log_level=debug"],
        t => t["base_model.model.".Length..t.IndexOf(".lora_", StringComparison.Ordinal)] + ".weight");

    [Fact]
    public void By_another_form()
    {
        IsLogged(["adapter", _place.Output, $"{_place.Output}-peft", "--verbose"], t => t);
        IsLogged(["adapter", _place.Output, $"{_place.Output}-fused", "--experts", "fused", "--verbose"],
            t => t == Expert ? "layers.1.experts.down_lora_b[3]" : t.Contains(".experts.", StringComparison.Ordinal) ? null : t);
        IsLogged(["adapter", $"{_place.Output}-fused", $"{_place.Output}-back", "--verbose"], t => t,
            t => t == Expert ? "layers.1.experts.down_lora_b[3]" : t.Contains(".experts.", StringComparison.Ordinal) ? null : t);
        Assert.Equal("", Kt.Run("adapter", _place.Output, $"{_place.Output}-silent").Errors);
    }

    /// <summary>A line for every tensor, each with the name there and the name here where the test knows them.</summary>
    private void IsLogged(string[] command, Func<string, string?> target, Func<string, string?>? source = null)
    {
        var (exit, output, errors) = Kt.Run(command);
        Assert.True(exit == 0, output + errors);
        Assert.DoesNotContain("Loaded adapter weight", output, StringComparison.Ordinal);
        var lines = errors.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(_tensors.Length, lines.Length);
        Assert.Equal(lines.Length, lines.Distinct().Count());
        foreach (var tensor in _tensors)
            if ((source is null ? tensor : source(tensor), target(tensor)) is ({ } from, { } to))
                Assert.Contains($"Loaded adapter weight: {from} -> {to}", lines);
    }
}
