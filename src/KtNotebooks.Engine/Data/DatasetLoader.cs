namespace KtNotebooks.Data;

/// <summary>What a row must have to be of use: a question, also an answer (supervised), two answers of which the first is better (ranking), or one answer that is wanted or not (KTO).</summary>
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
    private static readonly Dictionary<string, Func<DatasetEntry, IReadOnlySet<string>, IRowFormat>> Formats = new()
    {
        ["alpaca"] = (entry, present) => new AlpacaFormat(entry, present),
        ["sharegpt"] = (entry, present) => new ConversationFormat(entry, present, openAi: false),
        ["openai"] = (entry, present) => new ConversationFormat(entry, present, openAi: true),
    };

    /// <summary>The examples of several data sets, one set after another; rows need no answer.</summary>
    /// <inheritdoc cref="Read(string, string, int?, Need)"/>
    public static List<Example> Load(string folder, string names, int? maxSamples = null) => [.. Read(folder, names, maxSamples).SelectMany(set => set.Examples)];

    /// <summary>The rows of several data sets.</summary>
    /// <param name="folder">dataset_dir: the folder of dataset_info.json.</param>
    /// <param name="names">Names with commas between.</param>
    /// <param name="maxSamples">max_samples: the first so many rows of <em>each</em> set; null: all.</param>
    /// <param name="need">What a row must have to be of use.</param>
    /// <exception cref="ArgumentException">A name is not known; the message gives the nearest.</exception>
    /// <exception cref="FileNotFoundException">A file is missing; the message names it and the entry.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; the message begins with file:row.</exception>
    public static IReadOnlyList<DatasetRows> Read(string folder, string names, int? maxSamples = null, Need need = Need.Question)
    {
        DatasetEntry[] entries = [.. Entries(folder, names)]; // all names are checked before the first file is read
        return [.. entries.Select(entry => Read(entry, maxSamples, need))];
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
    public static DatasetRows Read(DatasetEntry entry, int? maxSamples = null, Need need = Need.Question)
    {
        if (maxSamples <= 0)
            throw new ArgumentException($"max_samples is {maxSamples}; it must be above 0, or null for all rows.", nameof(maxSamples));
        if (!Formats.TryGetValue(entry.Formatting, out var format))
            throw new NotSupportedException($"The dataset '{entry.Name}' is of formatting '{entry.Formatting}'.{Nearest.Hint(entry.Formatting, Formats.Keys)}");
        if (entry.Ranking && need != Need.Ranking)
            throw new NotSupportedException($"The dataset '{entry.Name}' has ranking: true (a chosen and a rejected answer a row), which supervised fine-tuning cannot learn from.");
        if (!entry.Ranking && need == Need.Ranking)
            throw new NotSupportedException($"The dataset '{entry.Name}' has no ranking: true in {DatasetInfo.FileName}; learning from preferences needs a chosen and a rejected answer a row.");
        if (!File.Exists(entry.Path) && !Directory.Exists(entry.Path))
            throw new FileNotFoundException($"The file '{entry.Path}' of the dataset '{entry.Name}' does not exist (file_name in {DatasetInfo.FileName} is relative to that file's folder).{(DatasetSources.Hint(Path.GetFileName(entry.Path)) is { Length: > 0 } hint ? " " + hint : "")}", entry.Path);

        // num_samples draws from all rows; without it no row beyond max_samples is parsed.
        var rows = RowReader.Read(entry.Path, entry.SampleCount is null ? maxSamples : null);
        if (rows.Count == 0)
            throw new InvalidDataException($"{entry.Path}: the dataset '{entry.Name}' has no rows.");
        if (entry.SampleCount is int count)
            rows = Sample(rows, count);
        var present = rows.SelectMany(row => Readable(row, r => r.Fields.EnumerateObject().Select(p => p.Name).ToArray())).ToHashSet(StringComparer.Ordinal);
        var converter = format(entry, present);
        List<Example> examples = [];
        List<string> skipped = [];
        foreach (var row in rows.Take(maxSamples ?? int.MaxValue))
        {
            var (example, reason) = Readable(row, converter.Convert);
            reason = example is null ? reason : Lacks(example, need);
            if (reason.Length == 0)
                examples.Add(example!);
            else
                skipped.Add($"{row.Source}: {reason}");
        }
        if (examples.Count == 0)
            throw new InvalidDataException($"{entry.Path}: of the {rows.Count} rows of the dataset '{entry.Name}' none is of use. {skipped[0]}");
        return new DatasetRows(entry.Name, examples, skipped);
    }

    /// <summary>What the need finds missing, or nothing.</summary>
    private static string Lacks(Example example, Need need)
    {
        if (need == Need.Question)
            return "";
        var wanted = need == Need.Answer ? 1 : 2;
        if (example.Responses.Count != wanted)
            return example.Responses.Count == 0 ? "the answer is null or missing" : $"the row has {example.Responses.Count} answers where {wanted} are needed";
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
    public static (List<Example> Train, List<Example> Evaluation) Split(IReadOnlyList<Example> examples, double valSize, int seed)
    {
        var count = valSize > 1 ? (int)valSize : (int)Math.Ceiling(valSize * examples.Count);
        if (!(valSize >= 0) || count >= examples.Count)
            throw new ArgumentException($"val_size is {valSize}, which takes {count} of {examples.Count} examples; it must be 0 or more and leave some to train on.", nameof(valSize));
        var chosen = EpochOrder.Of(seed, epoch: 0, examples.Count).Take(count).ToHashSet();
        List<Example> train = [], evaluation = [];
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
            throw new InvalidDataException($"{row.Source}: the row holds text that is not valid UTF-8, or half of a surrogate pair. Save the file as UTF-8.", e);
        }
    }

    /// <summary>Without repeats while there are enough rows; then every row once and the rest at random with repeats, as upstream.</summary>
    private static List<Row> Sample(List<Row> rows, int count)
    {
        const int Seed = 42; // fixed: the data set is the same in every run
        var order = EpochOrder.Of(Seed, epoch: 0, rows.Count);
        var random = new StableRandom(Seed);
        return [.. Enumerable.Range(0, count).Select(i => rows[i < order.Length ? order[i] : random.Next(rows.Count)])];
    }
}
