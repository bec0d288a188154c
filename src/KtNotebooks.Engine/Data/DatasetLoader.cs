using KtNotebooks.Interop;

namespace KtNotebooks.Data;

/// <summary>
/// What a row must have to be of use: a question, also an answer (supervised), two answers of which the first is better (ranking), or one answer that is
/// wanted or not (KTO).
/// </summary>
public enum Need
{
    Question,
    Answer,
    Ranking,
    Liking,
}

/// <summary>The rows of a data set that are of use, and "file:row: reason" for each that is not.</summary>
public sealed record DatasetRows(string Name, IReadOnlyList<Example> Examples, IReadOnlyList<string> Skipped);

/// <summary>Loads data sets by their names in dataset_info.json.</summary>
public static class DatasetLoader
{
    /// <summary>The formats that rows can have, by the name in 'formatting'.</summary>
    private static readonly Dictionary<string, Func<DatasetEntry, Lazy<IReadOnlySet<string>>, IRowFormat>> Formats = new()
    {
        ["alpaca"] = (entry, present) => new AlpacaFormat(entry, present),
        ["sharegpt"] = (entry, present) => new ConversationFormat(entry, present, openAi: false),
        ["openai"] = (entry, present) => new ConversationFormat(entry, present, openAi: true),
    };

    /// <summary>The examples of several data sets, one set after another; rows need no answer.</summary>
    /// <inheritdoc cref="Read(string, string, int?, Need, CancellationToken)"/>
    public static List<Example> Load(string folder, string names, int? maxSamples = null) =>
        [.. Read(folder, names, maxSamples).SelectMany(set => set.Examples)];

    /// <summary>The rows of several data sets.</summary>
    /// <param name="folder">dataset_dir: the folder of dataset_info.json.</param>
    /// <param name="names">Names with commas between.</param>
    /// <param name="maxSamples">max_samples: the first so many rows of <em>each</em> set; null: all.</param>
    /// <param name="need">What a row must have to be of use.</param>
    /// <param name="cancel">Looked at with every row.</param>
    /// <exception cref="ArgumentException">A name is not known; the message gives the nearest.</exception>
    /// <exception cref="FileNotFoundException">A file is missing; the message names it and the entry.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; the message begins with file:row.</exception>
    public static IReadOnlyList<DatasetRows> Read(string folder, string names, int? maxSamples = null, Need need = Need.Question,
        CancellationToken cancel = default)
    {
        DatasetEntry[] entries = [.. Entries(folder, names)]; // all names are checked before the first file is read
        return [.. entries.Select(entry => Read(entry, maxSamples, need, cancel))];
    }

    /// <summary>The rows of sets whose answers are compared with what a model writes: no answers that are wanted or not.</summary>
    /// <inheritdoc cref="Read(string, string, int?, Need, CancellationToken)"/>
    internal static IReadOnlyList<DatasetRows> ReadToPredict(string folder, string names, int? maxSamples, Need need, CancellationToken cancel)
    {
        foreach (var entry in Entries(folder, names)) RequireAnswers(entry);
        return Read(folder, names, maxSamples, need, cancel);
    }

    private static void RequireAnswers(DatasetEntry entry)
    {
        if (entry.Columns.KtoTag is not null)
            throw new NotSupportedException($"The dataset '{entry.Name}' names a kto_tag (answers that are wanted or not), from which stage: kto learns. To "
                + $"take all of its answers alike, take kto_tag out of its 'columns' in {DatasetInfo.FileName}.");
    }

    /// <summary>The entries of dataset_info.json that a list of names means.</summary>
    public static IReadOnlyList<DatasetEntry> Entries(string folder, string names)
    {
        var wanted = names.Split(',', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries);
        if (wanted.Length == 0)
            throw new ArgumentException("The list of data sets is empty. Give one or more names with commas between.", nameof(names));
        var info = DatasetInfo.Load(folder);
        return [.. wanted.Select(info.Get)];
    }

    /// <summary>The rows of one entry.</summary>
    public static DatasetRows Read(DatasetEntry entry, int? maxSamples = null, Need need = Need.Question, CancellationToken cancel = default)
    {
        List<string> skipped = [];
        List<Example> examples = [.. Stream(entry, maxSamples, need, skipped, cancel)];
        return new DatasetRows(entry.Name, examples, skipped);
    }

