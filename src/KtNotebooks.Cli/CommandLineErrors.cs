using System.CommandLine;
using System.CommandLine.Completions;
using System.CommandLine.Parsing;

using KtNotebooks.Data;

namespace KtNotebooks.Cli;

/// <summary>What is wrong with a command line, in one line: the word, what is meant to stand there, and where to read on.</summary>
internal static class CommandLineErrors
{
    /// <summary>LLaMA-Factory's commands that kt has not, and what does their work here.</summary>
    private static readonly Dictionary<string, string> Elsewhere = new()
    {
        ["webui"] = "the notebooks show and steer a run in the browser (`kt kernel install`, then open notebooks/01-first-fine-tune.ipynb); `kt train "
            + "CONFIG.yaml` does the same in the terminal, `kt webchat CONFIG.yaml` talks with what came of it",
    };

    public static string Describe(ParseResult parsed)
    {
        var command = parsed.CommandResult.Command;
        var name = NameOf(parsed.CommandResult);
        var help = command is RootCommand ? "`kt help` lists the commands" : $"`{name} --help` shows what there is";
        if (parsed.UnmatchedTokens is [var word, ..]) return $"{Unknown(parsed.RootCommandResult.Command, command, name, word)} {help}";
        if (command.Subcommands.Count > 0 && command.Action is null)
            return $"{name} wants one of {string.Join(", ", command.Subcommands.Where(s => !s.Hidden).Select(s => s.Name))}; {help}";
        return $"{string.Join("; ", parsed.Errors.Select(e => Of(e, name)).Distinct())}; {help}";
    }

    private static string NameOf(CommandResult result)
    {
        List<string> words = [];
        for (var at = result; at is not null; at = at.Parent as CommandResult) words.Insert(0, at.Command is RootCommand ? "kt" : at.Command.Name);
        return string.Join(' ', words);
    }

    private static string Unknown(Command root, Command command, string name, string word)
    {
        if (word.StartsWith('-'))
        {
            string[] options = [.. Commands.OptionsOf((RootCommand)root, command).Where(o => !o.Hidden).Select(o => o.Name)];
            return $"{name} has no option '{word}'.{Nearest.Hint(word, options)}";
        }
        if (command.Subcommands.Count == 0) return $"{name} has no use for '{word}'.";
        if (command is RootCommand && Elsewhere.TryGetValue(word, out var instead)) return $"there is no command '{word}': {instead}.";
        if (command is RootCommand && Path.GetExtension(word) is ".yaml" or ".yml") return $"what should be done with {word}? `kt train {word}`, for example.";
        string[] known = [.. command.Subcommands.Where(s => !s.Hidden).Select(s => s.Name)];
        return $"{name} has no command '{word}'.{(Nearest.Find(word, known) is { } meant ? $" Did you mean '{meant}'?" : "")}";
    }

    private static string Of(ParseError error, string name)
    {
        var option = error.SymbolResult as OptionResult ?? error.SymbolResult?.Parent as OptionResult;
        if (option is not null)
        {
            var (label, meaning) = (option.Option.Name, option.Option.Description);
            if (option.IdentifierToken is null) return $"{name} wants {label}: {meaning}";
            if (option.Tokens.Count == 0) return $"{label} wants a value: {meaning}";
            if (option.Tokens.Count > option.Option.Arity.MaximumNumberOfValues) return $"{label} is given {option.Tokens.Count} times, and is wanted once";
            return $"{label} must be {Wanted(option.Option, option.Option.ValueType)}, but is '{option.Tokens[^1].Value}'";
        }
        if (error.SymbolResult is not ArgumentResult result) return error.Message.TrimEnd('.');
        var argument = result.Argument;
        return result.Tokens.Count == 0 ? $"{name} wants {argument.Name}: {argument.Description}"
            : $"{argument.Name} must be {Wanted(argument, argument.ValueType)}, but is '{result.Tokens[^1].Value}'";
    }

    private static string Wanted(Symbol symbol, Type type)
    {
        type = Nullable.GetUnderlyingType(type) ?? type;
        if (type == typeof(int)) return $"a whole number up to {int.MaxValue}";
        if (type == typeof(long) || type == typeof(ulong)) return "a whole number";
        if (type == typeof(double)) return "a number";
        if (type == typeof(bool)) return "true or false";
        string[] choices = [.. symbol.GetCompletions(CompletionContext.Empty).Select(c => c.Label)];
        return choices.Length > 0 ? $"one of {string.Join(", ", choices)}" : "another value";
    }
}
