using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>What stands beside a finished adapter: the tokenizer's files, training_args.yaml (a config that gives the same run), and the model card.</summary>
internal static class FineTuneFiles
{
    public const string ArgumentsFile = "training_args.yaml";

    private static readonly string[] TokenizerFiles =
    [
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json",
        "merges.txt", "tokenizer.model", "tiktoken.model",
    ];

    /// <summary>Copies the tokenizer of a model folder as it is.</summary>
    public static void CopyTokenizer(string model, string folder)
    {
        if (!Directory.Exists(model)) return;
        foreach (var name in TokenizerFiles)
        {
            var source = Path.Combine(model, name);
            if (File.Exists(source)) AtomicFile.Write(Path.Combine(folder, name), RegularFile.ReadAllBytes(source, "a tokenizer's file"));
        }
    }

    /// <summary>The config as it was understood: what was given, and the defaults of what decides the weights.</summary>
    public static void WriteArguments(string folder, Settings c, RunIdentity identity)
    {
        var given = c.Given.Where(g => g.Value is not null && c.Asked.Contains(g.Key)).Select(g => (g.Key, (JsonNode?)g.Value)).ToList();
        var others = identity.Config.Where(v => v.Value is not null && !given.Exists(g => g.Key == v.Key));
        AtomicFile.WriteText(Path.Combine(folder, ArgumentsFile),
            $"# As kt train understood its config: what was given\n{YamlText.Of(given)}# and what was not, with its default\n{YamlText.Of(others)}");
    }
}
