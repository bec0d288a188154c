using KtNotebooks.Experts;
using KtNotebooks.Models;

namespace KtNotebooks.Lora;

/// <summary>
/// Several adapters beside one base, each under a name and frozen; a pass chooses one, or <see cref="Nn.Pass.BaseModel"/>, so requests with different adapters may run at once. They take no part in training.
/// </summary>
public static class NamedAdapters
{
    /// <summary>The names, sorted.</summary>
    public static IReadOnlyList<string> Of(CausalLm model)
    {
        ArgumentNullException.ThrowIfNull(model);
        return [.. model.All().SelectMany(m => m is Nn.Linear l ? l.Named.Keys : m is ExpertBank b ? b.Named.Keys : (IEnumerable<string>)[]).Distinct().Order(StringComparer.Ordinal)];
    }

    /// <summary>Frees an adapter; nothing where the name is unknown.</summary>
    public static void Remove(CausalLm model, string name)
    {
        ArgumentNullException.ThrowIfNull(model);
        foreach (var module in model.All())
        {
            if (module is Nn.Linear linear && linear.Named.Remove(name, out var pair)) pair.Dispose();
            if (module is ExpertBank bank && bank.Named.Remove(name, out var pairs)) pairs.Dispose();
        }
    }

    /// <summary>What a request may ask for: an adapter's name, or `base`. Null asks for the adapter that is attached for training, if there is one.</summary>
    /// <exception cref="ArgumentException">An unknown name, with those that there are.</exception>
    public static string? Checked(CausalLm model, string? name)
    {
        if (name is null || name == Nn.Pass.BaseModel) return name;
        var known = Of(model);
        return known.Contains(name) ? name : throw new ArgumentException($"no adapter is named '{name}'; there are {string.Join(", ", known.Prepend(Nn.Pass.BaseModel))}");
    }
}
