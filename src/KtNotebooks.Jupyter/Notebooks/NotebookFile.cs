using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>An .ipynb of format 4 for C#, checked cell by cell when it is read: what comes after need not ask again.</summary>
internal sealed class NotebookFile
{
    private const string What = "a notebook";
    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false };
    private static readonly JsonSerializerOptions Format = new()
    {
        WriteIndented = true,
        IndentSize = 1,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };
    private static readonly string[] CSharp = ["c#", "csharp", "cs", ".net-csharp", KernelSpec.Name];
    private readonly JsonObject _root;
    private readonly string _path;

    private NotebookFile(JsonObject root, string path) => (_root, _path) = (root, path);

    /// <summary>What the kernel says of its language.</summary>
    internal JsonObject Language
    {
        set => _root["metadata"]!["language_info"] = value;
    }

    /// <summary>Of every kind, in order; may be added to.</summary>
    internal JsonArray Cells => (JsonArray)_root["cells"]!;

    /// <summary>Of the code of all cells. Outputs belong to the code that they came from.</summary>
    internal string CodeHash => Convert.ToHexStringLower(SHA256.HashData(
        Encoding.UTF8.GetBytes(string.Join('\0', CodeCells.Select(c => Source(c).ReplaceLineEndings("\n").TrimEnd())))));

    /// <summary>The hash of the code that the stored outputs are of; null where nobody has noted it.</summary>
    internal string? OutputsOf
    {
        get => Text((_root["metadata"]!["ktnotebooks"] as JsonObject)?["outputs_of"]);
        set => _root["metadata"]!["ktnotebooks"] = new JsonObject { ["outputs_of"] = value };
    }

    internal IEnumerable<JsonObject> CodeCells => Cells.OfType<JsonObject>().Where(c => (string?)c["cell_type"] == "code");

    /// <exception cref="FileNotFoundException">Nothing is there.</exception>
    /// <exception cref="InvalidDataException">It is no notebook, or one that this kernel does not run; the line says what it is instead.</exception>
    internal static NotebookFile Read(string path)
    {
        var text = RegularFile.ReadAllText(path, What);
        JsonNode? node;
        try
        {
            node = JsonNode.Parse(text, null, Strict);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[notebook] {path}:{e.LineNumber + 1}: is not JSON, as an .ipynb is: {JsonSource.Reason(e)}");
        }
        var root = node as JsonObject
            ?? throw new InvalidDataException($"[notebook] {path}: must be a JSON object with nbformat and cells, but is {Named(node)}");
        var file = new NotebookFile(root, path);
        file.CheckFormat();
        for (var i = 0; i < file.Cells.Count; i++) file.CheckCell(i);
        file.CheckLanguage();
        file.Complete();
        return file;
    }

    /// <summary>A new one, for our kernel.</summary>
    internal static NotebookFile Of(params IEnumerable<JsonObject> cells)
    {
        var file = new NotebookFile(new JsonObject
        {
            ["cells"] = new JsonArray([.. cells]),
            ["metadata"] = new JsonObject
            {
                ["kernelspec"] = new JsonObject { ["name"] = KernelSpec.Name, ["display_name"] = KernelSpec.DisplayName, ["language"] = "C#" },
            },
            ["nbformat"] = 4,
        }, "");
        file.Complete();
        return file;
    }

    internal string Json => _root.ToJsonString(Format) + "\n";

    internal static string Source(JsonObject cell) => cell["source"] is JsonArray lines ? string.Concat(lines.Select(l => (string?)l))
        : (string?)cell["source"] ?? "";

    internal static IReadOnlyList<string> Tags(JsonObject cell) => [.. (cell["metadata"]?["tags"] as JsonArray ?? []).Select(t => (string)t!)];

    internal void Write(string path) => AtomicFile.WriteText(path, Json);

    private void CheckFormat()
    {
        if (_root["nbformat"] is not { } format) throw Bad("", "has no nbformat, so that it is no notebook");
        if (Whole(format) is not { } number) throw Bad("nbformat", $"must be a number, but is {Named(format)}");
        if (number is > 0 and < 4) throw Bad("",
            $"is a notebook of format {number}, which Jupyter wrote before 2015; make it one of format 4: jupyter nbconvert --to notebook {_path}");
        if (number != 4) throw Bad("nbformat", $"must be 4, but is {number}");
        if (_root["cells"] is not JsonArray) throw Bad("cells", $"must be a list, but is {Named(_root["cells"])}");
        if (_root["metadata"] is not (null or JsonObject)) throw Bad("metadata", $"must be an object, but is {Named(_root["metadata"])}");
    }

    private void CheckCell(int i)
    {
        if (Cells[i] is not JsonObject cell) throw Bad($"cell {i + 1}", $"must be an object with cell_type and source, but is {Named(Cells[i])}");
        if (Text(cell["cell_type"]) is not ("code" or "markdown" or "raw"))
            throw Bad($"cell {i + 1}: cell_type", $"must be code, markdown or raw, but is {Named(cell["cell_type"], value: true)}");
        if (cell["source"] is not null && Text(cell["source"]) is null && !IsTexts(cell["source"]))
            throw Bad($"cell {i + 1}: source", $"must be a text or a list of lines, but is {Named(cell["source"])}");
        if (cell["metadata"] is not (null or JsonObject)) throw Bad($"cell {i + 1}: metadata", $"must be an object, but is {Named(cell["metadata"])}");
        if (cell["metadata"]?["tags"] is { } tags && !IsTexts(tags))
            throw Bad($"cell {i + 1}: metadata.tags", $"must be a list of texts, but is {Named(tags)}");
    }

    /// <summary>Notebooks say their language in up to three places, and .NET Interactive's in each cell.</summary>
    private void CheckLanguage()
    {
        var about = _root["metadata"] as JsonObject;
        var spec = about?["kernelspec"] as JsonObject;
        var language = Text(spec?["language"]) ?? Text((about?["language_info"] as JsonObject)?["name"]) ?? Text(spec?["name"]);
        if (language is not null && !IsCSharp(language)) throw Bad("", $"is a notebook in {language}; this kernel runs C# only");
        foreach (var (cell, i) in Cells.OfType<JsonObject>().Select((c, i) => (c, i))
            .Where(c => (string?)c.c["cell_type"] == "code" && !Tags(c.c).Contains("skip-execution")))
        {
            var own = Text((cell["metadata"]?["polyglot_notebook"] as JsonObject)?["kernelName"])
                ?? Text((cell["metadata"]?["dotnet_interactive"] as JsonObject)?["language"]);
            if (own is not null && !IsCSharp(own))
                throw Bad($"cell {i + 1}", $"is in {own}; this kernel runs C# only, and leaves out cells with the tag skip-execution");
        }
    }

    /// <summary>What nbformat 4.5 asks for and older files lack.</summary>
    private void Complete()
    {
        for (var i = 0; i < Cells.Count; i++)
        {
            Cells[i]!["id"] ??= $"cell-{i}";
            Cells[i]!["metadata"] ??= new JsonObject();
            Cells[i]!["source"] ??= "";
        }
        _root["nbformat_minor"] = Math.Max(5, Whole(_root["nbformat_minor"]) ?? 5);
        _root["metadata"] ??= new JsonObject();
    }

    private InvalidDataException Bad(string place, string reason) => new($"[notebook] {_path}: {(place.Length > 0 ? $"{place} " : "")}{reason}");

    private static bool IsCSharp(string language) => CSharp.Contains(language, StringComparer.OrdinalIgnoreCase);

    private static bool IsTexts(JsonNode? node) => node is JsonArray all && all.All(n => Text(n) is not null);

    private static string? Text(JsonNode? node) => node is JsonValue value && value.TryGetValue(out string? text) ? text : null;

    private static int? Whole(JsonNode? node) => node is JsonValue value && value.TryGetValue(out int number) ? number : null;

    private static string Named(JsonNode? node, bool value = false) => node is null ? "null"
        : value && Text(node) is { } text ? $"'{text}'" : JsonSource.Named(JsonSerializer.SerializeToElement(node));
}
