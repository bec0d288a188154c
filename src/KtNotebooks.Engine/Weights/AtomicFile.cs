namespace KtNotebooks.Weights;

/// <summary>Files that exist whole or not at all: written beside the target under a temporary name, flushed, then renamed over it.</summary>
public static class AtomicFile
{
    /// <summary>Writes through a stream; checks the free space first when the length is known.</summary>
    /// <exception cref="IOException">Not enough disk, or the disk failed; nothing is left behind.</exception>
    public static void Write(string path, long expectedBytes, Action<Stream> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        var full = Path.GetFullPath(path);
        Directory.CreateDirectory(Path.GetDirectoryName(full)!);
        RequireSpace(full, expectedBytes);
        var temporary = full + ".tmp";
        try
        {
            using (var stream = new FileStream(temporary, FileMode.Create, FileAccess.Write, FileShare.None, 1 << 16))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, full, overwrite: true);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    public static void WriteText(string path, string text)
    {
        var bytes = System.Text.Encoding.UTF8.GetBytes(text);
        Write(path, bytes.Length, stream => stream.Write(bytes));
    }

    /// <exception cref="IOException">The disk that holds <paramref name="path"/> has less than <paramref name="bytes"/> free.</exception>
    public static void RequireSpace(string path, long bytes)
    {
        // DriveInfo asks the file system of any folder that exists.
        var folder = Path.GetFullPath(path);
        while (!Directory.Exists(folder)) folder = Path.GetDirectoryName(folder)!;
        var free = new DriveInfo(folder).AvailableFreeSpace;
        if (free < bytes) throw new IOException($"{path}: not enough disk: {bytes / 1e6:F1} MB are needed, {free / 1e6:F1} MB are free; free some space or choose another folder");
    }
}
