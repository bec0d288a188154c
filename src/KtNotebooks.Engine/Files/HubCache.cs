using System.Text.RegularExpressions;

namespace KtNotebooks.Files;

/// <summary>
/// Models and adapters by their names on Hugging Face or ModelScope (`deepseek-ai/DeepSeek-V2-Lite`), found in the caches that those programs keep on this
/// machine. Nothing is downloaded.
/// </summary>
public static partial class HubCache
{
    private const string Index = "model.safetensors.index.json";

    /// <summary>The folder of a name; a folder or file that exists, and what cannot be such a name, is itself.</summary>
    /// <param name="nameOrFolder">A path, or organisation/name.</param>
    /// <param name="revision">A branch, a tag or a commit in Hugging Face's cache; null: main.</param>
    /// <param name="cacheDir">Looked at instead of the places that the environment names (LLaMA-Factory's cache_dir).</param>
    /// <param name="whole">Also checks that every shard which the snapshot's index names is there. Plans and tokenizers need none.</param>
    /// <exception cref="FileNotFoundException">It is in no cache, or its download is not complete; the line says how to get it.</exception>
    public static string Resolve(string nameOrFolder, string? revision = null, string? cacheDir = null, bool whole = true)
    {
        ArgumentNullException.ThrowIfNull(nameOrFolder);
        if (nameOrFolder.Length == 0
            || nameOrFolder.Contains('\0', StringComparison.Ordinal)) throw new ArgumentException("a folder, or a model's name, is empty or no path");
        if (Directory.Exists(nameOrFolder) || File.Exists(nameOrFolder) || !HubName().IsMatch(nameOrFolder)) return nameOrFolder;
        if (revision is not null && revision.Split('/').Any(part => part is "" or "." or ".."))
            throw new ArgumentException($"{nameOrFolder}: '{revision}' is no revision; write a branch, a tag or a commit");
        var places = cacheDir is null ? HuggingFacePlaces() : [Home(cacheDir)];
        List<string> looked = [];
        foreach (var place in places)
        {
            var folder = Path.Combine(place, "models--" + nameOrFolder.Replace("/", "--", StringComparison.Ordinal));
            looked.Add(place);
            if (Directory.Exists(folder)) return Checked(Snapshot(folder, nameOrFolder, revision), whole);
        }
        foreach (var place in cacheDir is null ? ModelScopePlaces() : [Home(cacheDir)])
        {
            if (!looked.Contains(place)) looked.Add(place);
            if (revision is not (null or "main" or "master")) continue; // that cache holds one revision, and does not say which
            foreach (var folder in ModelScopeFolders(place, nameOrFolder))
                if (Directory.Exists(folder)) return Checked(folder, whole);
        }
        throw new FileNotFoundException($"{nameOrFolder}: no such folder here, and no model or adapter of that name in {string.Join(", ", looked)}; "
            + $"nothing is downloaded by kt: get it with {Download(nameOrFolder, revision)} or `modelscope download {nameOrFolder}`, or name its folder");
    }

    /// <summary>Whether a text can be such a name and is no path that exists.</summary>
    public static bool IsName(string text) => HubName().IsMatch(text) && !Directory.Exists(text) && !File.Exists(text);

    /// <summary>
    /// What to say behind an error about a file that a snapshot lacks: that its download is not complete, and how it goes on. Empty for other folders.
    /// </summary>
    public static string Hint(string folder)
    {
        var full = Path.GetFullPath(folder);
        if (Path.GetDirectoryName(full) is not { } snapshots || Path.GetFileName(snapshots) != "snapshots"
            || Path.GetDirectoryName(snapshots) is not { } model) return "";
        var name = Path.GetFileName(model);
        if (!name.StartsWith("models--", StringComparison.Ordinal)) return "";
        var blobs = Path.Combine(model, "blobs");
        var begun = Directory.Exists(blobs) ? Directory.GetFiles(blobs, "*.incomplete").Length : 0;
        var state = begun > 0 ? $"its download was broken off or still runs ({begun} *.incomplete in {blobs})" : "not all of it was downloaded";
        var written = name["models--".Length..].Replace("--", "/", StringComparison.Ordinal);
        return $"; this is a snapshot in Hugging Face's cache, {state}: {Download(written, null)} goes on";
    }

