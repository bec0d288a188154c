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
        if (FileKinds.Of(full) is FileKind.Folder or FileKind.Other)
            throw new IOException($"{path}: cannot be written: a folder, a pipe or a device stands there");
        RequireSpace(full, expectedBytes);
        var folder = Path.GetDirectoryName(full) ?? full;
        Folders.Create(folder, "the folder of a new file,");
        var temporary = OwnTemporary.In(folder);
        try
        {
            using (var stream = new FileStream(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16))
            {
                write(stream);
                stream.Flush(flushToDisk: true);
            }
            File.Move(temporary, full, overwrite: true);
        }
        catch (Exception error)
        {
            File.Delete(temporary);
            // What `write` itself threw goes on as it is; what the system said of our file names a file that is gone.
            if (error is not (IOException or UnauthorizedAccessException) || !error.Message.Contains(temporary, StringComparison.Ordinal)) throw;
            throw new IOException($"{path}: cannot be written: {(error is IOException ? Folders.Cause(error) : "this user may not write there")}");
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
        if (free < bytes)
            throw new IOException($"{path}: not enough disk: {ByteSize.Text(bytes)} are needed, {ByteSize.Text(free)} are free; "
                + "free some space or choose another folder");
    }

}
