using System.Text.Json;
using System.Text.RegularExpressions;

using KtNotebooks.Files;

namespace KtNotebooks.Interactive;

/// <summary>
/// Takes an executed notebook (nbformat 4) into a report: prose, code that can be folded away, display data and results, printed text, errors.
/// </summary>
public static partial class NotebookHtml
{
    public static HtmlReport Render(string ipynbPath)
    {
        var report = new HtmlReport(Path.GetFileNameWithoutExtension(ipynbPath));
        Render(ipynbPath, report, openCode: true);
        return report;
    }

    internal static void Render(string ipynbPath, HtmlReport report, bool openCode)
    {
        if (!File.Exists(ipynbPath)) throw new FileNotFoundException($"[NotebookHtml] no notebook at {ipynbPath}", ipynbPath);
        using var notebook = Parse(ipynbPath);
        var root = notebook.RootElement;
        if (root.ValueKind != JsonValueKind.Object || !root.TryGetProperty("cells", out var cells) || cells.ValueKind != JsonValueKind.Array)
            throw new InvalidDataException($"[NotebookHtml] {ipynbPath}: wanted an array \"cells\" (nbformat 4)");
        foreach (var cell in cells.EnumerateArray())
        {
            var type = Text(cell, "cell_type");
            if (type == "markdown") report.Prose(Text(cell, "source"));
            if (type != "code") continue;
            if (Text(cell, "source") is { Length: > 0 } code) report.Code(code, openCode);
            if (!cell.TryGetProperty("outputs", out var outputs)) continue;
            foreach (var output in outputs.EnumerateArray()) AddOutput(output, report);
        }
    }

    private static JsonDocument Parse(string path)
    {
        try
        {
            return JsonDocument.Parse(File.ReadAllBytes(path));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[NotebookHtml] {path}:{e.LineNumber + 1} is not JSON: {JsonSource.Reason(e)}", e);
        }
    }

    private static void AddOutput(JsonElement output, HtmlReport report)
    {
        switch (Text(output, "output_type"))
        {
            case "stream":
                if (Text(output, "text").TrimEnd() is { Length: > 0 } printed) report.Preformatted(AnsiCode().Replace(printed, ""));
                break;
            case "display_data" or "execute_result" when output.TryGetProperty("data", out var data):
                var bundle = new MimeBundle(Text(data, "text/plain"));
                foreach (var entry in data.EnumerateObject())
                    if (entry.Name is Chart.SvgType or Chart.PngType or "text/html")
                        bundle.With(entry.Name, entry.Name == Chart.PngType ? Text(data, entry.Name).Replace("\n", "") : Text(data, entry.Name));
                report.Add(bundle);
                break;
            case "error":
                report.Preformatted($"{Text(output, "ename")}: {Text(output, "evalue")}");
                break;
            default:
                break; // other output types show nothing
        }
    }

    /// <summary>nbformat writes multi-line text as one string or as a list of lines.</summary>
    private static string Text(JsonElement parent, string name) =>
        !parent.TryGetProperty(name, out var value) ? ""
        : value.ValueKind == JsonValueKind.Array ? string.Concat(value.EnumerateArray().Select(l => l.GetString()))
        : value.ValueKind == JsonValueKind.String ? value.GetString()! : value.GetRawText();

    [GeneratedRegex(@"\x1B\[[0-9;?]*[A-Za-z]")]
    private static partial Regex AnsiCode();
}
