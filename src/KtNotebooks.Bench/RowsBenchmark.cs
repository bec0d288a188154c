using System.Diagnostics;
using System.Text.Json;

using Apache.Arrow;
using Apache.Arrow.Ipc;

using KtNotebooks.Data;

namespace KtNotebooks.Bench;

/// <summary>What reading a data file's rows one after the other took.</summary>
/// <param name="File">Its name.</param>
/// <param name="FileBytes">On the disk.</param>
/// <param name="Rows">That were read.</param>
/// <param name="FirstRowSeconds">Until the first was there.</param>
/// <param name="Seconds">Until the last was.</param>
/// <param name="HostBytes">How much the process grew meanwhile, at most, in bytes.</param>
public sealed record RowsBenchmarkResult(string File, long FileBytes, int Rows, double FirstRowSeconds, double Seconds, long HostBytes)
{
    public double RowsPerSecond => Rows / Seconds;

    public double MbPerSecond => FileBytes / Seconds / 1e6;
}

/// <summary>
/// Rows of data files as a run with `streaming: true` reads them: JSON lines; Parquet with all rows in one row group, as pandas writes up to a million;
/// Arrow in batches of a thousand, as Hugging Face's datasets writes its caches. The rows read must be those written, or there is no figure.
/// </summary>
public static class RowsBenchmark
{
    private static readonly string[] Names = ["rows.jsonl", "rows.parquet", "rows.arrow"];

    /// <param name="rows">Questions and answers to write and read.</param>
    /// <param name="folder">For the files, which are removed again.</param>
    /// <param name="cancel">Ends it between two rows.</param>
    /// <exception cref="InvalidDataException">Rows came back as others: a fault of the reader.</exception>
    public static IEnumerable<RowsBenchmarkResult> Run(IReadOnlyList<(string Question, string Answer)> rows, string folder, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(rows);
        ArgumentNullException.ThrowIfNull(folder);
        foreach (var name in Names)
        {
            var file = Path.Combine(folder, name);
            try
            {
                Write(file, rows);
                var same = 0;
                var result = Read(file, row =>
                {
                    if (same < rows.Count && row.GetProperty("question").ValueEquals(rows[same].Question)
                        && row.GetProperty("answer").ValueEquals(rows[same].Answer)) same++;
                }, cancel);
                if (result.Rows != rows.Count || same != rows.Count)
                    throw new InvalidDataException($"{file}: {rows.Count:N0} rows were written and {result.Rows:N0} read, and they are not the same: the "
                        + "reader is wrong, so no speed is given");
                yield return result;
            }
            finally
            {
                File.Delete(file);
            }
        }
    }

    /// <summary>All rows of a data file, of any kind that is read.</summary>
    /// <param name="file">Its path.</param>
    /// <param name="see">Is given the columns of every row.</param>
    /// <param name="cancel">Ends it between two rows.</param>
    /// <exception cref="InvalidDataException">A row is not valid.</exception>
    public static RowsBenchmarkResult Read(string file, Action<JsonElement>? see = null, CancellationToken cancel = default)
    {
        GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive); // what is free and not given back would hide what reading takes
        using var memory = new HostPeak();
        var watch = Stopwatch.StartNew();
        var (count, first) = (0, 0.0);
        foreach (var row in RowReader.Read(file))
        {
            if (count++ == 0) first = watch.Elapsed.TotalSeconds;
            see?.Invoke(row.Fields);
            cancel.ThrowIfCancellationRequested();
        }
        var seconds = watch.Elapsed.TotalSeconds;
        return new RowsBenchmarkResult(Path.GetFileName(file), RowReader.FilesOf(file).Sum(f => new FileInfo(f).Length), count, first, seconds,
            memory.Grown().Peak);
    }

    private static void Write(string file, IReadOnlyList<(string Question, string Answer)> rows)
    {
        switch (Path.GetExtension(file))
        {
            case ".jsonl":
                using (var lines = File.CreateText(file))
                    foreach (var (question, answer) in rows) lines.WriteLine(JsonSerializer.Serialize(new { question, answer }));
                break;
            case ".parquet":
                using (var batch = Batch(rows))
                using (var writer = new ParquetSharp.Arrow.FileWriter(file, batch.Schema))
                {
                    writer.WriteRecordBatch(batch, batch.Length);
                    writer.Close();
                }
                break;
            default:
                using (var stream = File.Create(file))
                {
                    ArrowStreamWriter? writer = null;
                    foreach (var part in rows.Chunk(1000))
                    {
                        using var batch = Batch(part);
                        writer ??= new ArrowStreamWriter(stream, batch.Schema);
                        writer.WriteRecordBatch(batch);
                    }
                    writer?.WriteEnd();
                    writer?.Dispose();
                }
                break;
        }
    }

    private static RecordBatch Batch(IReadOnlyList<(string Question, string Answer)> rows)
    {
        var (questions, answers) = (new StringArray.Builder(), new StringArray.Builder());
        foreach (var (question, answer) in rows)
        {
            questions.Append(question);
            answers.Append(answer);
        }
        return new RecordBatch.Builder().Append("question", true, questions.Build()).Append("answer", true, answers.Build()).Build();
    }
}
