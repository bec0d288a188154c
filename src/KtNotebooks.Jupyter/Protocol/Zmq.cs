using System.Runtime.InteropServices;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>The few functions of libzmq that kernels and their clients need, under the names of zmq.h.</summary>
internal static unsafe partial class Zmq
{
    internal const int Rep = 4, Pub = 1, Router = 6, Sub = 2, Dealer = 5;
    internal const int OptionSubscribe = 6, OptionLinger = 17, OptionSendHighWater = 23, OptionReceiveTimeout = 27, OptionSendTimeout = 28,
        OptionRouterHandover = 56, OptionPubNoDrop = 69;
    internal const int DontWait = 1, SendMore = 2;
    internal const int Interrupted = 4, Again = 11, Terminated = 156384765;
    private const string Library = "libzmq.so.5";

    static Zmq() => NativeLibrary.SetDllImportResolver(typeof(Zmq).Assembly, Resolve);

    [LibraryImport(Library)] internal static partial nint zmq_ctx_new();
    [LibraryImport(Library, SetLastError = true)] internal static partial int zmq_ctx_shutdown(nint context);
    [LibraryImport(Library, SetLastError = true)] internal static partial int zmq_ctx_term(nint context);
    [LibraryImport(Library, SetLastError = true)] internal static partial nint zmq_socket(nint context, int type);
    [LibraryImport(Library)] internal static partial int zmq_close(nint socket);
    [LibraryImport(Library, SetLastError = true,
        StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int zmq_bind(nint socket, string endpoint);
    [LibraryImport(Library, SetLastError = true,
        StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int zmq_connect(nint socket, string endpoint);
    [LibraryImport(Library, SetLastError = true)] internal static partial int zmq_setsockopt(nint socket, int option, int* value, nuint bytes);
    [LibraryImport(Library, SetLastError = true)] internal static partial int zmq_send(nint socket, byte* data, nuint bytes, int flags);
    [LibraryImport(Library)] internal static partial int zmq_msg_init(void* message);
    [LibraryImport(Library, SetLastError = true)] internal static partial int zmq_msg_recv(void* message, nint socket, int flags);
    [LibraryImport(Library)] internal static partial byte* zmq_msg_data(void* message);
    [LibraryImport(Library)] internal static partial nuint zmq_msg_size(void* message);
    [LibraryImport(Library)] internal static partial int zmq_msg_more(void* message);
    [LibraryImport(Library)] internal static partial int zmq_msg_close(void* message);
    [LibraryImport(Library)] private static partial byte* zmq_strerror(int error);

    internal static string Reason(int error) => Marshal.PtrToStringUTF8((nint)zmq_strerror(error)) ?? $"error {error}";

    private static nint Resolve(string name, System.Reflection.Assembly assembly, DllImportSearchPath? search)
    {
        if (name != Library) return 0;
        string[] candidates = [Library, "libzmq.so", "libzmq"];
        foreach (var candidate in candidates)
        {
            if (NativeLibrary.TryLoad(candidate, assembly, search, out var handle)) return handle;
        }
        throw new DllNotFoundException($"[zmq] none of {string.Join(", ", candidates)} could be loaded; install libzmq (Debian: apt install libzmq5)");
    }
}
