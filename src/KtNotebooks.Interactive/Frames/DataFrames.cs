using System.Globalization;
using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Evaluation;
using KtNotebooks.Files;
using KtNotebooks.Planning;
using KtNotebooks.Training;

using Microsoft.Data.Analysis;

namespace KtNotebooks.Interactive;

/// <summary>Data sets, logs, scores, plans and tables as Microsoft.Data.Analysis.DataFrame, to filter, group, join and save.</summary>
public static class DataFrames
{
    private const string LogFile = "trainer_log.jsonl";

    /// <summary>A row for each of the data set: its source, what is asked (the turns under one another), the answer, and of preferences the other.</summary>
    public static DataFrame ToDataFrame(this IEnumerable<Example> examples) => Of(examples.Select(e => Row(
        ("source", e.Source), ("system", e.System), ("prompt", string.Join('\n', e.Prompt.Select(m => m.Content))), ("turns", e.Prompt.Count),
        ("answer", e.Responses.Count > 0 ? e.Responses[0].Content : null), ("rejected", e.Responses.Count > 1 ? e.Responses[1].Content : null))));

    /// <summary>A row for each step, as they were reported.</summary>
    public static DataFrame ToDataFrame(this IEnumerable<StepReport> steps) => Of(steps.Select(s => Row(
        ("step", s.Step), ("epoch", s.Epoch), ("loss", s.Loss), ("learning rate", s.LearningRate), ("gradient norm", s.GradientNorm), ("tokens", s.Tokens),
        ("tokens/s", s.TokensPerSecond), ("seconds", s.Elapsed.TotalSeconds)).Concat(s.Metrics.Select(m => (m.Key, (object?)m.Value)))));

    /// <summary>A row for each run, a column for each score, and two for the ends of its interval.</summary>
    public static DataFrame ToDataFrame(this IEnumerable<ScoredRun> runs) => Of(runs.Select(r => Row(
        ("task", r.Task), ("run", r.Name), ("source", r.Source), ("published", r.Published))
        .Concat(r.Scores.SelectMany(s => Row((s.Key, s.Value.Mean), ($"{s.Key} low", s.Value.Low), ($"{s.Key} high", s.Value.High))))));

    /// <summary>A row for each group of modules: where its weights live, in what form, and who computes with them.</summary>
    public static DataFrame ToDataFrame(this MemoryPlan plan)
    {
        ArgumentNullException.ThrowIfNull(plan);
        return Of(plan.Rows.Select(r => Row(("modules", r.Modules), ("count", r.Count), ("parameters", r.Parameters), ("compute", r.Compute),
            ("weights", r.Weights), ("format", r.Format), ("executor", r.Executor), ("bytes", r.Bytes), ("because", r.Because))));
    }

    /// <summary>The cells as they were given.</summary>
    public static DataFrame ToDataFrame(this Table table)
    {
        ArgumentNullException.ThrowIfNull(table);
        return Of(table.Cells.Select(row => table.Headers.Zip(row)), table.Headers);
    }

    /// <summary>Its first rows as a table that can be read everywhere, also without scripts.</summary>
    public static Table AsTable(this DataFrame frame, int rows = 20)
    {
        ArgumentNullException.ThrowIfNull(frame);
        var shown = Math.Min(rows, frame.Rows.Count);
        var table = new Table([.. frame.Columns.Select(c => c.Name)])
        {
            Caption = $"{(shown < frame.Rows.Count ? $"the first {shown:N0} of " : "")}{frame.Rows.Count:N0} rows, {frame.Columns.Count} columns",
        };
        for (var r = 0L; r < shown; r++) table.Row([.. frame.Columns.Select(c => c[r])]);
        return table;
    }

    /// <summary>The log of a finished or running training: a row for each event, a column for each of its numbers.</summary>
    /// <param name="path">trainer_log.jsonl, or the output_dir that it lies in.</param>
    public static DataFrame ReadLog(string path)
    {
        if (Directory.Exists(path)) path = Path.Combine(path, LogFile);
        var lines = RegularFile.ReadAllText(path, "a training's log").Split('\n');
        return Of(lines.Select((line, i) => (line, i)).Where(l => !string.IsNullOrWhiteSpace(l.line)).Select(l => Event(l.line, $"{path}:{l.i + 1}")));
    }

    private static IEnumerable<(string, object?)> Event(string line, string place)
    {
        try
        {
            var root = JsonDocument.Parse(line).RootElement;
            if (root.ValueKind != JsonValueKind.Object) throw new InvalidDataException($"[log] {place}: must be a JSON object, as a training logs it");
            return [.. root.EnumerateObject().Select(p => (p.Name, p.Value.ValueKind switch
            {
                JsonValueKind.Number => p.Value.TryGetInt64(out var whole) ? (object)whole : p.Value.GetDouble(),
                JsonValueKind.True or JsonValueKind.False => p.Value.GetBoolean(),
                JsonValueKind.Null => null,
                _ => (object?)p.Value.ToString(),
            }))];
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"[log] {place}: is not JSON: {JsonSource.Reason(e)}");
        }
    }

    private static IEnumerable<(string Name, object? Value)> Row(params IEnumerable<(string, object?)> cells) => cells;

    /// <summary>Columns in the order in which they first come; of whole numbers, numbers, truth values or texts, as all of their cells allow.</summary>
    private static DataFrame Of(IEnumerable<IEnumerable<(string Name, object? Value)>> rows, IEnumerable<string>? names = null)
    {
        var all = rows.Select(r => r.GroupBy(c => c.Name).ToDictionary(g => g.Key, g => g.Last().Value)).ToArray();
        return new DataFrame((names ?? all.SelectMany(r => r.Keys)).Distinct().Select(name => Column(name, [.. all.Select(r => r.GetValueOrDefault(name))])));
    }

    private static DataFrameColumn Column(string name, object?[] cells)
    {
        var given = cells.OfType<object>().ToArray();
        return given.Length == 0 ? new StringDataFrameColumn(name, cells.Length)
            : Array.TrueForAll(given, c => c is bool) ? new BooleanDataFrameColumn(name, cells.Select(c => (bool?)c))
            : Array.TrueForAll(given, IsWhole) ? new Int64DataFrameColumn(name, cells.Select(c => c is null ? (long?)null : Whole(c)))
            : Array.TrueForAll(given, IsNumber) ? new DoubleDataFrameColumn(name, cells.Select(c => c is null ? (double?)null : Number(c)))
            : new StringDataFrameColumn(name, cells.Select(c => Convert.ToString(c, CultureInfo.InvariantCulture)));
    }

    private static bool IsWhole(object cell) => cell is sbyte or byte or short or ushort or int or uint or long;

    private static bool IsNumber(object cell) => IsWhole(cell) || cell is ulong or float or double or decimal;

    private static long Whole(object cell) => Convert.ToInt64(cell, CultureInfo.InvariantCulture);

    private static double Number(object cell) => Convert.ToDouble(cell, CultureInfo.InvariantCulture);
}
