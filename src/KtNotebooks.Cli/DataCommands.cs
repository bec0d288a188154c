using System.CommandLine;
using KtNotebooks.Synthetic;

namespace KtNotebooks.Cli;

/// <summary>kt data make …: writes the data sets that the project makes itself.</summary>
internal static class DataCommands
{
    public static Command Create() => new("data", "Data sets of the project's own")
    {
        new Command("make", "Write a data set from datasets/source") { PlainQaCommand(), NekoCommand() },
    };

    private static Command PlainQaCommand()
    {
        var file = new Option<FileInfo>("--out") { Description = "The .jsonl file to write", Required = true };
        var rows = new Option<int>("--rows") { Description = "How many different rows", DefaultValueFactory = _ => 24_000 };
        var seed = new Option<ulong>("--seed") { Description = "Same seed, same rows", DefaultValueFactory = _ => 1 };
        var source = Source();
        var command = new Command("plain-qa", "Plain bilingual questions and answers, for pre-training the tiny model") { file, rows, seed, source };
        command.SetAction(result => Run(() =>
        {
            var knowledge = KnowledgeBase.Load(result.GetValue(source));
            var plain = new PlainQa(knowledge);
            var taken = plain.Take(result.GetValue(rows), result.GetValue(seed));
            var target = result.GetRequiredValue(file);
            target.Directory?.Create();
            using var writer = new StreamWriter(target.FullName) { NewLine = "\n" };
            foreach (var row in taken)
                writer.WriteLine(row.ToJson());
            foreach (var language in Enum.GetValues<Language>())
                Console.WriteLine($"{language}: {knowledge.Facts.Count(fact => fact.Language == language)} facts, {plain.CountDistinct(language)} different rows");
            Console.WriteLine($"{taken.Count} rows → {target.FullName}");
        }));
        return command;
    }

    private static Command NekoCommand()
    {
        var folder = new Option<DirectoryInfo>("--out") { Description = "The folder to write both files into", Required = true };
        var source = Source();
        var command = new Command("neko", $"{NekoSet.TrainFile} and {NekoSet.TestFile}: the same facts in cat-girl style") { folder, source };
        command.SetAction(result => Run(() =>
        {
            var target = result.GetRequiredValue(folder).FullName;
            NekoSet.Write(KnowledgeBase.Load(result.GetValue(source)), target);
            Console.WriteLine($"{NekoSet.TrainRows} + {NekoSet.TestRows} rows → {target}");
        }));
        return command;
    }

    private static Option<string?> Source() => new("--source") { Description = "The folder of tables (default: datasets/source of the checkout)" };

    // What a user can put right is one line on stderr; anything else keeps its stack trace.
    private static int Run(Action action)
    {
        try
        {
            action();
            return 0;
        }
        catch (Exception e) when (e is ArgumentException or InvalidDataException or IOException or UnauthorizedAccessException)
        {
            Console.Error.WriteLine(e.Message);
            return 1;
        }
    }
}