    /// <summary>There is no config.json where a model's was looked for.</summary>
    /// <param name="config">Its path.</param>
    public static FileNotFoundException NoModel(string config) => new($"{config}: no such file; a model is a folder on this machine that holds config.json "
        + $"(nothing is downloaded){Hint(Path.GetDirectoryName(Path.GetFullPath(config)) ?? config)}");

    private static string Checked(string folder, bool whole)
    {
        var index = Path.Combine(folder, Index);
        if (!whole || !File.Exists(index)) return folder;
        if (JsonSource.Read(index, "a checkpoint's index").TryGetProperty("weight_map", out var map) && map.ValueKind == System.Text.Json.JsonValueKind.Object)
        {
            string[] shards = [.. map.EnumerateObject().Select(entry => entry.Value.ToString()).Distinct()];
            string[] missing = [.. shards.Where(shard => !File.Exists(InnerPath.Of(folder, shard, index)))];
            if (missing.Length > 0)
                throw new FileNotFoundException($"{folder}: {missing.Length} of {shards.Length} shards are missing, the first is {missing[0]}{Hint(folder)}");
        }
        return folder;
    }

    /// <summary>models--org--name/refs/REVISION holds the commit, snapshots/COMMIT the files.</summary>
    private static string Snapshot(string model, string name, string? revision)
    {
        var commit = revision ?? "main";
        var reference = Path.Combine(model, "refs", commit);
        if (File.Exists(reference)) commit = RegularFile.ReadAllText(reference, "the commit of a revision", limit: 4096).Trim();
        var snapshots = Path.Combine(model, "snapshots");
        var folder = InnerPath.Of(snapshots, commit, reference);
        if (Directory.Exists(folder)) return folder;
        string[] there = [];
        if (Directory.Exists(snapshots)) there = [.. Directory.GetDirectories(snapshots).Select(f => Path.GetFileName(f)).Order(StringComparer.Ordinal)];
        if (!File.Exists(reference) && revision is null && there.Length == 1) return Path.Combine(snapshots, there[0]); // downloaded by its commit
        var wanted = commit == (revision ?? "main") ? $"revision {commit}" : $"{revision ?? "main"} ({commit})";
        var others = there.Length == 0 ? "" : $", only of {string.Join(", ", there)}";
        throw new FileNotFoundException($"{name}: {model} has no snapshot of {wanted}{others}; {Download(name, revision)} gets it");
    }

    private static string Download(string name, string? revision) => $"`hf download {name}{(revision is null ? "" : $" --revision {revision}")}`";

    private static List<string> HuggingFacePlaces()
    {
        foreach (var variable in new[] { "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE" })
            if (Variable(variable) is { } place) return [place];
        if (Variable("HF_HOME") is { } home) return [Path.Combine(home, "hub")];
        return [Path.Combine(Variable("XDG_CACHE_HOME") ?? Home("~/.cache"), "huggingface", "hub")];
    }

    private static List<string> ModelScopePlaces() => Variable("MODELSCOPE_CACHE") is { } place
        ? [place, Path.Combine(place, "hub")] : [Home("~/.cache/modelscope/hub")];

    /// <summary>models/org/name, and org/name as older versions had it; a dot in a name is written as three underscores.</summary>
    private static IEnumerable<string> ModelScopeFolders(string place, string name) =>
        from root in new[] { Path.Combine(place, "models"), place }
        from written in new[] { name.Replace(".", "___", StringComparison.Ordinal), name }
        select Path.Combine(root, written);

    private static string? Variable(string name) => Environment.GetEnvironmentVariable(name) is { Length: > 0 } value ? Home(value) : null;

    private static string Home(string path) => path == "~" || path.StartsWith("~/", StringComparison.Ordinal)
        ? Path.Join(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), path[1..]) : path;

    [GeneratedRegex(@"^[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\z")]
    private static partial Regex HubName();
}
