using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Jupyter.Hosting;

/// <summary>The C# of a file, in the pieces in which it is to be run: `#!import` takes notebooks, .NET Interactive's scripts, and C#.</summary>
internal static class Imports
{
    private static readonly string[] CSharp = ["csharp", "c#", "C#"];

    /// <exception cref="NotSupportedException">It is a file of another kind.</exception>
    internal static IReadOnlyList<string> Read(string path)
    {
        var text = RegularFile.ReadAllText(path, "a file to import");
        return Path.GetExtension(path) switch
        {
            ".ipynb" => Notebook(path, text),
            ".dib" => Script(text),
            ".cs" or ".csx" => [text],
            var other => throw new NotSupportedException($"[#!import] {path}: takes .ipynb, .dib, .cs and .csx, not {(other.Length == 0 ? "this" : other)}"),
        };
    }

    private static List<string> Notebook(string path, string text)
    {
        try
        {
            return [.. (JsonNode.Parse(text)?["cells"]?.AsArray() ?? []).OfType<JsonObject>().Where(c => (string?)c["cell_type"] == "code" && IsCSharp(c))
                .Select(Notebooks.NotebookFile.Source).Where(s => !string.IsNullOrWhiteSpace(s))];
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"[#!import] {path}: is not a notebook: {e.Message}");
        }
    }

    private static bool IsCSharp(JsonObject cell) =>
        (string?)(cell["metadata"]?["polyglot_notebook"]?["kernelName"] ?? cell["metadata"]?["dotnet_interactive"]?["language"]) is not { } language
            || CSharp.Contains(language);

    /// <summary>A script has a line `#!csharp`, `#!markdown`, … before each of its parts; those without one are C#.</summary>
    private static List<string> Script(string text)
    {
        List<string> parts = [];
        var language = CSharp[0];
        List<string> lines = [];
        foreach (var line in text.ReplaceLineEndings("\n").Split('\n').Append("#!end"))
        {
            if (line.StartsWith("#!", StringComparison.Ordinal) && IsSelector(line[2..].Trim()))
            {
                if (CSharp.Contains(language) && lines.Exists(l => !string.IsNullOrWhiteSpace(l))) parts.Add(string.Join('\n', lines));
                (language, lines) = (line[2..].Trim(), []);
            }
            else lines.Add(line);
        }
        return parts;
    }

    private static bool IsSelector(string word) =>
        CSharp.Contains(word) || word is "end" or "meta" or "markdown" or "fsharp" or "pwsh" or "javascript" or "html" or "mermaid" or "http" or "sql" or "kql";
}
