using System.Text.Json;
using KtNotebooks.Files;
using KtNotebooks.Interop;

namespace KtNotebooks.Data;

/// <summary>Which column of a row holds what; null: none.</summary>
public sealed record Columns(
    string? Prompt = null, string? Query = null, string? Response = null, string? Messages = null, string? History = null, string? System = null,
    string? Tools = null, string? Chosen = null, string? Rejected = null, string? KtoTag = null,
    string? Images = null, string? Videos = null, string? Audios = null, string? Weight = null)
{
    public static Columns Default { get; } = new(Prompt: "instruction", Query: "input", Response: "output", Messages: "conversations");
}

/// <summary>The words that a conversation format uses for roles and contents; null: none.</summary>
public sealed record Tags(
    string? Role = null, string? Content = null, string? User = null, string? Assistant = null, string? Observation = null, string? Function = null,
    string? System = null)
{
    public static Tags Default { get; } = new("from", "value", "human", "gpt", "observation", "function_call", "system");
}

/// <summary>One entry of dataset_info.json.</summary>
/// <param name="Name">Its key.</param>
/// <param name="Path">The file, or the folder of files of one type; it stands in the folder of dataset_info.json, or a link to it does.</param>
/// <param name="Formatting">alpaca, sharegpt or openai.</param>
/// <param name="Columns">Which column holds what.</param>
/// <param name="ColumnsGiven">The entry names its columns, so each named one must exist.</param>
/// <param name="Tags">Words for roles and contents.</param>
/// <param name="Ranking">Rows hold a chosen and a rejected answer.</param>
/// <param name="SampleCount">num_samples: this many rows drawn at random, with repeats if there are fewer; null: all.</param>
public sealed record DatasetEntry(
    string Name, string Path, string Formatting, Columns Columns, bool ColumnsGiven, Tags Tags, bool Ranking, int? SampleCount);

/// <summary>
/// LLaMA-Factory's dataset_info.json: the data sets of a folder by name. Its trap is kept on purpose, because files in the wild rely on it: an entry that
/// gives 'columns' (or 'tags') sets every column (tag) that it does not list to none.
/// </summary>
public sealed class DatasetInfo
{
    public const string FileName = "dataset_info.json";

    private static readonly string[] Siblings = ["data", "datasets"];

    private static readonly string[] Remote = ["hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name"];

