using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using System.Text.RegularExpressions;

namespace KtNotebooks.Bench;

/// <summary>A result of `kt bench train --json` that was kept in a file.</summary>
/// <param name="Name">Of the file, without .json.</param>
public sealed record StoredBenchmark(string Name, TrainingBenchmarkResult Result)
{
    /// <summary>What was run to get it, every option written out.</summary>
    public string Command
    {
        get
        {
            var s = Result.Settings;
            return $"./kt bench train --shape {s.Shape} --layers {s.Layers?.ToString(CultureInfo.InvariantCulture) ?? "all"} --tokens {s.Tokens} --seq "
                + $"{s.Sequence} --rank {s.Rank} --experts {s.Executor.ToString().ToLowerInvariant()} "
                + $"--format {s.Format.Name} --device {s.Device} --slots-mb {s.SlotBytes >> 20} --saved-mb {s.SavedBytes >> 20} --chunk "
                + $"{s.ChunkRows} --steps {s.Steps}{(s.MomentsOnHost ? " --moments-on-host" : "")}{(s.LoraOnHost ? " --lora-on-host" : "")}"
                + $"{(s.LoraFolder is { } home ? $" --lora-on-disk {home}" : "")}{(s.KeepsActivations ? " --keep-activations" : "")}"
                + $"{(s.KeptBytes > 0 ? $" --kept-mb {s.KeptBytes >> 20}" : "")}{(s.Stage == "sft" ? "" : $" --stage {s.Stage}")}"
                + $"{(s.Gpus > 1 ? $" --cards {s.Gpus}" : "")}{(s.Contiguous ? " --contiguous" : "")}"
                + $"{(s.Parts is { } parts ? $" --parts {parts}" : "")}{(s.DiskFolder is { } disk ? $" --weights disk --disk-folder {disk}" : "")}"
                + $"{(s.DiskLayers is { } stored ? $" --disk-layers {stored}" : "")}{(s.WarmUp == TrainingBenchmark.WarmUp ? "" : $" --warm-up {s.WarmUp}")}"
                + $"{(s.DenseOnHost ? " --dense host" : "")} --json";
        }
    }
}

/// <summary>
/// Results of one machine, kept in folders named by date (docs/results/MACHINE/YYYY-MM-DD): a JSON file for each run, and in
/// machine.txt what `kt doctor`, `kt bench pcie` and `kt bench gemm` said there.
/// </summary>
public sealed partial class StoredBenchmarks
{
    public const string MachineFile = "machine.txt";

    // Enum values were numbers at first; both are read.
    private static readonly JsonSerializerOptions Options = new() { Converters = { new JsonStringEnumConverter() } };

    private StoredBenchmarks(string folder, IReadOnlyList<StoredBenchmark> runs) => (Folder, Runs) = (folder, runs);

    public string Folder { get; }

    public IReadOnlyList<StoredBenchmark> Runs { get; }

    /// <summary>Those of the newest date.</summary>
    /// <exception cref="DirectoryNotFoundException">No folder below has a result.</exception>
    /// <exception cref="InvalidDataException">A file is not a result.</exception>
    public static StoredBenchmarks Newest(string machine)
    {
        var folder = Directory.Exists(machine)
            ? Directory.GetDirectories(machine).OrderDescending(StringComparer.Ordinal).FirstOrDefault(f => Directory.EnumerateFiles(f, "*.json").Any()) : null;
        if (folder is null)
            throw new DirectoryNotFoundException($"{machine}: wanted folders named by date with results of kt bench train --json, but there is none");
        return new StoredBenchmarks(folder, [.. Directory.GetFiles(folder, "*.json").Order(StringComparer.Ordinal).Select(Read)]);
    }

    /// <summary>The only run of that name.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public TrainingBenchmarkResult this[string name] => Runs.FirstOrDefault(r => r.Name == name)?.Result
        ?? throw new ArgumentException($"{Folder}: no run '{name}'; there are {string.Join(", ", Runs.Select(r => r.Name))}");

    /// <summary>
    /// The rate that a ceiling was measured at on that machine: in machine.txt, the number before GB/s or TFLOP/s in the line that begins with
    /// <paramref name="what"/>.
    /// </summary>
    /// <exception cref="InvalidDataException">No such line.</exception>
    public double Ceiling(string what)
    {
        var path = Path.Combine(Folder, MachineFile);
        foreach (var line in File.ReadLines(path))
            if (line.TrimStart().StartsWith(what, StringComparison.Ordinal) && Rate().Match(line) is { Success: true } rate)
                return double.Parse(rate.Groups[1].Value, CultureInfo.InvariantCulture);
        throw new InvalidDataException($"{path}: no line '{what} … GB/s' or '… TFLOP/s'");
    }

    private static StoredBenchmark Read(string path)
    {
        try
        {
            var result = JsonSerializer.Deserialize<TrainingBenchmarkResult>(File.ReadAllText(path), Options);
            if (result is not { Settings.Tokens: > 0, StepMs: > 0, Parts: not null })
                throw new InvalidDataException($"{path}: wanted what kt bench train --json writes, but there are no tokens, no step time or no parts");
            return new StoredBenchmark(Path.GetFileNameWithoutExtension(path), result);
        }
        catch (JsonException error)
        {
            throw new InvalidDataException($"{path}: wanted what kt bench train --json writes: {error.Message}");
        }
    }

    [GeneratedRegex(@"([\d.]+) T?(GB|FLOP)/s")]
    private static partial Regex Rate();
}
