using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop.Mpi;

/// <summary>
/// Open MPI under its real symbol names. Handles are addresses of its own objects (`ompi_mpi_comm_world`, …): another MPI has other handles, and is refused.
/// All calls are made by one thread.
/// </summary>
internal static unsafe partial class Mpi
{
    private const string Library = "kt-mpi";
    private const int TextLength = 8192; // of a library's version; an error's text is shorter

    /// <summary>MPI_THREAD_SERIALIZED: whichever thread it is, there is one.</summary>
    internal const int Serialized = 2;

    private static nint _handle;

    /// <summary>MPI_COMM_WORLD.</summary>
    internal static nint World { get; private set; }

    /// <summary>MPI_BYTE, MPI_FLOAT.</summary>
    internal static nint Byte { get; private set; }

    /// <inheritdoc cref="Byte"/>
    internal static nint Float { get; private set; }

    private static nint ErrorsReturn { get; set; }

    /// <summary>Finds the library and its handles.</summary>
    /// <exception cref="FileNotFoundException">Not found; every path tried is listed.</exception>
    /// <exception cref="NotSupportedException">An MPI that is not Open MPI.</exception>
    internal static void Load()
    {
        _handle = NativeLibraries.Load(Library, "Open MPI's libmpi", Paths, "Install it (Debian: libopenmpi3 or openmpi-bin), or set MPI_HOME to its folder");
        (World, Byte, Float) = (Symbol("ompi_mpi_comm_world"), Symbol("ompi_mpi_byte"), Symbol("ompi_mpi_float"));
        ErrorsReturn = Symbol("ompi_mpi_errors_return");
    }

    /// <summary>Starts MPI in this process; errors are returned from then on.</summary>
    internal static void Start()
    {
        int provided;
        Ok(MPI_Init_thread(null, null, Serialized, &provided));
        if (provided < Serialized)
            throw new NotSupportedException($"this Open MPI ({Version()}) gives threads no access (level {provided}, wanted {Serialized})");
        Ok(MPI_Comm_set_errhandler(World, ErrorsReturn));
    }

    /// <summary>Throws with the library's own words.</summary>
    /// <exception cref="KtNativeException">Any status but success.</exception>
    internal static void Ok(int status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status == 0) return;
        var text = stackalloc byte[TextLength];
        int length;
        var isKnown = MPI_Error_string(status, text, &length) == 0;
        throw new KtNativeException("Open MPI", call, status, isKnown ? Marshal.PtrToStringUTF8((nint)text, length) : "no text");
    }

    private static nint Symbol(string name) => NativeLibrary.TryGetExport(_handle, name, out var address) ? address
        : throw new NotSupportedException($"{NativeLibraries.LoadedPaths["mpi"]} is {Version()}, and not Open MPI: its handles are others; use Open MPI, or "
            + "set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process");

    private static string Version()
    {
        if (!NativeLibrary.TryGetExport(_handle, "MPI_Get_library_version", out _)) return "no MPI";
        var text = stackalloc byte[TextLength];
        int length;
        if (MPI_Get_library_version(text, &length) != 0) return "an MPI that does not say its version";
        var version = Marshal.PtrToStringUTF8((nint)text, length);
        return string.Join(' ', version.Split(['\n', '\t', ' '], StringSplitOptions.RemoveEmptyEntries).Take(3)).TrimEnd(',');
    }

    private static IEnumerable<string> Paths()
    {
        const string File = "libmpi.so.40"; // Open MPI 3 to 5
        List<string> folders = [];
        foreach (var root in (string?[])[Environment.GetEnvironmentVariable("MPI_HOME"), Environment.GetEnvironmentVariable("OPAL_PREFIX")])
            if (!string.IsNullOrEmpty(root)) folders.AddRange([Path.Combine(root, "lib"), Path.Combine(root, "lib64")]);
        foreach (var bin in (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries))
            if (System.IO.File.Exists(Path.Combine(bin, "mpirun")) && Path.GetDirectoryName(Path.TrimEndingDirectorySeparator(bin)) is { } root)
                folders.AddRange([Path.Combine(root, "lib"), Path.Combine(root, "lib64")]);
        folders.AddRange(["/usr/lib/x86_64-linux-gnu", "/usr/lib64/openmpi/lib", "/usr/lib/x86_64-linux-gnu/openmpi/lib"]);
        return [.. folders.Select(folder => Path.Combine(folder, File)), File, .. folders.Select(folder => Path.Combine(folder, "libmpi.so")), "libmpi.so"];
    }

    [LibraryImport(Library)] internal static partial int MPI_Init_thread(int* argc, byte*** argv, int required, int* provided);

    [LibraryImport(Library)] internal static partial int MPI_Finalize();

    [LibraryImport(Library)] internal static partial int MPI_Comm_rank(nint communicator, int* rank);

    [LibraryImport(Library)] internal static partial int MPI_Comm_size(nint communicator, int* size);

    [LibraryImport(Library)] internal static partial int MPI_Comm_set_errhandler(nint communicator, nint handler);

    [LibraryImport(Library)]
    internal static partial int MPI_Isend(void* data, int count, nint type, int to, int tag, nint communicator, nint* request);

    [LibraryImport(Library)]
    internal static partial int MPI_Irecv(void* data, int count, nint type, int from, int tag, nint communicator, nint* request);

    [LibraryImport(Library)]
    internal static partial int MPI_Iallgather(void* data, int count, nint type, void* all, int each, nint allType, nint communicator, nint* request);

    [LibraryImport(Library)]
    internal static partial int MPI_Iallgatherv(void* data, int count, nint type, void* all, int* counts, int* offsets, nint allType, nint communicator,
        nint* request);

    /// <summary>Statuses 0: none are wanted.</summary>
    [LibraryImport(Library)] internal static partial int MPI_Testall(int count, nint* requests, int* done, nint statuses);

    [LibraryImport(Library)] private static partial int MPI_Error_string(int status, byte* text, int* length);

    [LibraryImport(Library)] private static partial int MPI_Get_library_version(byte* text, int* length);
}
