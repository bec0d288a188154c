using System.Collections.Frozen;

using KtNotebooks.Configuration.Tables;
using KtNotebooks.Data;

namespace KtNotebooks.Configuration;

/// <summary>
/// The one table of keys: every argument of LLaMA-Factory (0.9.4 and of August 2026) and of transformers' Seq2SeqTrainingArguments, both generations of
/// KTransformers' keys, and our own. Settings take their defaults from here, errors their hints; `kt keys`, `kt train --help` and docs/keys.md print it.
/// </summary>
public static class Keys
{
    /// <summary>All of them, group by group.</summary>
    public static IReadOnlyList<Key> All { get; } =
    [
        .. In("model", ModelTable.Keys), .. In("data", DataTable.Keys), .. In("method", MethodTable.Keys), .. In("training", TrainingTable.Keys),
        .. In("generation", GenerationTable.Keys), .. In("server", ServerTable.Keys),
        .. In("export", ExportTable.Keys), .. In("ktransformers", KTransformersTable.Keys), .. In("own", OwnTable.Keys),
    ];

    private static readonly FrozenDictionary<string, Key> ByName = All.ToFrozenDictionary(k => k.Name);

    /// <summary>The key of a name, or the key of kind dict that the name stands in (`fsdp_config.fsdp_version`); null: there is none.</summary>
    public static Key? Find(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return ByName.GetValueOrDefault(name)
            ?? (name.IndexOf('.', StringComparison.Ordinal) is > 0 and var dot && ByName.GetValueOrDefault(name[..dot]) is { } block
            && block.Kind.Contains("dict", StringComparison.Ordinal) ? block : null);
    }

    /// <summary>The names that come near a wrong one, as a sentence.</summary>
    public static string Hint(string wrong, IEnumerable<string>? more = null) =>
        Nearest.Find(wrong, [.. All.Where(k => k.Effect == KeyEffect.Acts).Select(k => k.Name), .. ByName.Keys, .. more ?? []]) is { } near
            ? $" Did you mean '{near}'?" : " `kt keys` lists the known ones";

    /// <summary>What holds where a key is not given.</summary>
    /// <exception cref="InvalidOperationException">The table has no such key with a default: a fault of ours.</exception>
    public static string Default(string name) => Find(name)?.Default ?? throw new InvalidOperationException($"the table of keys has no default for '{name}'");

    private static IEnumerable<Key> In(string group, IEnumerable<Key> keys) => keys.Select(k => k with { Group = group });
}
