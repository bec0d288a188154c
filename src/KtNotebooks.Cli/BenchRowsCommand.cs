using System.CommandLine;

using KtNotebooks.Bench;
using KtNotebooks.Course.Synthetic;

using Spectre.Console;

namespace KtNotebooks.Cli;

/// <summary>`kt bench rows`: how fast data files give their rows, and in how much memory.</summary>
internal static class BenchRowsCommand
{
    public static Command Create()
    {
        var file = new Option<string?>("--file") { Description = "A data file or folder of your own instead of made rows" };
        var rows = new Option<int>("--rows") { Description = "Made rows to write and read", DefaultValueFactory = _ => 1_000_000 };
        var command = new Command("rows", "Rows of data files as `streaming: true` reads them: time to the first, rows a second, memory") { file, rows };
        command.SetAction((parsed, cancel) => Task.Run(() => Run(parsed.GetValue(file), parsed.GetValue(rows), cancel), cancel));
        return command;
    }

    private static int Run(string? file, int rows, CancellationToken cancel)
    {
        if (rows < 1) throw new ArgumentException("--rows must be at least 1");
        var table = new Table().AddColumns("file", "MB", "rows", "first, ms", "rows/s", "MB/s", "memory, MB");
        foreach (var r in file is null ? Made(rows, cancel) : [RowsBenchmark.Read(file, cancel: cancel)])
            table.AddRow(r.File, $"{r.FileBytes / 1e6:F1}", $"{r.Rows:N0}", $"{r.FirstRowSeconds * 1e3:F0}", $"{r.RowsPerSecond:N0}", $"{r.MbPerSecond:F0}",
                $"{r.HostBytes / 1e6:F0}");
        AnsiConsole.Write(table);
        return 0;
    }

    private static List<RowsBenchmarkResult> Made(int rows, CancellationToken cancel)
    {
        var folder = Directory.CreateTempSubdirectory("kt-rows-");
        try
        {
            // A number in front makes every row another one, as rows of real sets are: Parquet would store equal ones once.
            var texts = new PlainQa(KnowledgeBase.Load()).Stream(1).Take(rows).Select((row, i) => ($"{i}. {row.Instruction}", $"{row.Output} ({i})")).ToList();
            return [.. RowsBenchmark.Run(texts, folder.FullName, cancel)];
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }
}
