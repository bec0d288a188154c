using System.Security.Cryptography;
using System.Text.Json;
using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// The name under which encoded rows are kept: the hash of all that they depend on, which is the settings, the bytes of the data files and the tokenizer, and
/// this program.
/// </summary>
internal static class EncodedKey
{
    /// <summary>Encoding this many bytes of data takes about a second; less is not worth a file.</summary>
    private const long WorthKeeping = 2_000_000;

    /// <summary>Bytes of a row that is not unusually long; so many of max_samples rows are worth keeping.</summary>
    private const long OrdinaryRow = 4096;

    /// <summary>A file's name, or null for data too small to be worth it.</summary>
    public static string? Of(DataSettings settings, string tokenizerFolder, RowEncoder encoder)
    {
        var sets = new[] { settings.Names, settings.Evaluation }.OfType<string>();
        DatasetEntry[] entries = [.. sets.SelectMany(names => DatasetLoader.Entries(settings.Folder, names))];
        string[] files = [.. entries.SelectMany(entry => File.Exists(entry.Path) || Directory.Exists(entry.Path) ? RowReader.FilesOf(entry.Path) : [])];
        var most = settings.MaxSamples is { } rows ? entries.Length * rows * OrdinaryRow : long.MaxValue;
        if (Math.Min(most, files.Sum(file => new FileInfo(file).Length)) < WorthKeeping) return null;

        var template = settings.Template;
        List<object?> all =
        [
            typeof(TrainingData).Module.ModuleVersionId, encoder.Key, settings.Names, settings.Evaluation, settings.Cutoff,
            settings.MaxSamples, settings.ValSize, settings.MixStrategy, settings.Probabilities, settings.TrainOnPrompt,
            settings.MaskHistory, settings.Packing, settings.PackingHorizon,
            settings.Seed, settings.IdentityName, settings.IdentityAuthor, settings.TemplateGiven,
            template.Name, template.EnableThinking, template.DefaultSystem, template.Tools?.GetType().Name, .. entries,
        ];
        // Whatever a tokenizer is read from; a weight file is never among them.
        IEnumerable<string> tokenizer = Directory.Exists(tokenizerFolder) ? Directory.GetFiles(tokenizerFolder).Where(IsTokenizers) : [tokenizerFolder];
        foreach (var file in files.Concat(tokenizer.Order(StringComparer.Ordinal)))
        {
            using var stream = RegularFile.Open(file, "a data file");
            all.Add((file, Convert.ToHexString(SHA256.HashData(stream))).ToString());
        }
        return Convert.ToHexStringLower(SHA256.HashData(JsonSerializer.SerializeToUtf8Bytes(all)));
    }

    private static bool IsTokenizers(string file) =>
        Path.GetFileName(file) is var name
            && (name.Contains("token", StringComparison.Ordinal) || name is "vocab.json" or "merges.txt" or "chat_template.jinja");
}
