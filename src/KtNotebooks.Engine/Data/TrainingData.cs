using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>What the data keys of a configuration say; names and defaults are LLaMA-Factory's.</summary>
public sealed record DataSettings
{
    /// <summary>dataset_dir.</summary>
    public string Folder { get; init; } = "datasets";

    /// <summary>dataset: names with commas between.</summary>
    public required string Names { get; init; }

    /// <summary>eval_dataset.</summary>
    public string? Evaluation { get; init; }

    /// <summary>With enable_thinking and default_system already in it.</summary>
    public required Template Template { get; init; }

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

    /// <summary>overwrite_cache: encode anew and write the cache again.</summary>
    public bool OverwriteCache { get; init; }
}

/// <summary>The rows of a run as ids, ready for training: read, mixed, split, encoded on all processors, packed. Encoded rows of large sets are cached by the hash of everything that they depend on.</summary>
/// <param name="Train">Rows to learn.</param>
/// <param name="HeldOut">Rows of eval_dataset or val_size.</param>
/// <param name="Skipped">"file:row: reason" of each row that is of no use.</param>
/// <param name="FromCache">They were encoded before.</param>
public sealed record TrainingData(EncodedExample[] Train, EncodedExample[] HeldOut, IReadOnlyList<string> Skipped, bool FromCache)
{
    /// <summary>Encoding this many bytes of data takes about a second; less is not worth a file.</summary>
    private const long WorthCaching = 2_000_000;

    private static readonly string[] Placeholders = ["{{name}}", "{{author}}"];

    /// <param name="settings">Which data, and how.</param>
    /// <param name="tokenizerFolder">Where the tokenizer was loaded from.</param>
    /// <param name="tokenizer">The tokenizer.</param>
    /// <exception cref="ArgumentException">The settings contradict each other.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; the message begins with file:row.</exception>
    public static TrainingData Load(DataSettings settings, string tokenizerFolder, Tokenizer tokenizer)
    {
        if (settings.Evaluation is not null && settings.ValSize > 0)
            throw new ArgumentException("eval_dataset and val_size exclude each other");
        var capacity = settings.Packing == PackingMode.None ? settings.Cutoff : settings.Cutoff - 1;
        var encoder = new SftEncoder(settings.Template, tokenizer, capacity, settings.TrainOnPrompt, settings.MaskHistory);
        var key = Key(settings, tokenizerFolder);
        if (key is not null && !settings.OverwriteCache && EncodedCache.Read(key) is { } known)
            return known;

        var sets = DatasetLoader.Read(settings.Folder, settings.Names, settings.MaxSamples, Need.Answer);
        List<Example> examples = Mixing.Mix([.. sets.Select(set => set.Examples)], settings.MixStrategy, settings.Probabilities, settings.Seed);
        IReadOnlyList<DatasetRows> evaluation = settings.Evaluation is null ? [] : DatasetLoader.Read(settings.Folder, settings.Evaluation, settings.MaxSamples, Need.Answer);
        List<Example> heldOut = [.. evaluation.SelectMany(set => set.Examples)];
        if (settings.ValSize > 0)
            (examples, heldOut) = DatasetLoader.Split(examples, settings.ValSize, settings.Seed);
        EncodedExample[] Rows(List<Example> from) => Packing.Pack(encoder.EncodeAll(from), settings.Packing, capacity, settings.PackingHorizon);
        var data = new TrainingData(Rows(examples), Rows(heldOut), [.. sets.Concat(evaluation).SelectMany(set => set.Skipped)], FromCache: false);
        if (key is not null)
            EncodedCache.Write(key, data);
        return data;
    }

    /// <summary>What a person should know about the rows: those left out (the first few by name), and placeholders of LLaMA-Factory's identity set that nobody filled.</summary>
    public IReadOnlyList<string> Notes(Tokenizer tokenizer)
    {
        const int Shown = 10;
        List<string> notes = [];
        if (Skipped.Count > 0)
            notes.Add($"{Skipped.Count} rows are left out{(Skipped.Count > Shown ? $" (kt data check lists all; the first {Shown})" : "")}:\n  {string.Join("\n  ", Skipped.Take(Shown))}");
        // Trained as it is, a model learns to say "I am {{name}}".
        var open = Train.AsParallel().Count(row => row.Labels.Any(l => l >= 0) && Placeholders.Any(tokenizer.Decode([.. row.Labels.Where(l => l >= 0)]).Contains));
        if (open > 0)
            notes.Add($"{open} answers hold {{{{name}}}} or {{{{author}}}}, which the model would learn to say: replace them in the data file");
        return notes;
    }

    /// <summary>The hash of settings, data files, tokenizer and this program; null for data too small to be worth it.</summary>
    private static string? Key(DataSettings settings, string tokenizerFolder)
    {
        DatasetEntry[] entries = [.. DatasetLoader.Entries(settings.Folder, settings.Names), .. settings.Evaluation is null ? [] : DatasetLoader.Entries(settings.Folder, settings.Evaluation)];
        string[] files = [.. entries.SelectMany(entry => Directory.Exists(entry.Path) ? Directory.GetFiles(entry.Path).Order(StringComparer.Ordinal) : File.Exists(entry.Path) ? [entry.Path] : Enumerable.Empty<string>())];
        if (files.Sum(file => new FileInfo(file).Length) < WorthCaching)
            return null;
        var all = new StringBuilder();
        all.AppendLine(CultureInfo.InvariantCulture, $"{typeof(TrainingData).Module.ModuleVersionId} {settings.Names} {settings.Evaluation} {settings.Cutoff} {settings.MaxSamples} {settings.ValSize:R} {settings.MixStrategy}");
        all.AppendLine(CultureInfo.InvariantCulture, $"{string.Join(' ', settings.Probabilities ?? [])} {settings.TrainOnPrompt} {settings.MaskHistory} {settings.Packing} {settings.PackingHorizon} {settings.Seed}");
        all.AppendLine(CultureInfo.InvariantCulture, $"{settings.Template.Name} {settings.Template.EnableThinking} {settings.Template.DefaultSystem}");
        foreach (var entry in entries)
            all.AppendLine(entry.ToString());
        var tokenizerFiles = Directory.Exists(tokenizerFolder) ? Directory.GetFiles(tokenizerFolder, "tokenizer*.json").Order(StringComparer.Ordinal) : Enumerable.Repeat(tokenizerFolder, 1);
        foreach (var file in files.Concat(tokenizerFiles))
        {
            using var stream = File.OpenRead(file);
            all.AppendLine(CultureInfo.InvariantCulture, $"{file} {Convert.ToHexString(SHA256.HashData(stream))}");
        }
        return Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(all.ToString())));
    }
}
