using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace KtNotebooks.Data;

/// <summary>
/// Encoded rows on disk, one file a key, in the user's cache folder (KT_CACHE, else XDG_CACHE_HOME, else ~/.cache, like the compiled kernels). The key is a hash of all that the rows depend on, so a
/// file is never stale; it ends with the hash of its content, and one that does not match is made anew.
/// </summary>
internal static class EncodedCache
{
    public static TrainingData? Read(string key)
    {
        try
        {
            var file = FileOf(key);
            if (!File.Exists(file))
                return null;
            var bytes = File.ReadAllBytes(file);
            if (bytes.Length < SHA256.HashSizeInBytes || !SHA256.HashData(bytes.AsSpan(SHA256.HashSizeInBytes)).AsSpan().SequenceEqual(bytes.AsSpan(0, SHA256.HashSizeInBytes)))
                return null;
            using var reader = new BinaryReader(new MemoryStream(bytes, SHA256.HashSizeInBytes, bytes.Length - SHA256.HashSizeInBytes), Encoding.UTF8);
            var (train, heldOut) = (Rows(reader), Rows(reader));
            var skipped = new string[reader.ReadInt32()];
            for (var i = 0; i < skipped.Length; i++)
                skipped[i] = reader.ReadString();
            return new TrainingData(train, heldOut, skipped, FromCache: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    public static void Write(string key, TrainingData data)
    {
        var content = new MemoryStream();
        using (var writer = new BinaryWriter(content, Encoding.UTF8, leaveOpen: true))
        {
            foreach (var rows in new[] { data.Train, data.HeldOut })
                Rows(writer, rows);
            writer.Write(data.Skipped.Count);
            foreach (var line in data.Skipped)
                writer.Write(line);
        }
        try
        {
            var file = FileOf(key);
            Directory.CreateDirectory(Path.GetDirectoryName(file)!);
            var aside = $"{file}.{Environment.ProcessId}.{Guid.NewGuid():N}";
            File.WriteAllBytes(aside, [.. SHA256.HashData(content.ToArray()), .. content.ToArray()]);
            File.Move(aside, file, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A folder that cannot be written costs the encoding at every start, never the run.
        }
    }

    private static string FileOf(string key)
    {
        var root = Environment.GetEnvironmentVariable("KT_CACHE") is { Length: > 0 } own ? own
            : Path.Combine(Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } xdg ? xdg : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache"), "ktnotebooks");
        return Path.Combine(root, "data", key + ".bin");
    }

    private static EncodedExample[] Rows(BinaryReader reader)
    {
        var rows = new EncodedExample[reader.ReadInt32()];
        for (var i = 0; i < rows.Length; i++)
            rows[i] = new EncodedExample(Numbers(reader), Numbers(reader), reader.ReadString()) { Starts = Numbers(reader), Apart = reader.ReadBoolean() };
        return rows;
    }

    private static void Rows(BinaryWriter writer, EncodedExample[] rows)
    {
        writer.Write(rows.Length);
        foreach (var row in rows)
        {
            Numbers(writer, row.Ids);
            Numbers(writer, row.Labels);
            writer.Write(row.Source);
            Numbers(writer, row.Starts);
            writer.Write(row.Apart);
        }
    }

    private static int[] Numbers(BinaryReader reader)
    {
        var numbers = new int[reader.ReadInt32()];
        reader.BaseStream.ReadExactly(MemoryMarshal.AsBytes(numbers.AsSpan()));
        return numbers;
    }

    private static void Numbers(BinaryWriter writer, int[] numbers)
    {
        writer.Write(numbers.Length);
        writer.Write(MemoryMarshal.AsBytes<int>(numbers));
    }
}
