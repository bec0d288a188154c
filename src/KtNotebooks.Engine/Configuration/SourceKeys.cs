using KtNotebooks.Files;

namespace KtNotebooks.Configuration;

/// <summary>The keys that name a model and its adapters: folders, or org/name in a cache on this machine (model_revision, cache_dir).</summary>
public static class SourceKeys
{
    /// <summary>The folder of model_name_or_path.</summary>
    /// <exception cref="FileNotFoundException">It is org/name, and in no cache; the line says where was looked and how to get it.</exception>
    public static string Model(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        return HubCache.Resolve(c.Required("model_name_or_path"), c.Text("model_revision"), c.Text("cache_dir"), whole: false);
    }

    /// <summary>The folders or files of adapter_name_or_path; none when it is not given.</summary>
    /// <inheritdoc cref="Model"/>
    public static IReadOnlyList<string> Adapters(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        return [.. (c.List("adapter_name_or_path") ?? []).Select(name => HubCache.Resolve(name, cacheDir: c.Text("cache_dir"), whole: false))];
    }

    /// <summary>The one adapter of a command that takes one; null: none.</summary>
    /// <exception cref="ArgumentException">Several are given.</exception>
    public static string? Adapter(Settings c, string command) => Adapters(c) switch
    {
        [] => null,
        [var one] => one,
        var several => throw c.Wrong("adapter_name_or_path", $"one adapter for {command}, not {several.Count}; `kt export` merges several into one model"),
    };

    /// <summary>finetuning_type where a trained model is used: full and freeze leave a model's folder, beside which no adapter stands.</summary>
    public static void RequireLora(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        if (c.OneOf("finetuning_type") != "lora" && c.Has("adapter_name_or_path"))
            throw c.Wrong("finetuning_type", "lora with adapter_name_or_path; a model whose own weights were trained is given as model_name_or_path alone");
    }
}
