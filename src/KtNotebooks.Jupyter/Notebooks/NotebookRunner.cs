using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Jupyter.Notebooks;

/// <summary>How a run ended. <paramref name="Error"/> is one line that names the failing cell; null on success.</summary>
public sealed record NotebookResult(bool Success, int CellsRun, string? Error)
{
    /// <summary>The most memory that the kernel's process has held, where it has one of its own and the system tells.</summary>
    public long? KernelPeakBytes { get; init; }
}

/// <summary>
/// Executes a notebook without Python or sockets, in the session that the Jupyter kernel uses too, and stores the outputs as a front end
/// would: valid nbformat 4.5, streams joined, updates of displays applied to the stored output.
/// </summary>
public static class NotebookRunner
{
    private static readonly JsonSerializerOptions Json = new() { WriteIndented = true, IndentSize = 1, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <param name="path">The .ipynb to run.</param>
    /// <param name="outputPath">Where the executed notebook goes; null: nowhere. It is written also when a cell fails.</param>
    /// <param name="cancel">Interrupts the running cell and ends the run.</param>
    /// <returns>Success if every code cell ran, apart from errors in cells tagged raises-exception; those tagged skip-execution are left out.</returns>
    public static NotebookResult Run(string path, string? outputPath, CancellationToken cancel)
    {
        if (!File.Exists(path)) throw new FileNotFoundException($"[notebook] {path} does not exist", path);
        var notebook = Read(path);
        if (outputPath is not null) outputPath = Path.GetFullPath(outputPath); // now: a cell may change the current directory
        using var console = CellConsole.Install();
        using var session = new CSharpSession();
        using var interrupt = cancel.Register(session.Interrupt);
        var before = Display.Host;
        Display.Host = new CellDisplay();
        try
        {
            return Run(notebook, session, cancel);
        }
        finally
        {
            Display.Host = before;
            if (outputPath is not null) AtomicFile.WriteText(outputPath, notebook.ToJsonString(Json) + "\n");
        }
    }

    private static NotebookResult Run(JsonObject notebook, CSharpSession session, CancellationToken cancel)
    {
        var displays = new Dictionary<string, List<JsonObject>>();
        var count = 0;
        foreach (var cell in ((JsonArray)notebook["cells"]!).OfType<JsonObject>().Where(c => (string?)c["cell_type"] == "code"))
        {
            var tags = (cell["metadata"]?["tags"] as JsonArray ?? []).Select(t => (string?)t).ToArray();
            if (tags.Contains("skip-execution")) continue;
            var source = cell["source"] is JsonArray lines ? string.Concat(lines.Select(l => (string?)l)) : (string?)cell["source"] ?? "";
            var output = new NotebookOutput(displays);
            cell["outputs"] = output.Outputs;
            cell["execution_count"] = null;
            if (string.IsNullOrWhiteSpace(source)) continue;
            count++;
            cell["execution_count"] = count;
            using var run = new Cell($"cell-{count}.csx", output);
            var result = cancel.IsCancellationRequested ? new CellResult(new CellError("Interrupted", "the run was cancelled", []), null) : session.Execute(source, run).Result;
            output.Finish(result, count);
            if (result.Error is { } error && (!tags.Contains("raises-exception") || cancel.IsCancellationRequested))
            {
                return new NotebookResult(false, count, $"code cell {count}: {error.Name}: {error.Value}");
            }
        }
        return new NotebookResult(true, count, null);
    }

    private static JsonObject Read(string path)
    {
        JsonNode? node;
        try
        {
            node = JsonNode.Parse(File.ReadAllText(path));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[notebook] {path} is not JSON: {e.Message}", e);
        }
        if (node is not JsonObject notebook || notebook["cells"] is not JsonArray cells || (int?)notebook["nbformat"] != 4)
        {
            throw new InvalidDataException($"[notebook] {path} is not a notebook of format 4 (an object with nbformat 4 and cells)");
        }
        // 4.5 asks for an id in every cell.
        for (var i = 0; i < cells.Count; i++) cells[i]!["id"] ??= $"cell-{i}";
        notebook["nbformat_minor"] = Math.Max(5, (int?)notebook["nbformat_minor"] ?? 5);
        if (notebook["metadata"] is not JsonObject) notebook["metadata"] = new JsonObject();
        notebook["metadata"]!["language_info"] = Protocol.KernelInfo.Language();
        return notebook;
    }
}
