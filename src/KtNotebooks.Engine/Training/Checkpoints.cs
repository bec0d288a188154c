using System.Globalization;

using KtNotebooks.Optim;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// Folders `checkpoint-N` in an output folder: weights, trainer_state.json and optimizer.safetensors. A checkpoint is written under a temporary name and renamed when whole, so every
/// `checkpoint-N` that exists can be resumed from.
/// </summary>
public static class Checkpoints
{
    private const string Prefix = "checkpoint-";
    private const string Temporary = ".tmp";
    private const string OptimizerFile = "optimizer.safetensors";

    /// <summary>The checkpoint with the highest step, or null.</summary>
    public static string? Newest(string outputDir) => !Directory.Exists(outputDir) ? null
        : Directory.EnumerateDirectories(outputDir, Prefix + "*").Where(d => StepOf(d) >= 0).MaxBy(StepOf);

    /// <summary>Removes what a run that died left half-written, and on request all checkpoints.</summary>
    public static void Clear(string outputDir, bool all)
    {
        if (!Directory.Exists(outputDir)) return;
        foreach (var folder in Directory.GetDirectories(outputDir, Prefix + "*"))
            if (folder.EndsWith(Temporary, StringComparison.Ordinal) || (all && StepOf(folder) >= 0)) Directory.Delete(folder, recursive: true);
    }

    /// <summary>Writes checkpoint-`step` by filling a folder; returns its path.</summary>
    public static string Write(string outputDir, int step, Action<string> fill)
    {
        ArgumentNullException.ThrowIfNull(fill);
        var target = Path.Combine(outputDir, Prefix + step.ToString(CultureInfo.InvariantCulture));
        var temporary = target + Temporary;
        if (Directory.Exists(temporary)) Directory.Delete(temporary, recursive: true);
        Directory.CreateDirectory(temporary);
        try
        {
            fill(temporary);
            if (Directory.Exists(target)) Directory.Delete(target, recursive: true);
            Directory.Move(temporary, target);
        }
        catch
        {
            Directory.Delete(temporary, recursive: true);
            throw;
        }
        return target;
    }

    public static void WriteOptimizer(string folder, AdamW optimizer)
    {
        ArgumentNullException.ThrowIfNull(optimizer);
        SafetensorsWriter.Write(Path.Combine(folder, OptimizerFile), optimizer.State);
    }

    public static void RestoreOptimizer(string folder, AdamW optimizer, int steps)
    {
        ArgumentNullException.ThrowIfNull(optimizer);
        using var file = new SafetensorsFile(Path.Combine(folder, OptimizerFile));
        optimizer.Restore(steps, file.Get);
    }

    private static int StepOf(string folder) => int.TryParse(Path.GetFileName(folder)[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out var step) ? step : -1;
}
