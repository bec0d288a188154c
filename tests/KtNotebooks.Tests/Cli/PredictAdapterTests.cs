using System.Text.Json.Nodes;

using KtNotebooks.Lora;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>`kt predict` and `kt train` with adapters of every form, and with those that are refused.</summary>
public sealed class PredictAdapterTests : IDisposable
{
    private readonly Workplace _place = new();

    private string Adapter => Path.Combine(_place.Root, "adapter");

    public PredictAdapterTests()
    {
        using var model = Tiny.WithAdapter();
        AdapterFolder.Save(model, new LoraSettings(3, Experts: true), Adapter, null);
    }

    public void Dispose() => _place.Dispose();

    [Fact]
    public void Routed_experts_in_KTransformers_form_are_predicted_with_and_noted()
    {
        var fused = Adapter + "-fused";
        using (var source = AdapterSource.Open(Adapter)) source.Save(fused, ExpertForm.KTransformers);
        var (exit, output, errors) = Kt.Run(Predict(fused));
        Assert.True(exit == 0, output + errors);
        var noted = JsonNode.Parse(File.ReadAllText(Path.Combine(_place.Output, "predict_settings.json")))!;
        Assert.Equal(AdapterFiles.Find(fused).Hash(), (string?)noted["adapter_sha256"]);
        // Another alpha is another adapter.
        var config = Path.Combine(fused, "adapter_config.json");
        File.WriteAllText(config, File.ReadAllText(config).Replace("\"lora_alpha\": 6", "\"lora_alpha\": 7", StringComparison.Ordinal));
        Assert.StartsWith($"{_place.Output} holds predictions made with adapter_sha256 ", Kt.Refuses(Predict(fused)), StringComparison.Ordinal);
    }

    [Fact]
    public void A_wrong_adapter_is_named_before_the_model_is_loaded()
    {
        File.Delete(Path.Combine(_place.Model, "model.safetensors"));
        var config = Path.Combine(Adapter, "adapter_config.json");
        var good = File.ReadAllText(config);
        File.WriteAllText(config, good.Replace("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", StringComparison.Ordinal));
        Assert.StartsWith($"{config}: 'init_lora_weights' is \"pissa\": ", Kt.Refuses(Predict(Adapter)), StringComparison.Ordinal);
        Assert.StartsWith($"{Adapter}-gone: no such folder; an adapter is a folder that holds ", Kt.Refuses(Predict(Adapter + "-gone")),
            StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("lora_rank=2147483647")]
    [InlineData("lora_rank=100000")]
    public void A_rank_that_no_matrix_has_is_refused_in_a_line(string pair) =>
        Assert.EndsWith($"{pair.Replace('=', ' ')} is larger than 40, the smaller side of the largest matrix that it adapts " +
            "(model.layers.0.mlp.gate_proj, 44 × 40); a pair of a larger rank can say nothing more",
            Kt.Refuses(_place.Train(pair, "lora_experts=true")), StringComparison.Ordinal);

    private string[] Predict(string adapter) =>
    [
        "predict", $"model_name_or_path={_place.Model}", $"adapter_name_or_path={adapter}", $"dataset_dir={Path.Combine(_place.Root, "data")}",
        "eval_dataset=good", "template=deepseek", $"output_dir={_place.Output}",
        "max_samples=2", "max_new_tokens=2",
    ];
}
