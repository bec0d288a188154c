using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>
/// What a path leads to, links followed. .NET does not tell a pipe or a device from a file, and opening a pipe waits for its writer for ever.
/// </summary>
public enum FileKind
{
    None,
    File,
    Folder,
    Other,
}

/// <summary>Asks the system with statx, whose record has the same layout on every Linux (man 2 statx).</summary>
public static partial class FileKinds
{
    private const int CurrentFolder = -100, TypeBits = 0xF000, Folder = 0x4000, RegularFile = 0x8000, WantsToWrite = 2;
    private const uint WantedType = 1;

    /// <summary>
    /// A pipe, a device and a socket are <see cref="FileKind.Other"/>; what is not there, or may not be looked at, is <see cref="FileKind.None"/>.
    /// </summary>
    public static FileKind Of(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path.Length == 0 || path.Contains('\0', StringComparison.Ordinal)) return FileKind.None;
        Span<byte> record = stackalloc byte[256];
        try
        {
            if (statx(CurrentFolder, path, 0, WantedType, record) != 0) return FileKind.None;
        }
        catch (EntryPointNotFoundException) // not Linux
        {
            return Directory.Exists(path) ? FileKind.Folder : File.Exists(path) ? FileKind.File : FileKind.None;
        }
        return (BitConverter.ToUInt16(record[28..]) & TypeBits) switch { Folder => FileKind.Folder, RegularFile => FileKind.File, _ => FileKind.Other };
    }

    /// <summary>The path with every link in it followed; null where nothing is there.</summary>
    public static unsafe string? RealPath(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        if (path.Length == 0 || path.Contains('\0', StringComparison.Ordinal)) return null;
        const int longest = 4096; // PATH_MAX: what realpath writes at most
        var buffer = stackalloc byte[longest];
        return realpath(path, buffer) == null ? null : Marshal.PtrToStringUTF8((nint)buffer);
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static unsafe partial byte* realpath(string path, byte* resolved);

    /// <summary>Whether this user may write there and the disk lets itself be written.</summary>
    public static bool IsWritable(string path) => access(path, WantsToWrite) == 0;

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int access(string path, int mode);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, Span<byte> record);
}
