using System.Text.Json;

using KtNotebooks.Files;

namespace KtNotebooks.Training;

/// <summary>
/// What an output folder holds for a run that is about to write there, and what follows: begin, go on from a checkpoint, or refuse. Nothing finished
/// is overwritten unless overwrite_output_dir says so.
/// </summary>
public static class RunStart
{
    /// <summary>What a person can do whose folder is not touched.</summary>
    public const string Otherwise = "give another output_dir, or overwrite_output_dir: true to start over";
    private static readonly string[] WeightFiles = ["*.safetensors", "*.gguf", "*_model.bin", "pytorch_model*.bin"];

    /// <summary>The checkpoint to go on from; null: from the beginning.</summary>
    /// <exception cref="ArgumentException">The folder holds what this run must not touch, or not what it was asked to go on from.</exception>
    public static string? Choose(TrainSettings settings)
    {
        var (folder, from) = (settings.OutputDir, settings.ResumeFrom);
        var newest = Checkpoints.Newest(folder);
        if (from.Folder is { } named) return Named(named, settings, newest);
        if (from == ResumeFrom.Newest)
            return newest ?? throw new ArgumentException($"resume_from_checkpoint is true, but {folder} holds no "
                + $"checkpoint{(Weights(folder) is { } there ? $"; {there} can be trained further in another output_dir as adapter_name_or_path" : "")}");
        if (settings.Overwrite) return null;
        if (IsFinished(folder, newest) is { } finished)
            throw new ArgumentException($"{folder} holds {finished}; "
                + $"{Otherwise}{(newest is null ? "" : $", or resume_from_checkpoint: true to go on from {newest}")}");
        if (from == ResumeFrom.Never && newest is not null)
            throw new ArgumentException($"{folder} holds {Path.GetFileName(newest)} of an earlier run, and resume_from_checkpoint is false; {Otherwise}");
        return newest;
    }

    /// <summary>
    /// Takes away what an earlier run left, so that the folder never shows a mixture: all of it, or what lies after the step that is gone on from.
    /// </summary>
    public static void Clear(string folder, string? resumeFrom)
    {
        var own = resumeFrom is not null && ParentOf(resumeFrom) == Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        Checkpoints.Clear(folder, own ? Checkpoints.StepOf(resumeFrom!) : -1);
        foreach (var split in new[] { "train", "eval" }) ResultsFile.Clear(folder, split);
        if (resumeFrom is null) ResultsFile.Clear(folder, "predict"); // of weights that are about to be others
        File.Delete(Path.Combine(folder, TrainerState.FileName));
        if (Directory.Exists(folder)) foreach (var picture in Directory.EnumerateFiles(folder, "training_*.png").ToList()) File.Delete(picture);
    }

    /// <summary>
    /// Writes finished weights, and takes away those of an earlier run that was overwritten: what its files say is loaded before what these say (an index of
    /// shards, a value head, an adapter beside a model).
    /// </summary>
    /// <param name="folder">output_dir.</param>
    /// <param name="save">Writes the weights into it; every file that it writes is a new one.</param>
    public static void Replace(string folder, Action<string> save)
    {
        string[] loaded = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"];
        IEnumerable<(string Path, DateTime Written)> There() => !Directory.Exists(folder) ? []
            : loaded.SelectMany(pattern => Directory.EnumerateFiles(folder, pattern)).Select(path => (path, File.GetLastWriteTimeUtc(path)));
        var before = There().ToHashSet();
        save(folder);
        foreach (var (path, _) in There().Where(before.Contains).ToList()) File.Delete(path);
    }

    private static string Named(string named, TrainSettings settings, string? newest)
    {
        if (!Directory.Exists(named))
            throw new ArgumentException($"resume_from_checkpoint: {named}: no such folder; it is true, false, or the path of a checkpoint-N folder");
        if (Checkpoints.StepOf(named) < 0) throw new ArgumentException($"resume_from_checkpoint: {named}: is no folder checkpoint-N");
        if (settings.Overwrite) return named;
        if (ParentOf(named) != Path.TrimEndingDirectorySeparator(Path.GetFullPath(settings.OutputDir)))
        {
            if ((newest ?? Weights(settings.OutputDir)) is { } there)
                throw new ArgumentException($"{settings.OutputDir} holds {Path.GetFileName(there)} of another run than {named}; {Otherwise} there");
        }
        else if (newest is not null && Checkpoints.StepOf(newest) > Checkpoints.StepOf(named))
        {
            throw new ArgumentException($"{settings.OutputDir} holds {Path.GetFileName(newest)}, which is newer than {Path.GetFileName(named)}; "
                + $"overwrite_output_dir: true removes what lies after it");
        }
        return named;
    }

    private static string? ParentOf(string folder) => Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder)));

    /// <summary>What there is of a finished run, in words; null: none is finished.</summary>
    private static string? IsFinished(string folder, string? newest)
    {
        if (File.Exists(Path.Combine(folder, ResultsFile.NameOf("train")))) return "a finished run";
        if (Weights(folder) is not { } weights) return null;
        return newest is null ? $"{Path.GetFileName(weights)}, and no checkpoint to go on from" : HasAllSteps(folder) ? "a finished run" : null;
    }

    private static string? Weights(string folder) => !Directory.Exists(folder) ? null
        : WeightFiles.SelectMany(pattern => Directory.EnumerateFiles(folder, pattern)).Order(StringComparer.Ordinal).FirstOrDefault();

    /// <summary>Ended as older versions left it: with all steps and a closed history, but without a file of results.</summary>
    private static bool HasAllSteps(string folder)
    {
        var path = Path.Combine(folder, TrainerState.FileName);
        if (!File.Exists(path)) return false;
        var state = JsonSource.Read(path, "a trainer's state");
        int? Number(string key) => state.TryGetProperty(key, out var value) && value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out var number)
            ? number : null;
        return Number("max_steps") is > 0 and var all && Number("global_step") >= all && TrainerState.IsClosed(state);
    }
}
