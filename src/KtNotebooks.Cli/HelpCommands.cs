using System.CommandLine;
using System.Reflection;

namespace KtNotebooks.Cli;

/// <summary>`kt help [COMMAND]`, `kt version`, and `kt test`, which the launcher runs.</summary>
internal static class HelpCommands
{
    /// <summary>Of the program, and behind a + the commit that it was built from.</summary>
    public static string Version { get; } = typeof(HelpCommands).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion;

    public static Command CreateHelp(RootCommand root)
    {
        var words = new Argument<string[]>("COMMAND")
        {
            Description = "the command to explain: kt help train, kt help model make",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var command = new Command("help", "Show the commands, or what one of them takes: kt help train") { words };
        command.SetAction(parsed =>
        {
            var asked = Commands.Parse(root, [.. parsed.GetValue(words) ?? [], "--help"]);
            return asked.UnmatchedTokens.Count > 0 ? Failures.Refuse(asked) : asked.Invoke();
        });
        return command;
    }

    public static Command CreateVersion()
    {
        var command = new Command("version", "Show the version");
        command.SetAction(_ => Console.WriteLine($"kt {Version}"));
        return command;
    }

    /// <summary>Stands in the list of commands; the launcher `./kt` takes it before the program sees it, since tests are another program.</summary>
    public static Command CreateTest()
    {
        var words = new Argument<string[]>("WORD")
        {
            Description = "run only the tests whose class or name contains one of the words; without any, all",
            Arity = ArgumentArity.ZeroOrMore,
        };
        var command = new Command("test", "Run the tests: ./kt test [WORD …]; last line: N passed, N failed, N skipped") { words };
        command.SetAction(_ => Failures.Refuse("tests are run by the launcher in the checkout: ./kt test"));
        return command;
    }
}
