using System.Security.Cryptography;
using System.Text;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Compiled kernels on disk, one file each, named by the SHA-256 of all that went into it: a file is never stale. A file holds the SHA-256 of its content
/// and the content; one that does not match is compiled again. Files appear whole (written aside, then renamed), so that processes may share the folder.
/// </summary>
internal sealed class KernelCache(string folder)
{
    /// <summary>KT_CACHE, or ktnotebooks/ in the user's cache folder (XDG_CACHE_HOME, ~/.cache).</summary>
    public static KernelCache Default { get; } = new(CacheFolder.Of("nvrtc"));

    /// <summary>How many programs were compiled because the cache did not have them.</summary>
    public int Compilations { get; private set; }

    public static string Key(string source, IEnumerable<string> options, int compilerVersion) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes($"{compilerVersion}\n{string.Join('\n', options)}\n\n{source}")));

    public string FileOf(string key) => Path.Combine(folder, key + ".bin");

    public byte[] Get(string key, Func<byte[]> compile)
    {
        if (Read(FileOf(key)) is { } known) return known;
        var image = compile();
        Compilations++;
        Write(FileOf(key), image);
        return image;
    }

    private static byte[]? Read(string file)
    {
        try
        {
            if (!File.Exists(file)) return null;
            var bytes = File.ReadAllBytes(file);
            if (bytes.Length <= SHA256.HashSizeInBytes) return null;
            var content = bytes.AsSpan(SHA256.HashSizeInBytes);
            return SHA256.HashData(content).AsSpan().SequenceEqual(bytes.AsSpan(0, SHA256.HashSizeInBytes)) ? content.ToArray() : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private void Write(string file, byte[] image)
    {
        try
        {
            Directory.CreateDirectory(folder);
            var aside = $"{file}.{Environment.ProcessId}.{Guid.NewGuid():N}";
            File.WriteAllBytes(aside, [.. SHA256.HashData(image), .. image]);
            File.Move(aside, file, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A folder that cannot be written costs a second at every start, never the run.
        }
    }
}