    /// <summary>The examples of one entry, of which one at a time is read; rows that are of no use go to a list as "file:row: reason".</summary>
    internal static IEnumerable<Example> Stream(DatasetEntry entry, int? maxSamples, Need need, ICollection<string> skipped, CancellationToken cancel = default)
    {
        if (maxSamples <= 0)
            throw new ArgumentException($"max_samples is {maxSamples}; it must be above 0, or null for all rows.", nameof(maxSamples));
        if (!Formats.TryGetValue(entry.Formatting, out var format))
            throw new NotSupportedException($"The dataset '{entry.Name}' is of formatting '{entry.Formatting}'.{Nearest.Hint(entry.Formatting, Formats.Keys)}");
        if (entry.Ranking && need != Need.Ranking)
            throw new NotSupportedException($"The dataset '{entry.Name}' has ranking: true (a chosen and a rejected answer a row), from which stage: dpo and "
                + "stage: rm learn and no other.");
        if (entry.Ranking && (entry.Columns.Chosen is null || entry.Columns.Rejected is null))
            throw new NotSupportedException($"The dataset '{entry.Name}' has ranking: true, but its 'columns' in {DatasetInfo.FileName} do not say which "
                + "column is 'chosen' and which is 'rejected'.");
        if (need == Need.Answer) RequireAnswers(entry);
        if (!entry.Ranking && need == Need.Ranking)
            throw new NotSupportedException($"The dataset '{entry.Name}' has no ranking: true in {DatasetInfo.FileName}; learning from preferences needs a "
                + "chosen and a rejected answer a row.");
        if (need == Need.Liking && entry.Columns.KtoTag is null)
            throw new NotSupportedException($"The dataset '{entry.Name}' names no kto_tag in its 'columns' in {DatasetInfo.FileName}; stage: kto needs a "
                + "column of true (the answer is wanted) or false.");
        if (FileKinds.Of(entry.Path) == FileKind.None)
            throw new FileNotFoundException(Missing(entry), entry.Path);

        // num_samples draws from all rows; without it no row beyond max_samples is parsed. Which columns there are is looked for when a row lacks one.
        var openAi = entry.Formatting == "openai" ? "messages" : null;
        string[] keys = [.. new[] { entry.Columns.Prompt, entry.Columns.Response, entry.Columns.Messages, openAi }.OfType<string>()];
        IEnumerable<Row> All() => RowReader.Read(entry.Path, entry.SampleCount is null ? maxSamples : null, keys);
        var present = new Lazy<IReadOnlySet<string>>(() =>
            All().SelectMany(row => row.Fields.EnumerateObject().Select(p => p.Name)).ToHashSet(StringComparer.Ordinal));
        var rows = entry.SampleCount is { } count ? RowSample.Of(All, entry, count, maxSamples) : All();
        return Convert(entry, rows, format(entry, present), need, skipped, cancel);
    }

    private static IEnumerable<Example> Convert(DatasetEntry entry, IEnumerable<Row> rows, IRowFormat converter, Need need, ICollection<string> skipped,
        CancellationToken cancel)
    {
        var (read, used) = (0, 0);
        var first = "";
        foreach (var row in rows)
        {
            cancel.ThrowIfCancellationRequested();
            read++;
            var (example, reason) = Readable(row, converter.Convert);
            reason = example is null ? reason : Lacks(example, need, entry);
            if (reason.Length == 0)
            {
                used++;
                yield return example!;
                continue;
            }
            skipped.Add($"{row.Source}: {reason}");
            if (read == 1)
                first = $"{row.Source}: {reason}";
        }
        if (read == 0)
            throw new InvalidDataException($"{entry.Path}: the dataset '{entry.Name}' has no rows.");
        if (used == 0)
            throw new InvalidDataException($"{entry.Path}: of the {read:N0} rows of the dataset '{entry.Name}' none is of use. {first}");
    }

    private static string Missing(DatasetEntry entry)
    {
        var what = new FileInfo(entry.Path).LinkTarget is { } target ? $"is a link to {target}, which is not there" : "does not exist";
        return $"The file '{entry.Path}' of the dataset '{entry.Name}' {what} (file_name in {DatasetInfo.FileName} is relative to that file's folder)."
            + $" {DatasetSources.Hint(Path.GetFileName(entry.Path))}".TrimEnd();
    }

    /// <summary>What the need finds missing, or nothing.</summary>
    private static string Lacks(Example example, Need need, DatasetEntry entry)
    {
        if (need == Need.Question)
            return "";
        var wanted = need == Need.Answer ? 1 : 2;
        if (need == Need.Liking && example.Responses.Count == 1)
            return "whether its answer is wanted (kto_tag) is neither true nor false";
        if (need == Need.Liking && example.Responses is [{ Content: "" }, { Content: "" }])
            return "the answer is empty";
        if (example.Responses.Count == 0)
            return entry.Columns is { Response: null, Prompt: not null }
                ? $"it has no answer: 'columns' of '{entry.Name}' in {DatasetInfo.FileName} names no response" : "the answer is null or missing";
        if (example.Responses.Count != wanted)
            return $"the row has {example.Responses.Count} answers where {wanted} are needed";
        // A wanted and an unwanted answer: one of them is empty on purpose.
        return need == Need.Liking || example.Responses.All(r => !string.IsNullOrWhiteSpace(r.Content)) ? "" : "the answer is empty";
    }

    /// <summary>
    /// Splits off examples for evaluation, chosen at random by the seed; both parts keep the order of the rows.
    /// </summary>
    /// <param name="examples">All examples.</param>
    /// <param name="valSize">val_size: up to 1 a fraction (rounded up), above 1 a count; 0: none.</param>
    /// <param name="seed">Decides which.</param>
    /// <exception cref="ArgumentException">The size is negative, or nothing would be left to train on.</exception>
    public static (List<T> Train, List<T> Evaluation) Split<T>(IReadOnlyList<T> examples, double valSize, int seed)
    {
        var count = valSize > 1 ? (int)valSize : (int)Math.Ceiling(valSize * examples.Count);
        if (!(valSize >= 0) || count >= examples.Count)
            throw new ArgumentException($"val_size is {valSize}, which takes {count} of {examples.Count} examples; it must be 0 or more and leave some to "
                + "train on.");
        var chosen = EpochOrder.Of(seed, epoch: 0, examples.Count).Take(count).ToHashSet();
        List<T> train = [], evaluation = [];
        for (var i = 0; i < examples.Count; i++)
            (chosen.Contains(i) ? evaluation : train).Add(examples[i]);
        return (train, evaluation);
    }

    /// <summary>The JSON parser checks text only when it is asked for, and then does not know the row.</summary>
    private static T Readable<T>(Row row, Func<Row, T> read)
    {
        try
        {
            return read(row);
        }
        catch (InvalidOperationException e)
        {
            throw new InvalidDataException($"{row.Source}: the row holds text that is not valid UTF-8, or half of a surrogate pair (\\ud800 … \\udfff), which "
                + "is no character. Correct the row.",
                e);
        }
    }
}
