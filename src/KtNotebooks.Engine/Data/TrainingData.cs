using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>What the data keys of a configuration say; names and defaults are LLaMA-Factory's.</summary>
public sealed record DataSettings
{
    /// <summary>dataset_dir.</summary>
    public string Folder { get; init; } = "data";

    /// <summary>dataset: names with commas between.</summary>
    public required string Names { get; init; }

    /// <summary>eval_dataset.</summary>
    public string? Evaluation { get; init; }

    /// <summary>With enable_thinking and default_system already in it.</summary>
    public required Template Template { get; init; }

    /// <summary>The template was named; else it is the empty one, unless the model brings one of its own.</summary>
    public bool TemplateGiven { get; init; } = true;

    public int Cutoff { get; init; } = 2048;

    /// <summary>max_samples, of each set.</summary>
    public int? MaxSamples { get; init; }

    /// <summary>val_size: up to 1 a fraction, above a count.</summary>
    public double ValSize { get; init; }

    public string MixStrategy { get; init; } = "concat";

    /// <summary>interleave_probs.</summary>
    public IReadOnlyList<double>? Probabilities { get; init; }

    public bool TrainOnPrompt { get; init; }

    public bool MaskHistory { get; init; }

    public PackingMode Packing { get; init; }

    /// <summary>preprocessing_batch_size.</summary>
    public int PackingHorizon { get; init; } = 1000;

    public int Seed { get; init; } = 42;

    /// <summary>identity_name: what {{name}} in a row becomes; null: it stays.</summary>
    public string? IdentityName { get; init; }

    /// <summary>identity_author: what {{author}} in a row becomes; null: it stays.</summary>
    public string? IdentityAuthor { get; init; }

    /// <summary>buffer_size of streaming: true; null: all rows are encoded before the first step.</summary>
    public int? StreamBuffer { get; init; }

    /// <summary>overwrite_cache: encode anew and write the cache again.</summary>
    public bool OverwriteCache { get; init; }
}

