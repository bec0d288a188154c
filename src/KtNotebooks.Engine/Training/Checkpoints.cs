using System.Globalization;
using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Files;
using KtNotebooks.Optim;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// Folders `checkpoint-N` in an output folder: weights, trainer_state.json and optimizer.safetensors. A checkpoint is written under a temporary name and
/// renamed when whole, so every `checkpoint-N` that exists can be resumed from.
/// </summary>
public static class Checkpoints
{
    private const string Prefix = "checkpoint-";
    private const string OptimizerFile = "optimizer.safetensors";

    /// <summary>The checkpoint with the highest step, or null.</summary>
    public static string? Newest(string outputDir) => All(outputDir) is [.., var newest] ? newest : null;

    /// <summary>By step.</summary>
    public static IReadOnlyList<string> All(string outputDir) => !Directory.Exists(outputDir) ? []
        : [.. Directory.EnumerateDirectories(outputDir, Prefix + "*").Where(d => StepOf(d) >= 0).OrderBy(StepOf)];

    /// <summary>N of a folder `checkpoint-N`; −1: it is none.</summary>
    public static int StepOf(string folder)
    {
        var name = Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)));
        return name.StartsWith(Prefix, StringComparison.Ordinal)
            && int.TryParse(name[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : -1;
    }

    /// <summary>The key by which a new run begins with a checkpoint's weights: those of an adapter, or of a model.</summary>
    public static string KeyOf(string folder) => File.Exists(Path.Combine(folder, "adapter_config.json")) ? "adapter_name_or_path" : "model_name_or_path";

    /// <summary>Removes the checkpoints after a step; all with −1.</summary>
    public static void Clear(string outputDir, int after = -1)
    {
        foreach (var folder in All(outputDir))
            if (StepOf(folder) > after) Directory.Delete(folder, recursive: true);
    }

    /// <summary>Removes the oldest until so many are left. The newest and the best stay in any case.</summary>
    public static void Limit(string outputDir, int most, string? best)
    {
        var all = All(outputDir);
        var keep = best is null ? null : Path.GetFullPath(best);
        var surplus = all.Count - most;
        foreach (var folder in all.SkipLast(1))
        {
            if (surplus <= 0) return;
            if (Path.GetFullPath(folder) == keep) continue;
            Directory.Delete(folder, recursive: true);
            surplus--;
        }
    }

    /// <summary>Writes checkpoint-`step` by filling a folder; returns its path.</summary>
    public static string Write(string outputDir, int step, Action<string> fill)
    {
        ArgumentNullException.ThrowIfNull(fill);
        var target = Path.Combine(outputDir, Prefix + step.ToString(CultureInfo.InvariantCulture));
        var temporary = OwnTemporary.In(outputDir);
        Folders.Create(temporary, "output_dir");
        try
        {
            fill(temporary);
            if (Directory.Exists(target)) Directory.Delete(target, recursive: true);
            Directory.Move(temporary, target);
        }
        catch (Exception error)
        {
            Directory.Delete(temporary, recursive: true);
            // The folder that the message names is gone; the person knows the one that it would have become.
            if (error is IOException && error.Message.Contains(temporary, StringComparison.Ordinal))
                throw new IOException(error.Message.Replace(temporary, target, StringComparison.Ordinal), error);
            throw;
        }
        return target;
    }

    /// <summary>Of the weights and moments that are there: ranks that go on from a checkpoint must see the same one.</summary>
    public static string Fingerprint(string folder)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var buffer = new byte[1 << 20];
        foreach (var file in Directory.EnumerateFiles(folder, "*.safetensors").Order(StringComparer.Ordinal))
        {
            hash.AppendData(Encoding.UTF8.GetBytes(Path.GetFileName(file)));
            using var stream = File.OpenRead(file);
            for (int count; (count = stream.Read(buffer)) > 0;) hash.AppendData(buffer, 0, count);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }

    public static void WriteOptimizer(string folder, IOptimizer optimizer)
    {
        ArgumentNullException.ThrowIfNull(optimizer);
        SafetensorsWriter.Write(Path.Combine(folder, OptimizerFile), optimizer.State);
    }

    /// <summary>Takes the moments over.</summary>
    /// <exception cref="InvalidDataException">There are none, those of another run, or some that are no numbers.</exception>
    public static void RestoreOptimizer(string folder, IOptimizer optimizer, int steps)
    {
        ArgumentNullException.ThrowIfNull(optimizer);
        var path = Path.Combine(folder, OptimizerFile);
        RequireOptimizer(folder);
        using var file = new SafetensorsFile(path);
        optimizer.Restore(steps, file.Get);
        if (Finite.FirstBroken(optimizer.State) is { } broken)
            throw new InvalidDataException($"{path}: tensor '{broken}' holds NaN or infinities; remove {folder} to go on from an earlier checkpoint");
    }

    /// <exception cref="InvalidDataException">A checkpoint of weights alone.</exception>
    public static void RequireOptimizer(string folder)
    {
        if (!File.Exists(Path.Combine(folder, OptimizerFile)))
            throw new InvalidDataException($"{folder}: has no {OptimizerFile} (save_only_model leaves it out), so no run can go on from it; name it as "
                + $"{KeyOf(folder)} to begin a new run with its weights, or remove it to go on from an earlier checkpoint");
    }
}
