using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Cli;

/// <summary>`kt model make`, `inspect` and `load`: checkpoints of true shape, what a folder holds, and how fast and into how much memory it loads.</summary>
internal static class ModelCommands
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    public static Command Create() => new("model", "Model folders: make, inspect, load") { Make(), Inspect(), Load() };

    private static Command Make()
    {
        var shape = new Option<string>("--shape") { Description = string.Join(", ", ModelShapes.Known) + ", or the path of a config.json", Required = true };
        var layers = new Option<int?>("--layers") { Description = "the first N layers alone" };
        var folder = new Option<string>("--out") { Description = "the folder to write", Required = true };
        var format = new Option<string?>("--format")
        {
            Description = "bf16, fp8 (as DeepSeek-V3 ships) or int4 (as Kimi-K2-Thinking ships); default: as the "
            + "shape's config says"
        };
        var seed = new Option<ulong>("--seed") { Description = "same seed, same bytes", DefaultValueFactory = _ => 1 };
        var command = new Command("make", "Write a random checkpoint of a real model's shape, for tests and benchmarks")
        {
            shape, layers, folder, format, seed
        };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var target = parsed.GetRequiredValue(folder);
            var maker = new ModelMaker(parsed.GetRequiredValue(shape), target, parsed.GetValue(layers), Format(parsed.GetValue(format)), parsed.GetValue(seed));
            Console.WriteLine($"{maker.Parameters:N0} parameters in {maker.Format.Name}, {FileProgress.Size(maker.Bytes)} in {maker.Shards} shards");
            var last = FileProgress.Follow("writing", report => maker.Run(report, cancel));
            Console.WriteLine($"done: {FileProgress.Summary(last)} → {target}");
            return 0;
        }));
        return command;
    }

    private static Command Inspect()
    {
        var folder = Folder();
        var format = new Option<string?>("--format") { Description = "also measure what quantising the experts to fp8, int8 or int4 costs, layer by layer" };
        var experts = new Option<int>("--experts") { Description = "experts measured a layer", DefaultValueFactory = _ => 4 };
        var json = new Option<bool>("--json") { Description = "as JSON" };
        var command = new Command("inspect", "Parameters, bytes and formats by part; with --format the quantisation error of every layer")
        {
            folder, format, experts, json
        };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(experts) < 1) throw new ArgumentException($"--experts must be at least 1, but is {parsed.GetValue(experts)}");
            using var checkpoint = new Checkpoint(parsed.GetRequiredValue(folder));
            var parts = CheckpointReport.Parts(checkpoint);
            var errors = Format(parsed.GetValue(format)) is { } f ? CheckpointReport.Errors(checkpoint, f, parsed.GetValue(experts)) : [];
            if (parsed.GetValue(json))
                Console.WriteLine(JsonSerializer.Serialize(new { checkpoint.HeaderHash, parts, edges = CheckpointReport.ErrorEdges, errors }, Indented));
            else Print(checkpoint, parts, errors);
        });
        return command;
    }

    private static Command Load()
    {
        var folder = Folder();
        var format = new Option<string?>("--format")
        {
            Description = $"format of the experts: {string.Join(", ", StorageFormat.BankNames)}; default: as stored",
        };
        var mapped = new Option<bool>("--mapped") { Description = "map the files instead of copying them into memory" };
        var command = new Command("load", "Load a model and say how fast it came and how much memory it took") { folder, format, mapped };
        command.SetAction((parsed, _) => Task.Run(() =>
        {
            var before = Environment.WorkingSet;
            var progress = FileProgress.Follow("loading", report =>
            {
                using var model = ModelFolder.Load(parsed.GetRequiredValue(folder), DType.BF16, null,
                    new LoadSettings(Format(parsed.GetValue(format)), !parsed.GetValue(mapped), report));
                Console.WriteLine($"{FileProgress.Size(KtNotebooks.Tensors.Buffer.AliveBytes)} of tensors; {FileProgress.Size(before)} resident before");
            });
            Console.WriteLine($"loaded: {FileProgress.Summary(progress)}");
            return 0;
        }));
        return command;
    }

    private static Argument<string> Folder() =>
        new("FOLDER") { Description = "a model folder, or the name of a model in Hugging Face's or ModelScope's cache" };

    private static StorageFormat? Format(string? name) => name is null ? null : StorageFormat.Parse(name);

    private static void Print(Checkpoint checkpoint, IReadOnlyList<PartSize> parts, IEnumerable<LayerError> errors)
    {
        var (parameters, bytes) = (parts.Sum(p => p.Parameters), parts.Sum(p => p.Bytes));
        Console.WriteLine($"{checkpoint.Folder}: {parameters:N0} parameters, {FileProgress.Size(bytes)} in {checkpoint.Files.Count} file"
            + $"{(checkpoint.Files.Count == 1 ? "" : "s")}, headers sha256 {checkpoint.HeaderHash[..16]}");
        Console.WriteLine($"  {"part",-16}{"parameters",18}{"share",8}{"bytes",12}  formats");
        foreach (var p in parts)
            Console.WriteLine($"  {p.Part,-16}{p.Parameters,18:N0}{(double)p.Parameters / parameters,8:P1}{FileProgress.Size(p.Bytes),12}  "
                + $"{string.Join(", ", p.BytesByFormat.Select(f => $"{f.Key} {FileProgress.Size(f.Value)}"))}");
        var first = true;
        foreach (var e in errors)
        {
            if (first) Console.WriteLine($"  {"layer",-6}{"projection",-12}{"experts",8}{"rel. error",12}{"worst block",13}  blocks by error, 0 to 25 %");
            first = false;
            Console.WriteLine($"  {e.Layer,-6}{e.Projection,-12}{e.Experts,8}{e.Relative,12:P2}{e.WorstBlock,13:P2}  {Sparkline(e.Blocks)}");
        }
    }

    /// <summary>Counts as a row of bars, two bins a character.</summary>
    private static string Sparkline(long[] counts)
    {
        var pairs = counts.Chunk(2).Select(c => c.Sum()).ToArray();
        var most = Math.Max(1, pairs.Max());
        return string.Concat(pairs.Select(c => c == 0 ? ' ' : "▁▂▃▄▅▆▇█"[(int)(c * 7 / most)]));
    }
}
