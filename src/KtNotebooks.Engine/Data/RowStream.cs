using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Files;

namespace KtNotebooks.Data;

/// <summary>
/// streaming: true. The rows of data sets as they are read, epoch after epoch, of which a buffer is in memory: every row goes out from a random place of the
/// buffer, as Hugging Face's IterableDataset.shuffle has it. The same settings give the same rows in the same order, however often they are read.
/// </summary>
/// <param name="settings">Which data, and how; sets follow each other.</param>
/// <param name="encoder">How rows become ids.</param>
/// <param name="buffer">buffer_size.</param>
/// <param name="seed">Of the order; null: as the files have them.</param>
public sealed class RowStream(DataSettings settings, RowEncoder encoder, int buffer, int? seed)
{
    private readonly IReadOnlyList<DatasetEntry> _entries = DatasetLoader.Entries(settings.Folder, settings.Names);
    private readonly Identity _identity = new(settings.IdentityName, settings.IdentityAuthor);
    private readonly List<string> _skipped = [];

    /// <summary>The first rows that are of no use, as "file:row: reason".</summary>
    public IReadOnlyList<string> Skipped => _skipped;

    /// <summary>What a person should know of the rows that have been read so far.</summary>
    public IEnumerable<string> Remarks => [.. _identity.OpenPlaces(), .. encoder.Remarks, .. TrainingData.WithoutTemplate(settings, encoder)];

    /// <summary>Without end.</summary>
    /// <exception cref="InvalidDataException">A row is wrong, or none is of use; file and row are named.</exception>
    public IEnumerable<EncodedExample> Rows()
    {
        for (var epoch = 0; ; epoch++)
        {
            var random = seed is { } start ? new StableRandom(((ulong)(uint)start << 32) | (uint)epoch) : null;
            List<EncodedExample> held = [];
            var count = 0;
            foreach (var row in Epoch())
            {
                count++;
                if (random is null)
                {
                    yield return row;
                    continue;
                }
                if (held.Count < buffer)
                {
                    held.Add(row);
                    continue;
                }
                var at = random.Next(held.Count);
                yield return held[at];
                held[at] = row;
            }
            if (count == 0)
                throw new InvalidDataException($"{_entries[0].Path}: none of the rows has anything to learn: {string.Join("; ", _skipped.Take(3))}");
            int[] order = [.. Enumerable.Range(0, held.Count)];
            random?.Shuffle(order);
            foreach (var at in order) yield return held[at];
        }
    }

    /// <summary>Names, sizes and beginnings of the files, as a hash: whole files of this size are not read for it.</summary>
    public string Fingerprint()
    {
        const int Beginning = 1 << 20;
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        foreach (var file in _entries.SelectMany(entry => RowReader.FilesOf(entry.Path)))
        {
            using var stream = RegularFile.Open(file, "a data file");
            var start = new byte[(int)Math.Min(Beginning, new FileInfo(file).Length)];
            stream.ReadExactly(start);
            hash.AppendData(Encoding.UTF8.GetBytes(FormattableString.Invariant($"{Path.GetFileName(file)} {new FileInfo(file).Length}")));
            hash.AppendData(start);
        }
        return Convert.ToHexStringLower(hash.GetHashAndReset())[..16];
    }

    private IEnumerable<EncodedExample> Epoch()
    {
        EncodedExample? last = null; // of the rows that are packed
        List<EncodedExample> rows = []; // too few to be packed, they wait for the next ones
        foreach (var entry in _entries)
            foreach (var batch in DatasetLoader.Stream(entry, null, encoder.Need, new Few(_skipped)).Chunk(settings.PackingHorizon))
            {
                foreach (var row in encoder.EncodeAll([.. batch.Select(_identity.Fill)]))
                    if (row.Learns) rows.Add(row);
                    else new Few(_skipped).Add($"{row.Source}: nothing to learn: cutoff_len {settings.Cutoff} leaves no token of the answer");
                if (rows.Count < encoder.Fewest) continue;
                foreach (var row in encoder.Pack(rows)) yield return row;
                (last, rows) = (rows[^1], []);
            }
        if (rows.Count == 0) yield break;
        foreach (var row in last is null ? encoder.Pack(rows) : encoder.Pack([last, .. rows])[1..]) yield return row;
    }

    /// <summary>Keeps the first few: a stream may be read for days.</summary>
    private sealed class Few(List<string> kept) : System.Collections.ObjectModel.Collection<string>
    {
        private const int Most = 100;

        protected override void InsertItem(int index, string item)
        {
            if (kept.Count < Most && !kept.Contains(item)) kept.Add(item);
        }
    }
}