    // Keys that upstream knows; subset and folder change nothing for a file on disk.
    private static readonly string[] EntryKeys = [.. Remote, "file_name", "formatting", "ranking", "subset", "split", "folder", "num_samples", "columns",
        "tags", "load_from"];
    private static readonly string[] ColumnKeys = ["prompt", "query", "response", "messages", "history", "system", "tools", "images", "videos", "audios",
        "chosen", "rejected", "kto_tag", "weight"];
    private static readonly string[] TagKeys = ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];

    // An entry is looked at when it is asked for: a set that nobody uses may lie elsewhere, and have keys of another program.
    private readonly Dictionary<string, JsonElement> _entries = new(StringComparer.Ordinal);
    private readonly string _folder;
    private readonly string _file;

    private DatasetInfo(string folder) => (_folder, _file) = (folder, Path.Combine(folder, FileName));

    /// <summary>The names of all data sets.</summary>
    public IReadOnlyCollection<string> Names => _entries.Keys;

    /// <summary>Reads dataset_info.json of a folder. Paths in it are relative to that folder, not to the working folder.</summary>
    /// <exception cref="FileNotFoundException">The folder has no such file.</exception>
    /// <exception cref="InvalidDataException">It is not valid JSON.</exception>
    public static DatasetInfo Load(string folder)
    {
        if (folder.StartsWith("REMOTE:", StringComparison.Ordinal) || folder == "ONLINE")
            throw new NotSupportedException($"dataset_dir is {folder}: nothing is downloaded here. Get the files with `hf download --repo-type dataset`, and "
                + $"give their folder, with a {FileName} that lists them, as dataset_dir.");
        var info = new DatasetInfo(folder);
        if (FileKinds.Of(info._file) == FileKind.None)
            throw new FileNotFoundException($"There is no '{info._file}'. dataset_dir must be a folder with a {FileName} that lists the data sets.",
                info._file);
        foreach (var entry in JsonSource.Read(info._file, "a list of data sets").EnumerateObject())
            info._entries[entry.Name] = entry.Value;
        return info;
    }

    /// <exception cref="ArgumentException">There is no such data set; the message gives the nearest name.</exception>
    /// <exception cref="NotSupportedException">The entry is not a file on this machine.</exception>
    /// <exception cref="InvalidDataException">The entry is not valid, its key is named; or its file lies outside of the folder.</exception>
    public DatasetEntry Get(string name)
    {
        if (!_entries.TryGetValue(name, out var json))
            throw new ArgumentException($"Unknown dataset '{name}': {_file} does not list"
                + $" it.{(Elsewhere(name) is { } folder ? $" {folder} does: dataset_dir={folder}" : Nearest.Hint(name, Names))}");
        var found = ReadEntry(name, json);
        if (found.FileName is not { } file)
            throw new NotSupportedException($"The dataset '{name}' in {_file} has no file_name. Data sets are read from this machine: download it and"
                + $" give its file_name.");
        try
        {
            return found.Entry with { Path = InnerPath.Of(_folder, file, $"{_file}, '{name}', 'file_name'") };
        }
        catch (InvalidDataException error)
        {
            throw new InvalidDataException($"{error.Message}. Put the file there, or a link to it (ln -s), or set dataset_dir to its folder.");
        }
    }

    /// <summary>The folder of the checkout, data or datasets, that lists the name which this one does not.</summary>
    private string? Elsewhere(string name)
    {
        var beside = Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(_folder)) ?? "";
        return Siblings.Select(sibling => Path.Combine(beside, sibling))
            .FirstOrDefault(folder => folder != _folder && File.Exists(Path.Combine(folder, FileName)) && Load(folder).Names.Contains(name));
    }

    private (DatasetEntry Entry, string? FileName) ReadEntry(string name, JsonElement json)
    {
        var where = $"{_file}, '{name}'";
        Expect(json, JsonValueKind.Object, where);
        CheckKeys(json, EntryKeys, name);
        var columns = Section("columns", ColumnKeys);
        var tags = Section("tags", TagKeys);
        var file = Remote.Any(k => json.TryGetProperty(k, out _)) ? null : Text("file_name");
        if (file is not null && Text("split") is { } split and not "train")
            throw new NotSupportedException($"{where}: split '{split}' of {file}: a file is one split, train. Write the rows into a file of their own; "
                + "num_samples draws some, val_size holds some out.");
        int? samples = json.TryGetProperty("num_samples", out var n) && n.ValueKind != JsonValueKind.Null
            ? n.ValueKind == JsonValueKind.Number && n.TryGetInt32(out var count) && count > 0 ? count
            : throw new InvalidDataException($"{where}: num_samples must be a whole number above 0, but is {n.GetRawText()}.")
            : null;
        var ranking = json.TryGetProperty("ranking", out var flag) && flag.ValueKind switch
        {
            JsonValueKind.True => true,
            JsonValueKind.False or JsonValueKind.Null => false,
            _ => throw new InvalidDataException($"{where}: ranking must be true or false, but is {flag.GetRawText()}."),
        };
        return (new DatasetEntry(
            name, "", Text("formatting") ?? "alpaca",
            columns is null ? Columns.Default : new Columns(
                columns.GetValueOrDefault("prompt"), columns.GetValueOrDefault("query"), columns.GetValueOrDefault("response"),
                columns.GetValueOrDefault("messages"),
                columns.GetValueOrDefault("history"), columns.GetValueOrDefault("system"), columns.GetValueOrDefault("tools"),
                columns.GetValueOrDefault("chosen"),
                columns.GetValueOrDefault("rejected"), columns.GetValueOrDefault("kto_tag"),
                columns.GetValueOrDefault("images"), columns.GetValueOrDefault("videos"), columns.GetValueOrDefault("audios"),
                columns.GetValueOrDefault("weight")),
            columns is not null,
            tags is null ? Tags.Default : new Tags(
                tags.GetValueOrDefault("role_tag"), tags.GetValueOrDefault("content_tag"), tags.GetValueOrDefault("user_tag"),
                tags.GetValueOrDefault("assistant_tag"),
                tags.GetValueOrDefault("observation_tag"), tags.GetValueOrDefault("function_tag"), tags.GetValueOrDefault("system_tag")),
            ranking, samples), file);

        string? Text(string key)
        {
            if (!json.TryGetProperty(key, out var value) || value.ValueKind == JsonValueKind.Null)
                return null;
            Expect(value, JsonValueKind.String, $"{where}, '{key}'");
            return value.GetString();
        }

        Dictionary<string, string>? Section(string key, string[] known)
        {
            if (!json.TryGetProperty(key, out var section) || section.ValueKind == JsonValueKind.Null)
                return null;
            Expect(section, JsonValueKind.Object, $"{where}, '{key}'");
            CheckKeys(section, known, name, key);
            var values = new Dictionary<string, string>();
            foreach (var entry in section.EnumerateObject().Where(e => e.Value.ValueKind != JsonValueKind.Null))
            {
                Expect(entry.Value, JsonValueKind.String, $"{where}, '{key}', '{entry.Name}'");
                values[entry.Name] = entry.Value.GetString()!;
            }
            return values;
        }
    }

    private void CheckKeys(JsonElement json, string[] known, params string[] path)
    {
        foreach (var entry in json.EnumerateObject())
        {
            if (!known.Contains(entry.Name))
                throw new InvalidDataException($"{_file}:{JsonSource.LineOf(_file, [.. path, entry.Name])},"
                    + $" {string.Join(", ", path.Select(p => $"'{p}'"))}: unknown key '{entry.Name}'.{Nearest.Hint(entry.Name, known)}");
        }
    }

    private static void Expect(JsonElement json, JsonValueKind kind, string where)
    {
        if (json.ValueKind != kind)
            throw new InvalidDataException($"{where}: expected {kind.ToString().ToLowerInvariant()}, found {RowReader.KindName(json)}.");
    }
}
