using System.CommandLine;
using System.Text.RegularExpressions;

using KtNotebooks.Configuration;
using KtNotebooks.Data;

namespace KtNotebooks.Cli;

/// <summary>
/// LLaMA-Factory also takes its keys as options: `--stage sft`, `--lora_rank=8`, `--do_train` alone for true. Here they become the pairs that a YAML file
/// is overlaid with: `stage=sft`.
/// </summary>
internal static partial class KeyOptions
{
    /// <summary>The same command line with pairs in the place of keys as options. Options of the command itself stay.</summary>
    /// <exception cref="ArgumentException">No key, but close to an option that the command has.</exception>
    public static string[] ToPairs(RootCommand root, IReadOnlyList<string> arguments)
    {
        var (command, count) = Commands.Find(root, arguments);
        if (!Commands.TakesKeys(command)) return [.. arguments];
        string[] own = [.. Commands.OptionsOf(root, command).SelectMany(o => o.Aliases.Prepend(o.Name))];
        if (arguments.Contains(""))
            throw new ArgumentException("an empty word stands in the command line where a file or key=value is wanted (an unset variable of the shell?)");
        List<string> pairs = [.. arguments.Take(count)];
        for (var i = count; i < arguments.Count; i++)
        {
            var (word, value) = arguments[i].IndexOf('=', StringComparison.Ordinal) is > 0 and var at ? (arguments[i][..at], arguments[i][(at + 1)..])
                : (arguments[i], null);
            if (!word.StartsWith("--", StringComparison.Ordinal) || word.Length == 2 || own.Contains(word))
            {
                pairs.Add(arguments[i]);
                continue;
            }
            if (own.FirstOrDefault(o => Nearest.Distance(o, word) <= Math.Max(1, o.Length / 5)) is { } meant)
                throw new ArgumentException($"unknown option '{word}'. Did you mean '{meant}'?");
            if (value is null) value = i + 1 < arguments.Count && IsValue(arguments[i + 1]) ? arguments[++i] : "true";
            pairs.Add($"{word[2..].Replace('-', '_')}={YamlText.PairValue(value)}");
        }
        return [.. pairs];
    }

    private static bool IsValue(string word) => !word.StartsWith("--", StringComparison.Ordinal) && !Pair().IsMatch(word);

    [GeneratedRegex(@"^[A-Za-z_][\w.]*=")]
    private static partial Regex Pair();
}
