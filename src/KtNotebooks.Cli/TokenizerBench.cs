using System.CommandLine;
using System.Diagnostics;
using System.Text;
using KtNotebooks.Course.Synthetic;
using KtNotebooks.Files;
using KtNotebooks.Interactive;
using KtNotebooks.Tokenizers;
using Spectre.Console;

namespace KtNotebooks.Cli;

/// <summary>kt bench tokenize: how fast one core encodes texts of several kinds. Each is checked first: what is decoded again must be the text.</summary>
internal static class TokenizerBench
{
    private const int Rounds = 5;

    public static Command Create()
    {
        var path = new Option<string>("--tokenizer")
        {
            Description = "A folder with tokenizer.json or tiktoken.model, that file, or a model's name in Hugging Face's or ModelScope's cache",
            Required = true,
        };
        var file = new Option<FileInfo?>("--file") { Description = "A text of your own besides the built-in ones" };
        var command = new Command("tokenize", "Encoding speed of a tokenizer on one core, in MB of UTF-8 a second") { path, file };
        command.SetAction(parsed => Run(parsed.GetRequiredValue(path), parsed.GetValue(file)));
        return command;
    }

    private static int Run(string path, FileInfo? file)
    {
        var watch = Stopwatch.StartNew();
        var tokenizer = Tokenizer.Load(path);
        Console.WriteLine($"{path}: {tokenizer.VocabSize} tokens, loaded in {watch.Elapsed.TotalMilliseconds:F0} ms; median of {Rounds} rounds on one core");
        var table = new Spectre.Console.Table().AddColumns("text", "MB", "tokens", "bytes/token", "MB/s", "spread");
        foreach (var (name, pieces, exact) in Texts(file))
        {
            foreach (var text in pieces)
                if (tokenizer.Decode(tokenizer.Encode(text)) is var once && (exact ? once != text : tokenizer.Decode(tokenizer.Encode(once)) != once))
                    throw new InvalidDataException($"the text '{name}' is another one after encoding and decoding: the tokenizer is wrong, so no speed is "
                        + "given");
            var bytes = pieces.Sum(Encoding.UTF8.GetByteCount) / 1e6;
            var tokens = 0L;
            var seconds = new double[Rounds];
            for (var round = 0; round < Rounds; round++)
            {
                tokens = 0;
                watch.Restart();
                foreach (var text in pieces)
                    tokens += tokenizer.Encode(text).Length;
                seconds[round] = watch.Elapsed.TotalSeconds;
            }
            Array.Sort(seconds);
            table.AddRow(name, $"{bytes:F1}", $"{tokens:N0}", $"{bytes * 1e6 / tokens:F2}", $"{bytes / seconds[Rounds / 2]:F1}",
                $"{bytes / seconds[^1]:F1} – {bytes / seconds[0]:F1}");
        }
        AnsiConsole.Write(table);
        return 0;
    }

    // Not exact: a normaliser (Qwen3's is NFC) changes such a text, but what it has changed it keeps.
    private static IEnumerable<(string Name, string[] Pieces, bool Exact)> Texts(FileInfo? file)
    {
        if (file is not null)
            yield return (file.Name, [RegularFile.ReadAllText(file.FullName, "a text to tokenize")], false);
        yield return ("questions and answers, Chinese and English",
            [.. new PlainQa(KnowledgeBase.Load()).Stream(1).Take(40_000).Select(row => row.Instruction + "\n" + row.Output + "\n")], true);
        yield return ("C# source", [.. Directory.EnumerateFiles(Path.Combine(Repository.Root, "src"), "*.cs", SearchOption.AllDirectories)
            .Order(StringComparer.Ordinal).Select(File.ReadAllText)], true);
        yield return ("random code points of all planes", [Random(300_000)], false);
        yield return ("one letter, a million times", [new string('a', 1_000_000)], true);
        yield return ("one space, a million times", [new string(' ', 1_000_000)], true);
        yield return ("one digit, a million times", [new string('7', 1_000_000)], true);
    }

    private static string Random(int count)
    {
        var random = new SeededRandom(1);
        var text = new StringBuilder();
        while (count > 0)
            if (Rune.TryCreate(random.Below(0x110000), out var rune))
            {
                text.Append(rune);
                count--;
            }
        return text.ToString();
    }
}
