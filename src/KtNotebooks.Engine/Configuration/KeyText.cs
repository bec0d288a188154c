using System.Text;

namespace KtNotebooks.Configuration;

/// <summary>The table of keys for people: lines for a terminal, and docs/keys.md.</summary>
public static class KeyText
{
    private static readonly (string Group, string Title)[] Groups =
    [
        ("model", "Model"), ("data", "Data"), ("method", "Method"), ("training", "Training"), ("generation", "Generation"), ("server", "Server"),
        ("export", "Export"),
        ("ktransformers", "KTransformers"), ("own", "Our own"),
    ];

    private static readonly (KeyUse Use, string Command)[] Commands =
    [
        (KeyUse.Train, "train"), (KeyUse.Chat, "chat, api"), (KeyUse.Api, "api"),
        (KeyUse.Predict, "predict, eval"), (KeyUse.Export, "export"), (KeyUse.Plan, "plan"),
        (KeyUse.Pretrain, "pretrain"),
    ];

    /// <summary>One key a paragraph: name, kind and default, and what becomes of it.</summary>
    public static string Lines(IEnumerable<Key> keys)
    {
        var text = new StringBuilder();
        foreach (var key in keys)
        {
            text.Append(key.Name).Append(": ").Append(key.Kind);
            if (key.Default is not null) text.Append(", default ").Append(Word(key.Default));
            if (key.Theirs is not null) text.Append(" (LLaMA-Factory: ").Append(Word(key.Theirs)).Append(')');
            text.Append('\n').Append("    ").Append(Effect(key)).Append('\n');
            foreach (var (values, instead) in Elsewhere(key)) text.Append("    not ").Append(values).Append(": ").Append(instead).Append('\n');
        }
        return text.ToString();
    }

    /// <summary>docs/keys.md. A test compares the file with this text.</summary>
    public static string Markdown()
    {
        var text = new StringBuilder("""
            # Keys

            Every key that a configuration may have: LLaMA-Factory's (0.9.4 and of August 2026), transformers', KTransformers', and our own.
            Made by `kt keys --markdown`; `kt keys WORD` searches.

            - A key that **acts** is read by the commands beside it. Another command that finds it in its file says once that it does not use it.
            - A key **without effect** is accepted and named once, with the reason that stands here.
            - A key that is **not offered** ends the command with what to write instead, unless it asks for nothing (its default, null, false, 0).
            - Any other key is refused with its line and the nearest known one; `ALLOW_EXTRA_ARGS=1` lets it pass, as in LLaMA-Factory.


            """.ReplaceLineEndings("\n"));
        foreach (var (group, title) in Groups)
        {
            var keys = Keys.All.Where(k => k.Group == group).ToList();
            text.Append("## ").Append(title).Append("\n\n");
            text.Append("| key | kind | default | commands | what it sets |\n|---|---|---|---|---|\n");
            foreach (var key in keys.Where(k => k.Effect == KeyEffect.Acts))
                text.Append($"| `{key.Name}` | {Cell(key.Kind)} | {Cell(key.Default ?? "")}"
                    + $"{(key.Theirs is null ? "" : $" (LLaMA-Factory: {Cell(key.Theirs)})")} | {string.Join(", ", UsedBy(key))} | {Cell(key.Help)} |\n");
            Section("Without effect", "why", KeyEffect.NoEffect);
            Section("Not offered", "what instead", KeyEffect.Refused);
            text.Append('\n');

            void Section(string name, string column, KeyEffect effect)
            {
                var some = keys.Where(k => k.Effect == effect).ToList();
                var values = keys.Where(_ => effect == KeyEffect.Refused).SelectMany(k => Elsewhere(k).Select(e => (k.Name, e.Values, e.Instead))).ToList();
                if (some.Count + values.Count == 0) return;
                text.Append($"\n{name}:\n\n| keys | {column} |\n|---|---|\n");
                foreach (var same in some.GroupBy(k => k.Help)) text.Append($"| {string.Join(", ", same.Select(k => $"`{k.Name}`"))} | {Cell(same.Key)} |\n");
                foreach (var (key, refused, instead) in values) text.Append($"| `{key}`: {refused} | {Cell(instead)} |\n");
            }
        }
        return text.ToString().TrimEnd('\n') + "\n";
    }

    /// <summary>The commands that read a key, by name.</summary>
    public static IEnumerable<string> UsedBy(Key key)
    {
        ArgumentNullException.ThrowIfNull(key);
        return Commands.Where(c => key.Uses.HasFlag(c.Use)).Select(c => c.Command);
    }

    private static string Effect(Key key) => key.Effect switch
    {
        KeyEffect.Acts => $"{key.Help} [{string.Join(", ", UsedBy(key))}]",
        KeyEffect.NoEffect => $"no effect here: {key.Help}",
        _ => $"not offered: {key.Help}",
    };

    /// <summary>The values of a key that are refused, those with the same answer together.</summary>
    private static IEnumerable<(string Values, string Instead)> Elsewhere(Key key) =>
        key.Elsewhere.GroupBy(e => e.Value).Select(g => (string.Join(", ", g.Select(e => e.Key)), g.Key));

    private static string Word(string value) => value.Length == 0 ? "nothing" : value;

    private static string Cell(string text) => text.Replace("|", "\\|", StringComparison.Ordinal);
}
