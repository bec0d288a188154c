using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

using KtNotebooks.Interop;

namespace KtNotebooks.Data;

/// <summary>
/// Encoded rows on disk, one file a key, in the user's cache folder (KT_CACHE, else XDG_CACHE_HOME, else ~/.cache, like the compiled kernels). The key is a
/// hash of all that the rows depend on, so a file is never stale; it begins with the hash of its content, and one that does not match is made anew.
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
            using var stream = new FileStream(file, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete, 1 << 16);
            var hash = new byte[SHA256.HashSizeInBytes];
            if (stream.ReadAtLeast(hash, hash.Length, throwOnEndOfStream: false) < hash.Length || !SHA256.HashData(stream).AsSpan().SequenceEqual(hash))
                return null;
            stream.Position = hash.Length;
            using var reader = new BinaryReader(stream, Encoding.UTF8);
            return new TrainingData(Rows(reader), Rows(reader), Lines(reader), Lines(reader), FromCache: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Keeps rows; returns what a person should know of it, or null.</summary>
    /// <param name="key">Their name.</param>
    /// <param name="data">The rows.</param>
    /// <param name="again">They were asked to be made anew, which is confirmed.</param>
    public static string? Write(string key, TrainingData data, bool again)
    {
        var file = FileOf(key);
        var aside = $"{file}.{Environment.ProcessId}.{Guid.NewGuid():N}";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(file)!);
            using (var stream = new FileStream(aside, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, 1 << 16))
            {
                stream.Write(new byte[SHA256.HashSizeInBytes]);
                using var writer = new BinaryWriter(stream, Encoding.UTF8, leaveOpen: true);
                Rows(writer, data.Train);
                Rows(writer, data.HeldOut);
                Lines(writer, data.Skipped);
                Lines(writer, data.Remarks);
                writer.Flush();
                stream.Position = SHA256.HashSizeInBytes;
                var hash = SHA256.HashData(stream);
                stream.Position = 0;
                stream.Write(hash);
            }
            File.Move(aside, file, overwrite: true);
            return again ? $"overwrite_cache: the rows were encoded anew and kept ({file})" : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It costs the encoding at every start, never the run.
            File.Delete(aside);
            return $"the encoded rows could not be kept for the next run ({e.Message})";
        }
    }

    /// <summary>Where the rows of a key stand.</summary>
    public static string FileOf(string key) => Path.Combine(CacheFolder.Of("data"), key + ".bin");

    private static EncodedExample[] Rows(BinaryReader reader)
    {
        var rows = new EncodedExample[reader.ReadInt32()];
        for (var i = 0; i < rows.Length; i++)
            rows[i] = new EncodedExample(Numbers(reader), Numbers(reader), reader.ReadString())
            {
                Starts = Numbers(reader),
                Apart = reader.ReadBoolean(),
                Tag = reader.ReadInt32(),
                Weight = reader.ReadSingle(),
            };
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
            writer.Write(row.Tag);
            writer.Write(row.Weight);
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

    private static string[] Lines(BinaryReader reader)
    {
        var lines = new string[reader.ReadInt32()];
        for (var i = 0; i < lines.Length; i++)
            lines[i] = reader.ReadString();
        return lines;
    }

    private static void Lines(BinaryWriter writer, IReadOnlyList<string> lines)
    {
        writer.Write(lines.Count);
        foreach (var line in lines)
            writer.Write(line);
    }
}
