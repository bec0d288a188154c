using System.CommandLine;
using System.CommandLine.Completions;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Models;

namespace KtNotebooks.Cli;

/// <summary>What may stand in the place of the last word of an unfinished command line.</summary>
internal static class Completions
{
    /// <summary>Names of files may stand there as well; after `key=` in the place of its value.</summary>
    public const string Files = ":files";

    public static IEnumerable<string> Of(RootCommand root, IReadOnlyList<string> words)
    {
        var last = words.Count == 0 ? "" : words[^1];
        string[] before = [.. words.Take(words.Count - 1)];
        var (command, count) = Commands.Find(root, before);
        if (command.Name == "help" && command.Parents.Contains(root)) (command, count) = Commands.Find(root, before[count..]);
        var candidates = before.Length > count && OptionOf(root, command, before[^1]) is { } option ? Values(option)
            : last.StartsWith('-') ? Options(root, command)
            : Words(command, last);
        return candidates.Where(c => c == Files || c.StartsWith(last, StringComparison.Ordinal)).Distinct();
    }

    /// <summary>The option that waits for a value behind this word.</summary>
    private static Option? OptionOf(RootCommand root, Command command, string word) =>
        Commands.OptionsOf(root, command)
            .FirstOrDefault(o => (o.Name == word || o.Aliases.Contains(word)) && o.ValueType != typeof(bool) && o.Arity.MaximumNumberOfValues > 0);

    private static string[] Values(Option option) => OrFiles([.. option.GetCompletions(CompletionContext.Empty).Select(c => c.Label)]);

    private static string[] Options(RootCommand root, Command command) =>
        [.. Commands.OptionsOf(root, command).Where(o => !o.Hidden).Select(o => o.Name).Where(n => n.StartsWith("--", StringComparison.Ordinal)),
            .. KnownKeys.Of(command).Select(k => "--" + k.Name)];

    private static IEnumerable<string> Words(Command command, string last)
    {
        if (command.Subcommands.Count > 0) return command.Subcommands.Where(s => !s.Hidden).Select(s => s.Name);
        if (!Commands.TakesKeys(command))
            return command.Arguments.Count == 0
                ? [] : OrFiles([.. command.Arguments.SelectMany(a => a.GetCompletions(CompletionContext.Empty)).Select(c => c.Label)]);
        if (last.Split('=', 2) is [var name, _])
            return KnownKeys.Of(command).FirstOrDefault(k => k.Name == name) is { } key && Choices(key) is { Length: > 0 } choices
                ? choices.Select(v => $"{name}={v}") : [Files];
        return [.. KnownKeys.Of(command).Select(k => k.Name + "="), .. command.Name == "plan" ? ModelShapes.Known : [], Files];
    }

    /// <summary>The words that a key can be; none where it takes others.</summary>
    private static string[] Choices(Key key) => key.Name == "template" ? [.. Templates.Names]
        : key.Kind == "bool" ? ["true", "false"]
        : key.Kind.Contains('|', StringComparison.Ordinal) ? key.Kind.Split('|', StringSplitOptions.TrimEntries) : [];

    private static string[] OrFiles(string[] choices) => choices.Length > 0 ? choices : [Files];
}
