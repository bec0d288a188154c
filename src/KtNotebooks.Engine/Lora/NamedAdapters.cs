using KtNotebooks.Interop;
using KtNotebooks.Models;

namespace KtNotebooks.Lora;

/// <summary>
/// Several adapters beside one base, each under a name and frozen; a pass chooses one, or <see cref="Nn.Pass.BaseModel"/>, so requests with different
/// adapters may run at once. They take no part in training.
/// </summary>
public static class NamedAdapters
{
    /// <summary>The names, sorted.</summary>
    public static IReadOnlyList<string> Of(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return [.. model.All().OfType<Nn.IAdaptable>().SelectMany(m => m.Named.Keys).Distinct().Order(StringComparer.Ordinal)];
    }

    /// <summary>Loads adapters given as `NAME=PATH`, or as a path, whose last part is then the name. Returns the names in the given order.</summary>
    /// <exception cref="ArgumentException">A name twice.</exception>
    public static IReadOnlyList<string> Load(CausalLm model, IEnumerable<string> adapters, Action<string>? log = null)
    {
        ArgumentNullException.ThrowIfNull(adapters);
        List<string> names = [];
        foreach (var adapter in adapters)
        {
            var (name, path) = Split(adapter);
            if (name == Nn.Pass.BaseModel) throw new ArgumentException($"'{name}' means the model without an adapter; give {path} another name: NAME={path}");
            if (names.Contains(name)) throw new ArgumentException($"two adapters are named '{name}'; name one yourself: NAME={path}");
            AdapterFolder.LoadNamed(model, name, path, log);
            names.Add(name);
        }
        return names;
    }

    /// <summary>`NAME=PATH`, or a path, whose last part is then the name.</summary>
    public static (string Name, string Path) Split(string adapter)
    {
        ArgumentNullException.ThrowIfNull(adapter);
        var at = FileKinds.Of(adapter) == FileKind.None ? adapter.IndexOf('=', StringComparison.Ordinal) : -1; // a path may hold the sign
        var path = adapter[(at + 1)..];
        return (at > 0 ? adapter[..at] : NameOf(path), path);
    }

    /// <summary>Frees an adapter; nothing where the name is unknown.</summary>
    public static void Remove(CausalLm model, string name)
    {
        ArgumentNullException.ThrowIfNull(model);
        var any = false;
        foreach (var module in model.All().OfType<Nn.IAdaptable>())
        {
            if (!module.Named.Remove(name, out var lora)) continue;
            lora.Dispose();
            any = true;
        }
        if (any) Nn.WeightVersion.Change();
    }

    /// <summary>A request may ask for an adapter's name, for `base`, or for nothing: the adapter that is attached for training, if there is one.</summary>
    /// <exception cref="ArgumentException">An unknown name, with those that there are.</exception>
    public static void Check(CausalLm model, string? name)
    {
        if (name is null or Nn.Pass.BaseModel) return;
        var known = Of(model);
        if (!known.Contains(name))
            throw new ArgumentException($"no adapter is named '{name}'; there are {string.Join(", ", known.Prepend(Nn.Pass.BaseModel))}");
    }

    private static string NameOf(string path)
    {
        var last = Path.GetFileName(Path.TrimEndingDirectorySeparator(path));
        return last.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) ? last[..^5] : last;
    }
}
