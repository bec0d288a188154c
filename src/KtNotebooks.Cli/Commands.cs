using System.CommandLine;

namespace KtNotebooks.Cli;

/// <summary>All commands as one tree: what is run, and what help, completion and messages about wrong command lines are made from.</summary>
internal static class Commands
{
    /// <summary>
    /// The name of the argument that is a YAML file and key=value pairs. Commands that have it also take keys as options: <see cref="KeyOptions"/>.
    /// </summary>
    public const string Config = "CONFIG";

    // A word that begins with @ is a word like any other, and not the name of a file with more of them.
    private static readonly ParserConfiguration Words = new() { ResponseFileTokenReplacer = null };

    public static RootCommand Create()
    {
        var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine. New here? ./kt tour")
        {
            TourCommand.Create(),
            TrainCommands.CreateTrain(),
            ChatCommand.Create(),
            ApiCommand.Create(),
            WebchatCommand.Create(),
            PredictCommand.Create(),
            EvalCommand.Create(),
            ReportCommand.Create(),
            KeysCommand.Create(),
            ExportCommand.CreateExport(),
            ExportCommand.CreateAdapter(),
            PlanCommand.Create(),
            DoctorCommand.Create(),
            DataCommands.Create(),
            ModelCommands.Create(),
            ConvertCommand.Create(),
            TokenizeCommand.Create(),
            NotebookCommands.Create(),
            KernelCommands.Create(),
            PackCommand.Create(),
            BenchCommands.Create(),
            VerifyCommand.Create(),
            TrainCommands.CreatePretrain(),
            HelpCommands.CreateTest(),
            DoctorCommand.CreateEnv(),
        };
        root.Add(HelpCommands.CreateHelp(root));
        root.Add(HelpCommands.CreateVersion());
        root.Add(CompletionCommands.CreateScripts());
        root.Add(CompletionCommands.CreateComplete(root));
        return root;
    }

    /// <summary>What a command line asks for; its errors are told by <see cref="CommandLineErrors"/>.</summary>
    /// <exception cref="ArgumentException">An option that a command does not have and that looks like a slip.</exception>
    public static ParseResult Parse(RootCommand root, IReadOnlyList<string> arguments) =>
        root.Parse(arguments.Count == 0 ? ["--help"] : KeyOptions.ToPairs(root, arguments), Words);

    /// <summary>The command that the first words name, and how many words that took.</summary>
    public static (Command Command, int Words) Find(Command root, IReadOnlyList<string> words)
    {
        var (command, count) = (root, 0);
        while (count < words.Count && command.Subcommands.FirstOrDefault(s => s.Name == words[count]) is { } next) (command, count) = (next, count + 1);
        return (command, count);
    }

    /// <summary>Whether it takes a YAML file and key=value pairs.</summary>
    public static bool TakesKeys(Command command) => command.Arguments.Any(a => a.Name == Config);

    /// <summary>Its options and those that every command has, all spellings.</summary>
    public static IEnumerable<Option> OptionsOf(RootCommand root, Command command) => command.Options.Concat(root.Options.Where(o => o.Recursive)).Distinct();
}
