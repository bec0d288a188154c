using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Evaluation;

/// <summary>
/// generated_predictions.jsonl while it grows. The file always holds the first rows of the data set in their order, so that the number of its lines is
/// where a run goes on; rows that finish before their turn wait in generated_predictions.ahead.jsonl (with their number), which is gone at the end. Every
/// row is on its way to the disk when <see cref="Add"/> returns: a killed run loses the rows in work, nothing else.
/// </summary>
public sealed class PredictionLog : IDisposable
{
    private const string Otherwise = "choose another output_dir, or overwrite_output_dir=true to begin again";
    private readonly string _aheadPath;
    private readonly FileStream _file;
    private readonly SortedDictionary<int, Prediction> _waiting = [];
    private FileStream? _ahead;

    private PredictionLog(string path)
    {
        _aheadPath = Ahead(path);
        _file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, 1);
    }

    /// <summary>Rows at the beginning that are in the file.</summary>
    public int Written { get; private set; }

    /// <summary>Rows that are done, in whatever order.</summary>
    public int Done => Written + _waiting.Count;

    /// <summary>Opens what an earlier run left, or begins. A line that was cut off by a kill is dropped.</summary>
    /// <param name="prompts">The prompts of the data set now.</param>
    /// <exception cref="InvalidDataException">A row was made from another prompt than the row has now.</exception>
    public static PredictionLog Open(string folder, IReadOnlyList<string> prompts)
    {
        ArgumentNullException.ThrowIfNull(prompts);
        Folders.Create(folder, "output_dir");
        var path = Path.Combine(folder, Predictions.FileName);
        if (Path.Exists(path)) RegularFile.Require(path, "a file of predictions");
        var log = new PredictionLog(path);
        try
        {
            foreach (var line in WholeLines(log._file))
            {
                if (log.Written == prompts.Count) throw new InvalidDataException($"{path}: has more rows than the data set's {prompts.Count}; {Otherwise}");
                Check(line.Text("prompt"), prompts[log.Written], path, ++log.Written);
            }
            if (File.Exists(log._aheadPath)) log.ReadAhead(prompts);
            return log;
        }
        catch
        {
            log.Dispose();
            throw;
        }
    }

    /// <summary>Removes what an earlier run left.</summary>
    public static void Clear(string folder)
    {
        if (!Directory.Exists(folder)) return;
        foreach (var path in Files(folder)) File.Delete(path);
    }

    /// <summary>Whether an earlier run left any.</summary>
    public static bool HasRows(string folder) => Files(folder).Any(path => File.Exists(path) && new FileInfo(path).Length > 0);

    public bool Has(int row) => row < Written || _waiting.ContainsKey(row);

    public void Add(int row, Prediction prediction)
    {
        if (row != Written)
        {
            _waiting.Add(row, prediction);
            var line = JsonNode.Parse(Predictions.ToLine(prediction))!.AsObject();
            line.Insert(0, "row", row);
            Append(_ahead ??= new FileStream(_aheadPath, FileMode.Append, FileAccess.Write, FileShare.Read, 1), line.ToJsonString() + "\n");
            return;
        }
        Write(prediction);
    }

    /// <summary>All rows are there: the side file goes.</summary>
    public void Complete()
    {
        _ahead?.Dispose();
        _ahead = null;
        File.Delete(_aheadPath);
    }

    public void Dispose()
    {
        _file.Dispose();
        _ahead?.Dispose();
    }

    private void Write(Prediction prediction)
    {
        Append(_file, Predictions.ToLine(prediction));
        Written++;
        while (_waiting.Remove(Written, out var next))
        {
            Append(_file, Predictions.ToLine(next));
            Written++;
        }
    }

    private void ReadAhead(IReadOnlyList<string> prompts)
    {
        using (var stream = new FileStream(_aheadPath, FileMode.Open, FileAccess.ReadWrite))
        {
            foreach (var line in WholeLines(stream))
            {
                var row = line.Value("row", JsonValueKind.Number).TryGetInt32(out var number) ? number : -1;
                if (row < Written || row >= prompts.Count) continue;
                var prompt = line.Text("prompt");
                Check(prompt, prompts[row], _aheadPath, row + 1);
                _waiting[row] = new Prediction(prompt, line.Text("predict"), line.Text("label"));
            }
        }
        // A run killed between a row's turn and its writing left rows here whose turn has come.
        if (_waiting.Remove(Written, out var first)) Write(first);
    }

    private static void Check(string stored, string now, string path, int row)
    {
        if (stored != now) throw new InvalidDataException($"{path}: row {row} was made from another prompt than the data set has there now; {Otherwise}");
    }

    /// <summary>The lines of a stream; a last one without its end is cut off, and the stream stands where the next goes.</summary>
    private static List<Line> WholeLines(FileStream stream)
    {
        var bytes = new byte[stream.Length];
        stream.ReadExactly(bytes);
        var end = Array.LastIndexOf(bytes, (byte)'\n') + 1;
        stream.SetLength(end);
        stream.Position = end;
        List<Line> lines = [];
        var number = 0;
        foreach (var text in Encoding.UTF8.GetString(bytes, 0, end).Split('\n'))
        {
            var source = $"{stream.Name}:{++number}";
            if (text.Length == 0) continue;
            try
            {
                using var json = JsonDocument.Parse(text);
                lines.Add(new Line(json.RootElement.Clone(), source));
            }
            catch (JsonException error)
            {
                throw new InvalidDataException($"{source}: not a row of predictions: {JsonSource.Reason(error)}; {Otherwise}");
            }
        }
        return lines;
    }

    private static void Append(FileStream stream, string line) => stream.Write(Encoding.UTF8.GetBytes(line));

    /// <summary>A row as it was written.</summary>
    private readonly record struct Line(JsonElement Row, string Source)
    {
        public string Text(string key) => Value(key, JsonValueKind.String).GetString()!;

        public JsonElement Value(string key, JsonValueKind kind) =>
            Row.ValueKind == JsonValueKind.Object && Row.TryGetProperty(key, out var value) && value.ValueKind == kind ? value
            : throw new InvalidDataException($"{Source}: not a row of predictions: it has no '{key}' as kt predict writes it; {Otherwise}");
    }

    private static string[] Files(string folder) => [Path.Combine(folder, Predictions.FileName), Ahead(Path.Combine(folder, Predictions.FileName))];

    private static string Ahead(string path) => Path.ChangeExtension(path, ".ahead.jsonl");
}
