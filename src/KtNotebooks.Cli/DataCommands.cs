using System.CommandLine;
using KtNotebooks.Course;
using KtNotebooks.Course.Synthetic;
using KtNotebooks.Data;
using KtNotebooks.Files;

namespace KtNotebooks.Cli;

/// <summary>kt data make …: writes the data sets that the project makes itself. kt data afrimed: converts AfriMed-QA's CSV.</summary>
internal static class DataCommands
{
    public static Command Create() => new("data", "Data sets of the project's own")
    {
        new Command("make", "Write a data set from datasets/source") { PlainQaCommand(), NekoCommand(), TranslationeseCommand(), MedicalCommand() },
        AfriMedCommand(),
        DataCheck.Create(),
    };

    private static Command PlainQaCommand()
    {
        var file = new Option<FileInfo>("--out") { Description = "The .jsonl file to write", Required = true };
        var rows = new Option<int>("--rows") { Description = "How many different rows", DefaultValueFactory = _ => 24_000 };
        var seed = new Option<ulong>("--seed") { Description = "Same seed, same rows", DefaultValueFactory = _ => 1 };
        var source = Source();
        var command = new Command("plain-qa", "Plain bilingual questions and answers, for pre-training the tiny model") { file, rows, seed, source };
        command.SetAction(result =>
        {
            var knowledge = KnowledgeBase.Load(result.GetValue(source));
            var plain = new PlainQa(knowledge);
            var taken = plain.Take(result.GetValue(rows), result.GetValue(seed));
            var target = result.GetRequiredValue(file);
            AtomicFile.WriteText(target.FullName, string.Concat(taken.Select(row => row.ToJson() + "\n")));
            foreach (var language in Enum.GetValues<Language>())
                Console.WriteLine($"{language}: {knowledge.Facts.Count(fact => fact.Language == language)} facts, {plain.CountDistinct(language)} different "
                    + "rows");
            Console.WriteLine($"{taken.Count} rows → {target.FullName}");
        });
        return command;
    }

    private static Command NekoCommand()
    {
        var folder = new Option<DirectoryInfo>("--out") { Description = "The folder to write both files into", Required = true };
        var source = Source();
        var command = new Command("neko", $"{NekoSet.TrainFile} and {NekoSet.TestFile}: the same facts in cat-girl style") { folder, source };
        command.SetAction(result =>
        {
            var target = result.GetRequiredValue(folder).FullName;
            NekoSet.Write(KnowledgeBase.Load(result.GetValue(source)), target);
            Console.WriteLine($"{NekoSet.TrainRows} + {NekoSet.TestRows} rows → {target}");
        });
        return command;
    }

    private static Command TranslationeseCommand()
    {
        var folder = new Option<DirectoryInfo>("--out") { Description = "The folder to write both files into", Required = true };
        var source = Source();
        var command = new Command("translationese",
            $"{TranslationeseSet.TrainFile} and {TranslationeseSet.TestFile}: the same facts in the tone of dubbed films") { folder, source };
        command.SetAction(result =>
        {
            var target = result.GetRequiredValue(folder).FullName;
            TranslationeseSet.Write(KnowledgeBase.Load(result.GetValue(source)), target);
            Console.WriteLine($"{TranslationeseSet.TrainRows} + {TranslationeseSet.TestRows} rows → {target}");
        });
        return command;
    }

    private static Command MedicalCommand()
    {
        var folder = new Option<DirectoryInfo>("--out") { Description = "The folder to write into", Required = true };
        var source = Source();
        var command = new Command("afrimed-style",
            $"{MedicalSet.FileName}: textbook medicine in AfriMed-QA's columns, and the alpaca files made from it") { folder, source };
        command.SetAction(result =>
        {
            var facts = MedicalSet.LoadFacts(Path.Combine(result.GetValue(source) ?? KnowledgeBase.FindSource(), MedicalSet.SourceFolder));
            Console.WriteLine($"{facts.Count} facts");
            Report(MedicalSet.Write(facts, result.GetRequiredValue(folder).FullName));
        });
        return command;
    }

    private static Command AfriMedCommand()
    {
        var csv = new Argument<FileInfo>("CSV") { Description = "AfriMed-QA v2's file" };
        var folder = new Option<DirectoryInfo>("--out") { Description = "The folder to write into", Required = true };
        var name = new Option<string?>("--name") { Description = "How the written files begin (default: as the CSV)" };
        var command = new Command("afrimed", "Convert AfriMed-QA v2's CSV into alpaca files: single choice and short answer, train and test") { csv, folder,
            name };
        command.SetAction(result =>
        {
            var file = result.GetRequiredValue(csv);
            if (!File.Exists(file.FullName) && !Directory.Exists(file.FullName))
                throw new FileNotFoundException($"There is no '{file.FullName}'. {DatasetSources.Hint("AfriMed-QA")}", file.FullName);
            var converted = AfriMed.Convert(file.FullName, result.GetRequiredValue(folder).FullName, result.GetValue(name));
            Report(converted);
            return converted.Written.Count > 0 ? 0 : Failures.Refuse($"{file.FullName}: none of its {converted.Skipped.Count} rows could be used, so"
                + $" nothing was written");
        });
        return command;
    }

    private static void Report(AfriMed.Result result)
    {
        foreach (var (file, rows) in result.Written)
            Console.WriteLine($"{file}: {rows} rows");
        if (result.Skipped.Count == 0)
            return;
        Console.WriteLine($"{result.Skipped.Count} rows left out:");
        foreach (var line in result.Skipped)
            Console.WriteLine("  " + line.ReplaceLineEndings(" "));
    }

    private static Option<string?> Source() => new("--source") { Description = "The folder of tables (default: datasets/source of the checkout)" };
}
