using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>
/// Large stretches of host memory straight from the system (Linux), so that what is freed goes back to it: the C library keeps freed memory by rules that
/// change while a program runs (its mmap threshold grows with the first large free), which cost a run of 350 GB its last 60. The system is asked for huge
/// pages. A little of what is freed is kept (<see cref="KeptPages"/>).
/// </summary>
internal static unsafe partial class HostPages
{
    /// <summary>From this size on memory is asked for here.</summary>
    public const long Large = 4L << 20;

    private const long TouchPiece = 64L << 20;
    private const int Read = 1, Write = 2, Private = 2, Anonymous = 0x20; // PROT_…, MAP_…
    private const int WillNeed = 3, DontNeed = 4, AdviseHugePages = 14, PopulateWrite = 23; // MADV_…

    private static readonly KeptPages Kept = new(capacity: 128L << 20, each: 32L << 20, (pointer, length) => _ = munmap((void*)pointer, (nuint)length));

    /// <summary>Uninitialised memory that begins on a page; 0 where the system gives none, or not in this way.</summary>
    public static nint Map(long bytes, bool reuse = false)
    {
        if (!OperatingSystem.IsLinux()) return 0;
        var length = reuse ? Kept.LengthOf(bytes) : Rounded(bytes);
        if (reuse && Kept.Take(length) is not 0 and var kept) return kept;
        var pointer = mmap(null, (nuint)length, Read | Write, Private | Anonymous, -1, 0);
        if (pointer == -1) return 0;
        _ = madvise((void*)pointer, (nuint)length, AdviseHugePages); // where there are none it stays as it was
        return pointer;
    }

    public static void Unmap(nint pointer, long bytes, bool reuse = false)
    {
        var length = reuse ? Kept.LengthOf(bytes) : Rounded(bytes);
        if (reuse) Kept.Give(pointer, length);
        else _ = munmap((void*)pointer, (nuint)length);
    }

    /// <summary>
    /// Makes the system give the pages of fresh memory now, on all threads of <see cref="CpuLoop"/>: it clears them, and on a machine with several memories
    /// each thread gets pages near it.
    /// </summary>
    public static void Touch(nint pointer, long bytes)
    {
        var (length, pieces) = (Rounded(bytes), (Rounded(bytes) + TouchPiece - 1) / TouchPiece);
        CpuLoop.For(pieces, piece =>
        {
            var at = (byte*)pointer + (piece * TouchPiece);
            var count = Math.Min(TouchPiece, length - (piece * TouchPiece));
            if (madvise(at, (nuint)count, PopulateWrite) == 0) return;
            for (long i = 0; i < count; i += Environment.SystemPageSize) at[i] = 0; // Linux before 5.14
        });
    }

    /// <summary>Has the system begin to read pages of a mapped file that are wanted soon; returns at once.</summary>
    /// <param name="pointer">On a page.</param>
    public static void Ahead(nint pointer, long bytes) => Advise(pointer, bytes, WillNeed);

    /// <summary>Pages of a mapped file count no longer as memory of this process; what was changed in them is kept.</summary>
    /// <param name="pointer">On a page.</param>
    public static void LetGo(nint pointer, long bytes) => Advise(pointer, bytes, DontNeed);

    /// <summary>Gives back what was kept here and what the C library keeps of freed memory: after much of it was freed for good.</summary>
    public static void Trim()
    {
        Kept.Clear();
        if (!OperatingSystem.IsLinux()) return;
        try
        {
            _ = malloc_trim(0);
        }
        catch (EntryPointNotFoundException)
        {
            // Another C library than glibc.
        }
    }

    private static void Advise(nint pointer, long bytes, int advice)
    {
        if (OperatingSystem.IsLinux() && bytes > 0) _ = madvise((void*)pointer, (nuint)bytes, advice); // advice: nothing depends on it
    }

    private static long Rounded(long bytes) => KeptPages.RoundUp(bytes, Environment.SystemPageSize);

    [LibraryImport("libc")] private static partial nint mmap(void* address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc")] private static partial int munmap(void* address, nuint length);

    [LibraryImport("libc")] private static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc")] private static partial int malloc_trim(nuint keep);
}
