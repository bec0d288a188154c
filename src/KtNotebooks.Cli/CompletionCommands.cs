using System.CommandLine;

namespace KtNotebooks.Cli;

/// <summary>
/// `kt completion bash|zsh|fish` prints a script for a shell; the script asks `kt complete` at every TAB, so that it knows what this kt knows.
/// </summary>
internal static class CompletionCommands
{
    private static readonly string[] Shells = ["bash", "zsh", "fish"];

    public static Command CreateScripts()
    {
        var shell = new Argument<string>("SHELL")
        {
            Description = "bash: eval \"$(./kt completion bash)\" in ~/.bashrc; zsh: the same in ~/.zshrc after "
            + "compinit; fish: ./kt completion fish | source in config.fish"
        };
        shell.AcceptOnlyFromAmong(Shells);
        var command = new Command("completion", "Print a script that makes TAB complete commands, options and keys") { shell };
        command.SetAction(parsed =>
        {
            using var script = typeof(CompletionCommands).Assembly.GetManifestResourceStream($"completion.{parsed.GetRequiredValue(shell)}")!;
            using var reader = new StreamReader(script);
            Console.Write(reader.ReadToEnd());
        });
        return command;
    }

    /// <summary>`kt complete -- WORD …`: what may stand in the place of the last word, one a line; `:files` when names of files may.</summary>
    public static Command CreateComplete(RootCommand root)
    {
        var words = new Argument<string[]>("WORD")
        {
            Description = "the words up to the cursor, the last one unfinished or empty",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var command = new Command("complete", "What may stand in the place of the last word; completion scripts ask this") { words };
        command.Hidden = true;
        command.SetAction(parsed =>
        {
            foreach (var word in Completions.Of(root, parsed.GetValue(words) ?? [])) Console.WriteLine(word);
        });
        return command;
    }
}
