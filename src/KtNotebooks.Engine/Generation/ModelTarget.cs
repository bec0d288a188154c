using System.Text.Json;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Files;

namespace KtNotebooks.Generation;

/// <summary>
/// What a folder in the first place stands for: `kt chat FOLDER` names a model, or an adapter whose adapter_config.json names its model, and the template is
/// the one that adapter was trained with, or that the model's own files name. Keys that are given are left as they are.
/// </summary>
public static class ModelTarget
{
    private const string Model = "model_name_or_path", Adapter = "adapter_name_or_path";

    /// <summary>The arguments with what they left unsaid, and what to tell about that.</summary>
    /// <exception cref="ArgumentException">A folder that holds neither a model nor an adapter, or a template that only a person can choose.</exception>
    public static (string[] Arguments, IReadOnlyList<string> Notes) Complete(IReadOnlyList<string> arguments)
    {
        var (given, told) = AsTrained(Named(arguments));
        var (completed, notes) = WithTemplate(given);
        return (completed, [.. told, .. notes]);
    }

    private static readonly string[] OfTemplates = ["template", "default_system", "tool_format", "enable_thinking"];

    /// <summary>What forms the prompts of an adapter that was trained here, unless the arguments say it: it has learned to answer these.</summary>
    private static (string[] Given, string[] Told) AsTrained(string[] given)
    {
        var c = Settings.Read(given);
        if (c.Has("template") || c.List(Adapter) is not [var adapter] || Path.Combine(adapter, "training_args.yaml") is var file && !File.Exists(file))
            return (given, []);
        var trained = Settings.Read([file]);
        string[] found = [.. OfTemplates.Where(key => trained.Text(key) is not null && !c.Has(key))];
        return found.Length == 0 ? (given, []) : ([.. given, .. found.Select(key => $"{key}={YamlText.PairValue(trained.Text(key)!)}")],
            [$"{string.Join(", ", found.Select(key => $"{key} {trained.Text(key)}"))}: as the adapter was trained ({file})"]);
    }

    /// <summary>The template, as the model's own files name it.</summary>
    private static (string[] Arguments, IReadOnlyList<string> Notes) WithTemplate(string[] given)
    {
        var c = Settings.Read(given);
        if (c.Has("template") || c.Text(Model) is not { } name
            || HubCache.Resolve(name, c.Text("model_revision"), c.Text("cache_dir"), whole: false) is var model && !Directory.Exists(model)) return (given, []);
        // The folder of an adapter may hold the tokenizer that it was trained with.
        string[] folders = [.. (c.List(Adapter) ?? []).Where(Directory.Exists), model];
        var fitting = folders.Select(f => ChatTemplate.Find(f) is { } text ? ChatTemplate.Likely(text) : []).FirstOrDefault(f => f.Count > 0) ?? [];
        if (fitting is [var only]) return ([.. given, $"template={only}"], [$"template {only}: the chat template in {model} is of that form"]);
        if (ChatTemplate.Find(model) is not null) return ([.. given, "template=auto"], [$"template auto: the chat template in {model} is run"]);
        throw new ArgumentException($"{c.Name}: 'template' is required: {model} "
            + $"{(fitting.Count > 0 ? $"may be {string.Join(" or ", fitting)}" : "does not say which it was made with")}; "
            + $"write template={(fitting.Count > 0 ? fitting[0] : "NAME")}{(fitting.Count > 0 ? "" : $", one of {string.Join(", ", Templates.Names)}")}");
    }

    /// <summary>A folder in the first place becomes the keys that it stands for: model_name_or_path, with adapter_name_or_path for an adapter.</summary>
    /// <exception cref="ArgumentException">It holds neither a model nor an adapter.</exception>
    public static string[] Named(IReadOnlyList<string> given)
    {
        ArgumentNullException.ThrowIfNull(given);
        string[] arguments = [.. given];
        if (arguments is not [var first, ..]) return arguments;
        if (first.Contains('=', StringComparison.Ordinal)) return arguments;
        if (Path.GetExtension(first) is ".gguf" or ".safetensors")
            throw new ArgumentException($"{first} is a file of weights; its folder is wanted, or {Model}=FOLDER {Adapter}={first}");
        if (Path.GetExtension(first) is ".yaml" or ".yml" or ".json") return arguments;
        if (HubCache.Resolve(first, whole: false) is var folder && folder != first)
            return File.Exists(Path.Combine(folder, "adapter_config.json")) ? Named([folder, .. arguments[1..]]) : [$"{Model}={first}", .. arguments[1..]];
        if (!Directory.Exists(first)) return arguments;
        string[] rest = arguments[1..];
        if (File.Exists(Path.Combine(first, "adapter_config.json")))
            return [.. rest.Any(a => a.StartsWith(Model + "=", StringComparison.Ordinal)) ? [] : new[] { $"{Model}={BaseOf(first)}" }, $"{Adapter}={first}",
                .. rest];
        if (File.Exists(Path.Combine(first, "config.json"))) return [$"{Model}={first}", .. rest];
        throw new ArgumentException($"{first}: holds neither a model (config.json) nor an adapter (adapter_config.json)");
    }

    private static string BaseOf(string folder)
    {
        var path = Path.Combine(folder, "adapter_config.json");
        if (!JsonSource.Read(path, "an adapter's settings").TryGetProperty("base_model_name_or_path", out var value) || value.ValueKind != JsonValueKind.String
            || value.GetString() is not { Length: > 0 } name)
            throw new InvalidDataException($"{path}: names no base_model_name_or_path; write {Model}=FOLDER as well");
        if (Directory.Exists(name) || Path.IsPathRooted(name)) return name;
        // A path from where it was trained, while one stands elsewhere: most adapters lie below.
        for (var at = new DirectoryInfo(folder).Parent; at is not null; at = at.Parent)
            if (Directory.Exists(Path.Combine(at.FullName, name))) return Path.Combine(at.FullName, name);
        return name;
    }
}
