using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Experts;
using KtNotebooks.Models;

namespace KtNotebooks.Training;

/// <summary>
/// finetuning_type: full or freeze: which of a model's own weights are trained. freeze, as LLaMA-Factory: the modules of the last layers
/// (freeze_trainable_layers n; the first |n| where n is negative) and modules outside the layers (freeze_extra_modules). A module is named by its path in
/// a layer, self_attn or mlp.experts, so that dense parts and experts can be chosen apart.
/// </summary>
/// <param name="All">full.</param>
/// <param name="Layers">freeze_trainable_layers.</param>
/// <param name="Modules">freeze_trainable_modules; `all`: a layer's whole.</param>
/// <param name="Extra">freeze_extra_modules: embed_tokens, norm, lm_head.</param>
/// <param name="Routers">train_router: routers are among them.</param>
public sealed record TrainedParts(bool All, int Layers = 2, IReadOnlyList<string>? Modules = null, IReadOnlyList<string>? Extra = null, bool Routers = true)
{
    private const string LayerPrefix = "model.layers.";

    public string Word => All ? "full" : "freeze";

    /// <summary>What decides the weights of a run.</summary>
    public IEnumerable<(string Key, JsonNode? Value)> Identity =>
    [
        ("finetuning_type", Word), ("freeze_trainable_layers", All ? null : Layers),
        ("freeze_trainable_modules", All ? null : string.Join(",", Modules ?? ["all"])),
        ("freeze_extra_modules", All || Extra is null ? null : string.Join(",", Extra)),
        ("train_router", Routers),
    ];

    /// <summary>What a config says; null: an adapter is trained.</summary>
    public static TrainedParts? Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        var type = c.OneOf("finetuning_type");
        if (type != "freeze")
            foreach (var key in (string[])["freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules"])
                c.Ignore(key, $"it belongs to finetuning_type: freeze, not {type}");
        if (type == "lora")
        {
            c.Ignore("train_router", "it belongs to finetuning_type: full and freeze; an adapter leaves routers as they are, unless lora_target names gate");
            return null;
        }
        foreach (var key in (string[])["lora_rank", "lora_alpha", "lora_dropout", "lora_target", "lora_experts", "use_rslora", "lora_form"])
            c.Ignore(key, $"there is no adapter with finetuning_type: {type}");
        foreach (var key in (string[])["use_dora", "pissa_init", "additional_target", "loraplus_lr_ratio"])
            if (c.Has(key) && !Keys.Find(key)!.AsksForNothing(c.Text(key))) throw c.Wrong(key, $"left out with finetuning_type: {type}, which has no adapter");
        if (c.Has("adapter_name_or_path"))
            throw c.Wrong("adapter_name_or_path",
                $"left out with finetuning_type: {type}: merge the adapter with kt export, and train the folder that it writes");
        var routers = c.Flag("train_router");
        return type == "full" ? new TrainedParts(true, Routers: routers)
            : new TrainedParts(false, c.Int("freeze_trainable_layers"), c.List("freeze_trainable_modules"), c.List("freeze_extra_modules"), routers);
    }

    /// <summary>Whether a weight of a model is trained, by its name.</summary>
    /// <param name="model">Loaded, or of shapes.</param>
    /// <exception cref="ArgumentException">A module that the model does not have, or nothing that is trained.</exception>
    /// <exception cref="NotSupportedException">Experts that cannot be trained themselves.</exception>
    public Func<string, bool> Of(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        if (!All) RequireKnown(model);
        HashSet<string> fixedNames = [.. model.All().Where(m => !m.CanLearn).SelectMany(m => m.Weights).Select(w => w.Name)];
        if (!Routers)
            fixedNames.UnionWith(model.All().OfType<MoeMlp>().SelectMany(m => m.Children.First().Weights).Select(w => w.Name));
        bool Trains(string name) => !fixedNames.Contains(name) && Selects(name, model.Info.Layers);
        foreach (var bank in model.All().OfType<ExpertBank>())
            if (Trains(bank.Names.Gate.Weight(0)) && bank.Names.GateUpBias is not null)
                throw new NotSupportedException($"{bank.Path}: experts with biases are trained with LoRA alone; leave them out (finetuning_type: freeze with "
                    + "freeze_trainable_modules: self_attn), or give finetuning_type: lora");
        if (!model.AllWeights.Any(w => Trains(w.Name)))
            throw new ArgumentException($"finetuning_type: freeze: nothing is trained: freeze_trainable_layers is {Layers}, and freeze_extra_modules names "
                + "nothing");
        return Trains;
    }

    private bool Selects(string name, int layers)
    {
        if (All) return true;
        if (LayerOf(name) is not { } layer) return (Extra ?? []).Any(module => OutsideName(name) == module);
        var (first, last) = Layers > 0 ? (layers - Layers, layers) : (0, -Layers);
        if (layer < first || layer >= last) return false;
        var inside = InsideName(name);
        return (Modules ?? ["all"]).Any(m => m == "all" || inside.StartsWith(m + ".", StringComparison.Ordinal));
    }

    /// <summary>The layer of a weight, null outside the layers.</summary>
    private static int? LayerOf(string name) => name.StartsWith(LayerPrefix, StringComparison.Ordinal)
        && int.TryParse(name[LayerPrefix.Length..].Split('.')[0], out var layer) ? layer : null;

    /// <summary>self_attn.q_proj.weight of model.layers.3.self_attn.q_proj.weight.</summary>
    private static string InsideName(string name) => name[(name.IndexOf('.', LayerPrefix.Length) + 1)..];

    /// <summary>embed_tokens of model.embed_tokens.weight.</summary>
    private static string OutsideName(string name) => name.Split('.') is [.., var module, _] ? module : name;

    private void RequireKnown(CausalLm model)
    {
        string[] names = [.. model.AllWeights.Select(w => w.Name)];
        var parts = model.All().Where(m => LayerOf(m.Path + ".") is not null && m.Path.Count(c => c == '.') > 2);
        HashSet<string> inside = [.. parts.Select(m => InsideName(m.Path))];
        HashSet<string> outside = [.. names.Where(n => LayerOf(n) is null).Select(OutsideName)];
        foreach (var module in (Modules ?? []).Where(m => m != "all" && !inside.Contains(m)))
            throw new ArgumentException($"freeze_trainable_modules '{module}' is no module of this model's layers; known are all, "
                + string.Join(", ", inside.Order(StringComparer.Ordinal)));
        foreach (var module in (Extra ?? []).Where(m => !outside.Contains(m)))
            throw new ArgumentException($"freeze_extra_modules '{module}' is no module outside this model's layers; known are "
                + string.Join(", ", outside.Order(StringComparer.Ordinal)));
    }
}
