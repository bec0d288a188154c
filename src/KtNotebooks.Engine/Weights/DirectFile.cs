using System.Runtime.InteropServices;

namespace KtNotebooks.Weights;

/// <summary>Reads pieces of a shard into memory of the caller's: the disk, or a test in its place. Several threads may.</summary>
internal interface IShardReader : IDisposable
{
    /// <summary>Reads a piece of the file: its place, its length and the address are multiples of <see cref="DirectFile.Alignment"/>.</summary>
    /// <returns>Bytes read: fewer at the end of the file alone.</returns>
    /// <exception cref="IOException">The disk gives an error.</exception>
    int Read(nint target, long at, int count);
}

/// <summary>
/// The file behind a shard, read past the page cache (O_DIRECT): what is read once a step and is larger than memory would only drive out of the cache what
/// others need. A file system that does not read so (tmpfs, some overlays) is read through the cache, whose pages are given back at once; said once.
/// </summary>
internal sealed unsafe partial class DirectFile : IShardReader
{
    /// <summary>Of places, lengths and addresses: what every disk takes.</summary>
    public const int Alignment = 4096;

    private const int ReadOnly = 0, CloseOnExec = 0x80000, DontNeed = 4, BadArgument = 22, Interrupted = 4;
    private static readonly int DirectFlag = RuntimeInformation.ProcessArchitecture == Architecture.Arm64 ? 0x10000 : 0x4000;
    private static int _said;

    private readonly SafetensorsFile _file;
    private int _descriptor = -1;

    /// <param name="direct">False: through the page cache, as where the file system wants it so.</param>
    public DirectFile(SafetensorsFile file, bool direct = true)
    {
        _file = file;
        // The file that the headers were read from, whatever its name means now.
        if (direct && OperatingSystem.IsLinux()) _descriptor = open($"/proc/self/fd/{file.Descriptor}", ReadOnly | DirectFlag | CloseOnExec);
        if (direct && _descriptor < 0) Say();
    }

    /// <summary>Past the page cache.</summary>
    public bool IsDirect => _descriptor >= 0;

    public int Read(nint target, long at, int count)
    {
        var done = 0;
        while (done < count)
        {
            int got;
            if (_descriptor is >= 0 and var direct)
            {
                got = (int)pread(direct, (void*)(target + done), (nuint)(count - done), at + done);
                if (got < 0 && Marshal.GetLastPInvokeError() is var error)
                {
                    if (error == Interrupted) continue;
                    // Some file systems open a file so and do not read it so.
                    if (error != BadArgument || done > 0) throw new IOException($"the disk gives an error: {Marshal.GetPInvokeErrorMessage(error)}");
                    Say();
                    _descriptor = -1; // stays open until the process ends: others may be reading
                    continue;
                }
                done += got;
                if (got == 0 || done % Alignment != 0) return done; // the end
                continue;
            }
            got = _file.ReadSome(new Span<byte>((void*)(target + done), count - done), at + done);
            if (got == 0) break;
            done += got;
        }
        if (OperatingSystem.IsLinux()) _ = posix_fadvise(_file.Descriptor, at, count, DontNeed);
        return done;
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _descriptor, -1) is >= 0 and var direct) _ = close(direct);
    }

    private void Say()
    {
        if (Interlocked.Exchange(ref _said, 1) == 0)
            Console.Error.WriteLine($"note: {_file.Path}: this file system is not read past the page cache; experts come from the disk through it, which takes "
                + "longer");
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)] private static partial nint pread(int file, void* target, nuint count, long at);

    [LibraryImport("libc")] private static partial int posix_fadvise(int file, long at, long count, int advice);

    [LibraryImport("libc")] private static partial int close(int file);
}
