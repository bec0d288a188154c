using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Generation;

/// <summary>
/// The keys by which everything that only runs a model names it: model_name_or_path, adapter_name_or_path, template, infer_dtype, log_level, and where its
/// weights live. Reading comes before loading, so that a wrong key is named before gigabytes are read.
/// </summary>
public sealed record ModelKeys(string Path, IReadOnlyList<string> Adapters, Template Template, DType Type, PlacementSettings Placement)
{
    /// <summary>The adapter of a command that takes one; null: none.</summary>
    /// <exception cref="ArgumentException">Several are given.</exception>
    public string? Adapter => Adapters switch
    {
        [] => null,
        [var one] => one,
        _ => throw new ArgumentException($"adapter_name_or_path: {Adapters.Count} adapters, but one is taken here; `kt chat` takes several by name, `kt "
            + "export` merges them into one model"),
    };

    /// <summary>Hears where every tensor of an adapter goes; null: nobody asked.</summary>
    public Action<string>? Log { get; init; }

    /// <summary>The template was named; else it is the empty one, unless the model brings one of its own.</summary>
    public bool TemplateGiven { get; init; } = true;

    /// <summary>What a person should know before it starts.</summary>
    public IReadOnlyList<string> Notes => [.. TemplateGiven ? Array.Empty<string>()
        : ["'template' is not given and the model brings none: questions are put as bare text; template=NAME puts them as the model has learned them"],
        .. Placement.Notes];

    public static ModelKeys Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        c.OneOf("infer_backend");
        SourceKeys.RequireLora(c);
        c.Flag("use_kt");
        return new ModelKeys(SourceKeys.Model(c), SourceKeys.Adapters(c), DataKeys.ReadTemplate(c), c.OneOf("infer_dtype") == "float32" ? DType.F32
            : DType.BF16, PlacementSettings.Read(c))
        {
            Log = LogLevel.Debug(c),
            TemplateGiven = c.Has("template"),
        };
    }

    /// <summary>do_sample, temperature, top_p, top_k, max_new_tokens, repetition_penalty, seed.</summary>
    /// <param name="c">The config.</param>
    /// <param name="missing">What counts where a key is not given; null: LLaMA-Factory's defaults.</param>
    public static Sampling ReadSampling(Settings c, Sampling? missing = null)
    {
        ArgumentNullException.ThrowIfNull(c);
        // Who gives a temperature wants draws, as LLaMA-Factory takes it, whatever the model's makers said.
        var draws = c.FlagOrNull("do_sample", null) ?? (DrawKeys.Any(c.Has) ? c.Flag("do_sample") : missing?.DoSample ?? c.Flag("do_sample"));
        return new Sampling(
            c.MaybeInt("max_new_tokens") ?? missing?.MaxNewTokens ?? c.Int("max_new_tokens"), draws,
            c.MaybeNumber("temperature") ?? missing?.Temperature ?? c.Number("temperature"), c.MaybeNumber("top_p") ?? missing?.TopP ?? c.Number("top_p"),
            c.MaybeInt("top_k") ?? missing?.TopK ?? c.Int("top_k"),
            c.MaybeNumber("repetition_penalty") ?? missing?.RepetitionPenalty ?? c.Number("repetition_penalty"), (ulong)c.Int("seed")).Checked();
    }

    private static readonly string[] DrawKeys = ["temperature", "top_p", "top_k"];

    /// <summary>Keys of <see cref="ReadSampling"/> that a config gives.</summary>
    internal static IReadOnlyList<string> SamplingGiven(Settings c) =>
        [.. DrawKeys.Concat(["do_sample", "repetition_penalty", "max_new_tokens"]).Where(c.Has)];

    /// <summary>Says what is wrong with adapters and template, which a large model's load would hide for minutes.</summary>
    /// <exception cref="ArgumentException">No template is given, but the model brings one.</exception>
    public void Check()
    {
        if (!TemplateGiven) ChatTemplate.RequireNone(Path);
        foreach (var adapter in Adapters) AdapterSource.Open(NamedAdapters.Split(adapter).Path).Dispose();
    }

    /// <summary>Tokenizer and model with the adapter on it. The caller disposes the model.</summary>
    /// <param name="loading">Told how far the model has come in.</param>
    public (CausalLm Model, Tokenizer Tokenizer) Load(Action<WorkProgress>? loading = null)
    {
        Check();
        var tokenizer = Tokenizer.Load(Path);
        Template.StopIds(tokenizer); // a template of another model is said before a long load
        using var whole = Adapter is { } path ? AdapterSource.Open(path) : null; // modules that it replaces must lie in memory that can be written
        var plan = ModelFolder.Plan(Path, Placement, Type, whole is { Modules.Count: > 0 } ? _ => whole.Modules.ContainsKey : null);
        var model = ModelFolder.Load(Path, Type, plan, new LoadSettings(Report: loading));
        try
        {
            if (Adapter is { } adapter) AdapterFolder.Load(model, adapter, Log);
            return (model, tokenizer);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }
}
