using System.Runtime.InteropServices;

using Microsoft.Win32.SafeHandles;

namespace KtNotebooks.Interop;

/// <summary>
/// A file that one process holds with flock (man 2 flock). The system lets go of it when the process ends, however it ends. .NET's own FileShare.None
/// is the same lock, but every .NET open asks for a shared one, so that nobody could read who holds it: this opens without asking.
/// </summary>
internal static partial class LockedFile
{
    private const int ReadOnly = 0, ReadWrite = 2, Create = 0x40, CloseOnExec = 0x80000, OwnerWrites = 0x1A4 /* 0644 */;
    private const int Exclusive = 2, NoWaiting = 4, WouldBlock = 11, NoEntry = 2;

    /// <summary>Opens or makes the file and takes the lock; null: somebody else has it.</summary>
    /// <exception cref="IOException">The system's reason.</exception>
    public static FileStream? TryTake(string path)
    {
        var handle = new SafeFileHandle(open(path, ReadWrite | Create | CloseOnExec, OwnerWrites), ownsHandle: true);
        if (handle.IsInvalid) throw Failed();
        if (flock(handle, Exclusive | NoWaiting) == 0) return new FileStream(handle, FileAccess.ReadWrite, 0);
        var reason = Marshal.GetLastPInvokeError();
        // A file system without locks: what stands in the file is all that there is.
        if (reason != WouldBlock) return new FileStream(handle, FileAccess.ReadWrite, 0);
        handle.Dispose();
        return null;
    }

    /// <summary>What stands in the file, without asking for its lock; null: it is not there.</summary>
    public static string? Read(string path)
    {
        var handle = new SafeFileHandle(open(path, ReadOnly | CloseOnExec, 0), ownsHandle: true);
        if (handle.IsInvalid) return Marshal.GetLastPInvokeError() == NoEntry ? null : throw Failed();
        using var reader = new StreamReader(new FileStream(handle, FileAccess.Read, 0));
        return reader.ReadToEnd();
    }

    /// <summary>Whether somebody holds the lock now.</summary>
    public static bool IsTaken(string path)
    {
        using var handle = new SafeFileHandle(open(path, ReadOnly | CloseOnExec, 0), ownsHandle: true);
        return !handle.IsInvalid && flock(handle, Exclusive | NoWaiting) != 0 && Marshal.GetLastPInvokeError() == WouldBlock;
    }

    private static IOException Failed() => new(Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError()));

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int open(string path, int flags, int mode);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int flock(SafeFileHandle file, int operation);
}
