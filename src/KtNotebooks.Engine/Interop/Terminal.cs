using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>What a program needs of the terminal and the system when it has to end, or the terminal does.</summary>
public static unsafe partial class Terminal
{
    private const int SettingsBytes = 256; // struct termios has 60 bytes on Linux
    private const int ReadWrite = 2, Now = 0;
    private static readonly byte[] Settings = new byte[SettingsBytes];
    private static bool _known;

    /// <summary>Remembers how the terminal is set, for <see cref="EndNow"/>.</summary>
    public static void Remember()
    {
        fixed (byte* settings = Settings) _known = tcgetattr(0, settings) == 0;
    }

    /// <summary>Ends the process at once, without waiting for any thread; the terminal gets its settings and its cursor back.</summary>
    public static void EndNow(int code)
    {
        if (_known)
        {
            fixed (byte* settings = Settings) _ = tcsetattr(0, Now, settings);
        }
        if (isatty(1) == 1) _ = write(1, "\e[?25h\n"u8, 7);
        _exit(code);
    }

    /// <summary>The terminal is gone: what would be written there goes nowhere, so that no work breaks off because it cannot say how far it is.</summary>
    /// <param name="descriptor">0, 1 or 2.</param>
    public static void Silence(int descriptor)
    {
        var nowhere = open("/dev/null", ReadWrite, 0);
        if (nowhere < 0) return;
        _ = dup2(nowhere, descriptor);
        _ = close(nowhere);
    }

    /// <summary>Whether a signal was ignored when the program began, as nohup has it.</summary>
    public static bool IsIgnored(int signal)
    {
        try
        {
            var mask = File.ReadLines("/proc/self/status").FirstOrDefault(line => line.StartsWith("SigIgn:", StringComparison.Ordinal))?[7..].Trim();
            return mask is not null && (Convert.ToUInt64(mask, 16) >> (signal - 1) & 1) != 0;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or FormatException)
        {
            return false;
        }
    }

    [LibraryImport("libc")]
    private static partial int tcgetattr(int descriptor, byte* settings);

    [LibraryImport("libc")]
    private static partial int tcsetattr(int descriptor, int when, byte* settings);

    [LibraryImport("libc")]
    private static partial int isatty(int descriptor);

    [LibraryImport("libc")]
    private static partial nint write(int descriptor, ReadOnlySpan<byte> bytes, nint count);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags, int mode);

    [LibraryImport("libc")]
    private static partial int dup2(int from, int to);

    [LibraryImport("libc")]
    private static partial int close(int descriptor);

    [LibraryImport("libc")]
    private static partial void _exit(int code);
}
