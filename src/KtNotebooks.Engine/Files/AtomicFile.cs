using KtNotebooks.Interop;

namespace KtNotebooks.Files;

/// <summary>Files that exist whole or not at all: written beside the target under a temporary name, flushed, then renamed over it.</summary>
public static class AtomicFile
{
    /// <summary>Writes through a stream; checks the free space first when the length is known.</summary>
    /// <exception cref="IOException">Not enough disk, or the disk failed; nothing is left behind.</exception>
    public static void Write(string path, long expectedBytes, Action<Stream> write)
    {
        ArgumentNullException.ThrowIfNull(write);
        var full = Path.GetFullPath(path);
        RequireSpace(full, expectedBytes);
        OutputFolder.Create(Path.GetDirectoryName(full)!, Path.GetFileName(full));
        if (FileKinds.Of(full) == FileKind.Folder) throw new IOException($"{path}: is a folder, but a file is to be written there");
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
        catch (Exception error) when (error is UnauthorizedAccessException or PathTooLongException)
        {
            throw new IOException($"{path}: cannot be written: {OutputFolder.Reason(error)}", error);
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    /// <exception cref="IOException">As of a stream.</exception>
    public static void Write(string path, byte[] bytes)
    {
        ArgumentNullException.ThrowIfNull(bytes);
        Write(path, bytes.Length, stream => stream.Write(bytes));
    }

    /// <summary>Writes UTF-8 without a byte order mark.</summary>
    /// <exception cref="IOException">As of a stream.</exception>
    public static void WriteText(string path, string text) => Write(path, System.Text.Encoding.UTF8.GetBytes(text));

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
