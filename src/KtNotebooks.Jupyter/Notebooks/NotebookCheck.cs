using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using System.Xml;
using System.Xml.Linq;

using KtNotebooks.Interactive;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>
/// What a notebook should be before others see it: outputs that came from the code as it stands, figures that show without a script and to those who cannot
/// see them, lines that fit a page, no place of one machine in it.
/// </summary>
public static partial class NotebookCheck
{
    /// <summary>Characters of a line of code that a classic notebook page shows without scrolling.</summary>
    public const int LineLength = 100;

    /// <summary>More than this is slow in a browser, and GitHub does not show it.</summary>
    public const long MostBytes = 2_000_000;

    /// <returns>What is wrong, one line each, as "cell 3: …", cells counted from 1; empty: nothing.</returns>
    /// <exception cref="InvalidDataException">It is no C# notebook.</exception>
    public static IReadOnlyList<string> Run(string path)
    {
        var notebook = NotebookFile.Read(path);
        List<string> found = [];
        var length = new FileInfo(path).Length;
        if (length > MostBytes) found.Add($"the file has {length / 1e6:F1} MB, {MostBytes / 1e6:F0} MB are the most; show less in it");
        if (notebook.OutputsOf != notebook.CodeHash)
        {
            var why = notebook.OutputsOf is null ? "nothing says which code its outputs are of" : "its code has changed since its outputs were stored";
            found.Add($"{why}; store them by: kt notebook run {path} --out {path}");
        }
        for (var i = 0; i < notebook.Cells.Count; i++)
        {
            var cell = (JsonObject)notebook.Cells[i]!;
            found.AddRange(((string?)cell["cell_type"] == "code" ? Code(cell) : Prose(cell)).Select(f => $"cell {i + 1}: {f}"));
        }
        return found;
    }

    private static IEnumerable<string> Prose(JsonObject cell) =>
        PictureWithoutText().Matches(NotebookFile.Source(cell)).Select(m => $"the picture {m.Groups[1].Value} has no text for those who cannot see it");

    private static IEnumerable<string> Code(JsonObject cell)
    {
        foreach (var (line, i) in NotebookFile.Source(cell).Split('\n').Select((line, i) => (line, i)).Where(l => l.line.TrimEnd().Length > LineLength))
            yield return $"line {i + 1} has {line.TrimEnd().Length} characters, {LineLength} are the most";
        foreach (var output in (cell["outputs"] as JsonArray ?? []).OfType<JsonObject>())
        {
            if ((string?)output["output_type"] == "error") yield return $"its output is an error: {output["ename"]}: {output["evalue"]}";
            if (output["data"] is JsonObject data)
                foreach (var fault in Shown(data)) yield return fault;
            if (HomePath().Match(Texts(output)) is { Success: true } path) yield return $"its output holds a path of the machine that ran it: {path.Value}";
        }
    }

    private static IEnumerable<string> Shown(JsonObject data)
    {
        var types = data.Select(d => d.Key).ToArray();
        if (!types.Contains("text/plain")) yield return $"its output ({string.Join(", ", types)}) has no text form";
        var picture = types.Any(t => t is Chart.SvgType or Chart.PngType);
        if (types.Contains(Chart.PlotlyType) && !picture) yield return "its figure needs a script to be seen; give it as SVG or PNG too";
        if (types.Contains("text/html") && Text(data["text/html"]).Contains("<script", StringComparison.OrdinalIgnoreCase) && !picture)
            yield return "its HTML needs a script, which GitHub takes away";
        if (!types.Contains(Chart.SvgType)) yield break;
        var alt = AltText(Text(data[Chart.SvgType]));
        if (alt.Length == 0) yield return "its SVG has no <title> for those who cannot see it";
        if (alt.Contains("NaN", StringComparison.Ordinal)) yield return $"its SVG's <title> says NaN: {alt}";
    }

    private static string AltText(string svg)
    {
        try
        {
            return XDocument.Parse(svg).Root?.Elements().FirstOrDefault(e => e.Name.LocalName == "title")?.Value.Trim() ?? "";
        }
        catch (XmlException)
        {
            return "";
        }
    }

    /// <summary>What people read of it, without base64, in which any letters may stand between slashes.</summary>
    private static string Texts(JsonObject output) => output["data"] is JsonObject data
        ? string.Join('\n', data.Where(d => d.Key.StartsWith("text/", StringComparison.Ordinal)).Select(d => Text(d.Value))) : Text(output["text"]);

    private static string Text(JsonNode? node) => node is JsonArray lines ? string.Concat(lines.Select(l => (string?)l)) : node?.ToString() ?? "";

    [GeneratedRegex(@"!\[\s*\]\(([^)]*)\)")] private static partial Regex PictureWithoutText();

    [GeneratedRegex(@"(?<![\w+/.:])/(home|root|tmp|work|mnt|opt|var|Users)/[^""\s\\]*")] private static partial Regex HomePath();
}
