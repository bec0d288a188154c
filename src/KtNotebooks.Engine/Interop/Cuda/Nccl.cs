using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop.Cuda;

/// <summary>What is used of NCCL 2, with its enum values (nccl.h). Calls go to the card whose context is current on the thread.</summary>
internal static unsafe partial class Nccl
{
    public const int Float = 7; // ncclFloat32
    public const int Sum = 0; // ncclSum
    private const string Library = CudaLibraries.Nccl;

    /// <exception cref="KtNativeException">Any status but success.</exception>
    public static void Ok(int status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status == 0) return;
        var last = Marshal.PtrToStringUTF8((nint)ncclGetLastError(0))?.Trim();
        var text = Marshal.PtrToStringUTF8((nint)ncclGetErrorString(status)) ?? "no text";
        throw new KtNativeException("NCCL", call, status, string.IsNullOrEmpty(last) ? text : $"{text}: {last.ReplaceLineEndings(" ")}");
    }

    [LibraryImport(Library)] internal static partial int ncclGetVersion(int* version);

    [LibraryImport(Library)] internal static partial int ncclGetUniqueId(UniqueId* id);

    [LibraryImport(Library)] internal static partial int ncclCommInitRank(nint* communicator, int ranks, UniqueId id, int rank);

    [LibraryImport(Library)] internal static partial int ncclCommDestroy(nint communicator);

    [LibraryImport(Library)] internal static partial int ncclGroupStart();

    [LibraryImport(Library)] internal static partial int ncclGroupEnd();

    [LibraryImport(Library)]
    internal static partial int ncclAllReduce(nint from, nint to, nuint count, int type, int operation, nint communicator, nint stream);

    [LibraryImport(Library)] private static partial byte* ncclGetErrorString(int status);

    [LibraryImport(Library)] private static partial byte* ncclGetLastError(nint communicator);

    /// <summary>ncclUniqueId: how ranks find each other; passed by value.</summary>
    internal struct UniqueId
    {
        public const int Bytes = 128;

#pragma warning disable CS0649 // NCCL fills it
        public fixed byte Value[Bytes];
#pragma warning restore CS0649
    }
}
