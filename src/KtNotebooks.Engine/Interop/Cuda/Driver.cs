using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace KtNotebooks.Interop.Cuda;

/// <summary>A status of the driver (CUresult); only the values that the engine tells apart have names.</summary>
internal enum CuResult
{
    Success = 0,
    OutOfMemory = 2,
    NoDevice = 100,
    NotReady = 600,
    PeerAccessAlreadyEnabled = 704,
}

/// <summary>
/// The driver API under its real symbol names. Addresses and handles are <c>nint</c>; <c>CUdevice</c> is an int. Every status goes through
/// <see cref="CuResults.Ok"/>.
/// </summary>
internal static unsafe partial class Driver
{
    private const string Library = CudaLibraries.Driver;

    [LibraryImport(Library)] internal static partial CuResult cuInit(uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuDriverGetVersion(int* version);

    [LibraryImport(Library)] internal static partial CuResult cuGetErrorName(CuResult status, byte** text);

    [LibraryImport(Library)] internal static partial CuResult cuGetErrorString(CuResult status, byte** text);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceGetCount(int* count);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceGet(int* device, int ordinal);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceGetName(byte* name, int length, int device);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceGetAttribute(int* value, int attribute, int device);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceTotalMem_v2(nuint* bytes, int device);

    [LibraryImport(Library)] internal static partial CuResult cuDevicePrimaryCtxRetain(nint* context, int device);

    [LibraryImport(Library)] internal static partial CuResult cuCtxSetCurrent(nint context);

    [LibraryImport(Library)] internal static partial CuResult cuDeviceCanAccessPeer(int* can, int device, int peer);

    /// <summary>The current context may use the other's memory from now on; the other way is asked for apart.</summary>
    [LibraryImport(Library)] internal static partial CuResult cuCtxEnablePeerAccess(nint peer, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuMemGetInfo_v2(nuint* free, nuint* total);

    [LibraryImport(Library)] internal static partial CuResult cuMemAlloc_v2(nint* pointer, nuint bytes);

    [LibraryImport(Library)] internal static partial CuResult cuMemFree_v2(nint pointer);

    [LibraryImport(Library)] internal static partial CuResult cuMemHostAlloc(nint* pointer, nuint bytes, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuMemFreeHost(nint pointer);

    /// <summary>Locks memory that the process has already.</summary>
    [LibraryImport(Library)] internal static partial CuResult cuMemHostRegister_v2(void* pointer, nuint bytes, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuMemHostUnregister(nint pointer);

    [LibraryImport(Library)] internal static partial CuResult cuMemcpyHtoDAsync_v2(nint target, void* source, nuint bytes, nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuMemcpyDtoHAsync_v2(void* target, nint source, nuint bytes, nint stream);

    /// <summary>Between any two addresses, also of two cards.</summary>
    [LibraryImport(Library)] internal static partial CuResult cuMemcpyAsync(nint target, nint source, nuint bytes, nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuMemsetD8Async(nint pointer, byte value, nuint count, nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuStreamCreate(nint* stream, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuStreamSynchronize(nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuStreamWaitEvent(nint stream, nint @event, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuStreamDestroy_v2(nint stream);

    /// <summary>mode 2, relaxed: other calls of this thread, such as cuMemAlloc, stay allowed.</summary>
    [LibraryImport(Library)] internal static partial CuResult cuStreamBeginCapture_v2(nint stream, int mode);

    [LibraryImport(Library)] internal static partial CuResult cuStreamEndCapture(nint stream, nint* graph);

    [LibraryImport(Library)] internal static partial CuResult cuGraphInstantiateWithFlags(nint* executable, nint graph, ulong flags);

    [LibraryImport(Library)] internal static partial CuResult cuGraphLaunch(nint executable, nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuGraphDestroy(nint graph);

    [LibraryImport(Library)] internal static partial CuResult cuGraphExecDestroy(nint executable);

    [LibraryImport(Library)] internal static partial CuResult cuEventCreate(nint* @event, uint flags);

    [LibraryImport(Library)] internal static partial CuResult cuEventRecord(nint @event, nint stream);

    [LibraryImport(Library)] internal static partial CuResult cuEventSynchronize(nint @event);

    [LibraryImport(Library)] internal static partial CuResult cuEventQuery(nint @event);

    [LibraryImport(Library)] internal static partial CuResult cuEventElapsedTime(float* milliseconds, nint start, nint end);

    [LibraryImport(Library)] internal static partial CuResult cuEventDestroy_v2(nint @event);

    [LibraryImport(Library)] internal static partial CuResult cuModuleLoadData(nint* module, void* image);

    [LibraryImport(Library)] internal static partial CuResult cuModuleUnload(nint module);

    [LibraryImport(Library)] internal static partial CuResult cuModuleGetFunction(nint* function, nint module, byte* name);

    [LibraryImport(Library)] internal static partial CuResult cuFuncSetAttribute(nint function, int attribute, int value);

    [LibraryImport(Library)]
    internal static partial CuResult cuLaunchKernelEx(LaunchConfig* config, nint function, void** parameters, void** extra);
}

/// <summary>CUlaunchConfig.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct LaunchConfig
{
    public uint GridX, GridY, GridZ, BlockX, BlockY, BlockZ, SharedBytes;
    public nint Stream;
    public LaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>CUlaunchAttribute: a number and 64 bytes, of which a flag uses four.</summary>
[StructLayout(LayoutKind.Explicit, Size = 72)]
internal struct LaunchAttribute
{
    public const int ProgrammaticStreamSerialization = 6;

    [FieldOffset(0)] public int Id;
    [FieldOffset(8)] public int Value;
}

internal static unsafe class CuResults
{
    /// <summary>Throws with the call's name and the driver's name and words for the status.</summary>
    /// <exception cref="KtNativeException">Any status but success.</exception>
    public static void Ok(this CuResult status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status == CuResult.Success) return;
        throw new KtNativeException("CUDA driver", call, (int)status, NameOf(status));
    }

    /// <summary>The driver's name and words for a status.</summary>
    public static string NameOf(CuResult status)
    {
        byte* name = null, text = null;
        _ = Driver.cuGetErrorName(status, &name);
        _ = Driver.cuGetErrorString(status, &text);
        return $"{Marshal.PtrToStringUTF8((nint)name) ?? "unknown status"}: {Marshal.PtrToStringUTF8((nint)text) ?? "no text"}";
    }
}
