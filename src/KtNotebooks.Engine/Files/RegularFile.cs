using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>
/// Files that people and other files name, opened for reading: links are followed (Hugging Face's cache is made of them), pipes, devices and folders are
/// refused, and the line says what was being read.
/// </summary>
public static class RegularFile
{
    /// <summary>The most bytes of a file that is read whole and parsed (settings, indexes, tokenizers): 1 GB; the largest known tokenizer has 33 MB.</summary>
    public const long ParsedLimit = 1L << 30;

    /// <param name="path">The file.</param>
    /// <param name="what">What it is to the reader, for the errors: "a config", "a shard".</param>
    /// <exception cref="FileNotFoundException">Nothing is there.</exception>
    /// <exception cref="InvalidDataException">A folder, a pipe or a device.</exception>
    /// <exception cref="IOException">The system does not let it be read.</exception>
    public static void Require(string path, string what = "a file")
    {
        switch (FileKinds.Of(path))
        {
            case FileKind.File: return;
            case FileKind.Folder: throw new InvalidDataException($"{path}: is a folder, but {what} is wanted there");
            case FileKind.Other:
                throw new InvalidDataException($"{path}: is a pipe, a device or a socket; {what} is read from regular files only: save it as "
                + "one");
            default: throw Missing(path, "no such file");
        }
    }

    /// <summary>The same of a folder.</summary>
    /// <exception cref="FileNotFoundException">Nothing is there.</exception>
    /// <exception cref="InvalidDataException">A file, a pipe or a device.</exception>
    public static void RequireFolder(string path, string what)
    {
        switch (FileKinds.Of(path))
        {
            case FileKind.Folder: return;
            case FileKind.None: throw Missing(path, $"no such folder; {what} is wanted there");
            default: throw new InvalidDataException($"{path}: is no folder, but {what} is wanted there");
        }
    }

    /// <summary>Opens it for reading; others may read and write it meanwhile.</summary>
    /// <inheritdoc cref="Require"/>
    public static FileStream Open(string path, string what = "a file")
    {
        Require(path, what);
        try
        {
            return new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1 << 16);
        }
        catch (UnauthorizedAccessException)
        {
            throw new IOException($"{path}: may not be read by this user; {what} is wanted there");
        }
    }

    /// <summary>All its bytes.</summary>
    /// <param name="limit">The most that are taken.</param>
    /// <inheritdoc cref="Require"/>
    public static byte[] ReadAllBytes(string path, string what = "a file", long limit = ParsedLimit)
    {
        using var stream = Open(path, what);
        if (stream.Length > limit) throw new InvalidDataException($"{path}: has {stream.Length / 1e6:N0} MB; {what} may have {limit / 1e6:N0} MB");
        var bytes = new byte[stream.Length];
        return bytes[..stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false)];
    }

    /// <summary>All its text: UTF-8, or UTF-16 with a byte order mark.</summary>
    /// <inheritdoc cref="ReadAllBytes"/>
    public static string ReadAllText(string path, string what = "a file", long limit = ParsedLimit)
    {
        using var reader = new StreamReader(new MemoryStream(ReadAllBytes(path, what, limit)), detectEncodingFromByteOrderMarks: true);
        return reader.ReadToEnd();
    }

    private static FileNotFoundException Missing(string path, string otherwise) =>
        new($"{path}: {(new FileInfo(path).LinkTarget is { } target ? $"is a link to {target}, which is not there" : otherwise)}", path);
}