/// <summary>
/// The rows of a run as ids, ready for training: read, encoded on all processors, mixed, split, packed. Encoded rows of large sets are cached by the hash of
/// everything that they depend on.
/// </summary>
/// <param name="Train">Rows to learn.</param>
/// <param name="HeldOut">Rows of eval_dataset or val_size.</param>
/// <param name="Skipped">"file:row: reason" of each row that is of no use.</param>
/// <param name="Remarks">What a person should know about the rows besides those left out.</param>
/// <param name="FromCache">They were encoded before.</param>
public sealed record TrainingData(
    EncodedExample[] Train, EncodedExample[] HeldOut, IReadOnlyList<string> Skipped, IReadOnlyList<string> Remarks, bool FromCache)
{
    /// <summary>Rows, and characters, that are encoded at once.</summary>
    private const int BatchRows = 1024, BatchCharacters = 1 << 24;

    /// <summary>What the cache did, or null.</summary>
    private string? CacheNote { get; init; }

    /// <param name="settings">Which data, and how.</param>
    /// <param name="tokenizerFolder">Where the tokenizer was loaded from.</param>
    /// <param name="encoder">How rows become ids.</param>
    /// <param name="cancel">Looked at with every row.</param>
    /// <exception cref="ArgumentException">The settings contradict each other.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; the message begins with file:row.</exception>
    public static TrainingData Load(DataSettings settings, string tokenizerFolder, RowEncoder encoder, CancellationToken cancel = default)
    {
        if (settings.Evaluation is not null && settings.ValSize > 0)
            throw new ArgumentException("eval_dataset and val_size exclude each other");
        if (encoder.HasTemplate && !settings.TemplateGiven)
            ChatTemplate.RequireNone(tokenizerFolder);
        if (settings.StreamBuffer is not null) return HeldOutOf(settings, encoder, cancel);
        var key = EncodedKey.Of(settings, tokenizerFolder, encoder);
        if (key is not null && !settings.OverwriteCache && EncodedCache.Read(key) is { } known)
        {
            var note = $"the encoded rows are those of an earlier run with the same data and settings ({EncodedCache.FileOf(key)});"
                + " overwrite_cache=true encodes them anew";
            return known with { CacheNote = note };
        }

        List<string> skipped = [];
        var identity = new Identity(settings.IdentityName, settings.IdentityAuthor);
        List<EncodedExample> Encoded(DatasetEntry entry) => Encode(entry, settings, encoder, identity, skipped, cancel);
        var entries = DatasetLoader.Entries(settings.Folder, settings.Names); // all names are checked before the first file is read
        IReadOnlyList<DatasetEntry> evaluation = settings.Evaluation is null ? [] : DatasetLoader.Entries(settings.Folder, settings.Evaluation);
        var train = Mixing.Mix([.. entries.Select(Encoded)], settings.MixStrategy, settings.Probabilities, settings.Seed);
        cancel.ThrowIfCancellationRequested();
        List<EncodedExample> heldOut = [.. evaluation.SelectMany(Encoded)];
        if (settings.ValSize > 0)
            (train, heldOut) = DatasetLoader.Split(train, settings.ValSize, settings.Seed);
        List<string> remarks = [.. identity.Notes(), .. encoder.Remarks, .. entries.Concat(evaluation).SelectMany(OtherEncodings).Distinct(),
            .. WithoutTemplate(settings, encoder)];
        var data = new TrainingData(Packed(encoder, train, "to train on"), Packed(encoder, heldOut, "held out"), skipped, remarks, FromCache: false);
        return data with { CacheNote = key is null ? Uncached(settings) : EncodedCache.Write(key, data, settings.OverwriteCache) };
    }

    /// <summary>A remark where rows are conversations that nothing tells the model the form of.</summary>
    internal static IEnumerable<string> WithoutTemplate(DataSettings settings, RowEncoder encoder) => !encoder.HasTemplate || settings.TemplateGiven ? []
        : ["'template' is not given and the model brings none: rows are trained as bare text, and no token teaches the model where an"
            + $" answer ends; template=NAME does ({string.Join(", ", Templates.Names)})"];

    /// <summary>Of a stream the rows of eval_dataset alone are read before.</summary>
    private static TrainingData HeldOutOf(DataSettings settings, RowEncoder encoder, CancellationToken cancel)
    {
        List<string> skipped = [];
        var identity = new Identity(settings.IdentityName, settings.IdentityAuthor);
        IReadOnlyList<DatasetEntry> evaluation = settings.Evaluation is null ? [] : DatasetLoader.Entries(settings.Folder, settings.Evaluation);
        EncodedExample[] heldOut = [.. evaluation.SelectMany(entry => Encode(entry, settings, encoder, identity, skipped, cancel))];
        return new TrainingData([], Packed(encoder, heldOut, "held out"), skipped, [], FromCache: false);
    }

    /// <summary>The rows packed. Of texts that are joined and cut a rest is left over, as upstream; to leave all of them over is an error.</summary>
    private static EncodedExample[] Packed(RowEncoder encoder, IReadOnlyList<EncodedExample> rows, string what)
    {
        if (rows.Count == 0) return [];
        var packed = encoder.Pack(rows);
        return packed.Length > 0 ? packed : throw new InvalidDataException($"{rows[0].Source}: the {rows.Count:N0} rows {what} have "
            + $"{rows.Sum(r => (long)r.Ids.Length):N0} tokens together, which do not fill one sequence of cutoff_len tokens. Lower cutoff_len, or write "
            + "packing: false, which makes each text a sequence of its own.");
    }

    /// <summary>What a person should know about the rows: those left out (the first few by name), and the remarks.</summary>
    /// <param name="positions">The longest sequence that the model was made for; null: not known.</param>
    public IReadOnlyList<string> Notes(int? positions)
    {
        const int Shown = 10;
        var remarks = AllRemarks(positions);
        return Skipped.Count == 0 ? remarks
            : [$"{Skipped.Count} rows are left out{(Skipped.Count > Shown ? $" (kt data check lists all; the first {Shown})" : "")}:"
                + $"\n  {string.Join("\n  ", Skipped.Take(Shown))}", .. remarks];
    }

    /// <summary>The notes without the rows that are left out.</summary>
    /// <inheritdoc cref="Notes"/>
    public IReadOnlyList<string> AllRemarks(int? positions)
    {
        List<string> notes = [.. Remarks];
        if (positions is { } most && Train.Concat(HeldOut).Sum(row => row.Lengths().Count(length => length > most)) is > 0 and var longer)
            notes.Add($"{longer:N0} rows have more tokens than the {most:N0} positions that the model was made for (config.json,"
                + $" max_position_embeddings); what it learns behind them is of little use: cutoff_len={most} cuts them");
        if (CacheNote is not null)
            notes.Add(CacheNote);
        return notes;
    }

    /// <summary>The rows of a set as ids. A row without a token to learn is left out: it would only lower the mean loss.</summary>
    private static List<EncodedExample> Encode(DatasetEntry entry, DataSettings settings, RowEncoder encoder, Identity identity, List<string> skipped,
        CancellationToken cancel)
    {
        List<EncodedExample> rows = [];
        var read = 0;
        foreach (var batch in Batches(DatasetLoader.Stream(entry, settings.MaxSamples, encoder.Need, skipped, cancel)))
        {
            foreach (var row in encoder.EncodeAll([.. batch.Select(identity.Fill)], cancel))
            {
                read++;
                if (row.Learns)
                    rows.Add(row);
                else
                    skipped.Add($"{row.Source}: nothing to learn: cutoff_len {settings.Cutoff} leaves no token of the answer");
            }
        }
        return rows.Count > 0 ? rows : throw new InvalidDataException(
            $"{entry.Path}: none of the {read:N0} rows of the dataset '{entry.Name}' has anything to learn: cutoff_len is {settings.Cutoff}, which leaves"
                + $" no token of an answer. Raise it (the usual value is 2048).");
    }

    /// <summary>Examples in batches of many rows, or of few long ones.</summary>
    private static IEnumerable<List<Example>> Batches(IEnumerable<Example> examples)
    {
        List<Example> batch = [];
        long characters = 0;
        foreach (var example in examples)
        {
            batch.Add(example);
            characters += example.Prompt.Concat(example.Responses).Sum(m => (long)m.Content.Length);
            if (batch.Count < BatchRows && characters < BatchCharacters)
                continue;
            yield return batch;
            (batch, characters) = ([], 0);
        }
        if (batch.Count > 0)
            yield return batch;
    }

    private static IEnumerable<string> OtherEncodings(DatasetEntry entry) =>
        from file in RowReader.FilesOf(entry.Path)
        let encoding = Utf8Text.OtherEncoding(file)
        where encoding is not null
        select $"{file} was read as {encoding}, as its byte order mark says; UTF-8 is the usual form";

    private static string? Uncached(DataSettings settings) =>
        settings.OverwriteCache ? "overwrite_cache has no effect here: so few rows are encoded at every start, and never kept" : null;
}
