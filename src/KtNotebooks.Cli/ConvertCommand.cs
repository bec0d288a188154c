using System.CommandLine;

using KtNotebooks.Files;
using KtNotebooks.Weights;

namespace KtNotebooks.Cli;

/// <summary>`kt convert fp8-to-bf16 SRC DST`: a BF16 copy of a checkpoint in DeepSeek-V3's FP8 layout.</summary>
internal static class ConvertCommand
{
    public static Command Create() => new("convert", "Change the format of a model folder") { Fp8ToBf16() };

    private static Command Fp8ToBf16()
    {
        var source = new Argument<string>("SRC")
        {
            Description = "a folder in DeepSeek-V3's FP8 layout (F8_E4M3 with weight_scale_inv), or a model's name in Hugging Face's or ModelScope's cache",
        };
        var target = new Argument<string>("DST") { Description = "the folder to write; run the same command again to go on after an interruption" };
        var command = new Command("fp8-to-bf16", "Write a BF16 copy of an FP8 checkpoint; resumable, in bounded memory") { source, target };
        command.SetAction((parsed, cancel) => Task.Run(() => Run(parsed.GetRequiredValue(source), parsed.GetRequiredValue(target), cancel)));
        return command;
    }

    private static int Run(string source, string target, CancellationToken cancel)
    {
        using var held = FolderLock.Beside(target, "a conversion", "DST");
        using var conversion = new Fp8Conversion(source, target);
        Console.WriteLine($"{conversion.Shards} shards{(conversion.Finished > 0 ? $", {conversion.Finished} of them finished before" : "")}; "
            + $"{FileProgress.Size(conversion.Bytes)} to write");
        foreach (var note in conversion.Notes) Console.WriteLine(note);
        try
        {
            var last = FileProgress.Follow("converting", report => conversion.Run(report, cancel));
            Console.WriteLine($"done: {FileProgress.Summary(last)} → {target}");
            return 0;
        }
        catch (OperationCanceledException)
        {
            Console.Error.WriteLine($"stopped; the same command goes on after the last whole shard in {target}");
            return 130;
        }
    }
}
