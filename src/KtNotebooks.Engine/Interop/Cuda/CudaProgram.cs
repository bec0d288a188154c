using System.Collections.Concurrent;
using System.Text.RegularExpressions;

using static KtNotebooks.Interop.Cuda.Driver;

namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// CUDA C++ text of an op, after the shared prelude. Compiled on first use for the card that is there and the options asked for; an op keeps one in a
/// static field.
/// </summary>
public sealed partial class CudaProgram(string name, string source)
{
    private static readonly Lazy<string> Prelude = new(() => Resource("Interop.Cuda.Prelude.cu"));
    private readonly Lazy<string> _text = new(() => Prelude.Value + Awaiting(source));
    private readonly ConcurrentDictionary<(int Device, string Options), CudaModule> _modules = new();
    private readonly ConcurrentDictionary<(int Device, string Options, string Entry), CudaKernel> _kernels = new();

    /// <summary>The text of a file beside its op, such as `Ops.RouteKernels.cu`.</summary>
    internal static string Resource(string file)
    {
        using var stream = typeof(CudaProgram).Assembly.GetManifestResourceStream("KtNotebooks." + file)
            ?? throw new InvalidOperationException($"{file} is not embedded in the engine");
        using var reader = new StreamReader(stream);
        return reader.ReadToEnd();
    }

    /// <param name="device">Where it will run.</param>
    /// <param name="entry">Name of an <c>extern "C" __global__</c> function.</param>
    /// <param name="options">Compiler options, separated by blanks; a constant, so that a launch allocates nothing.</param>
    public CudaKernel Kernel(CudaDevice device, string entry, string options)
    {
        ArgumentNullException.ThrowIfNull(device);
        var key = (device.Index, options, entry);
        return _kernels.TryGetValue(key, out var kernel) ? kernel : _kernels.GetOrAdd(key, new CudaKernel(device, Module(device, options).Function(entry)));
    }

    /// <summary>The machine code, from the cache or the compiler.</summary>
    internal byte[] Image(CudaDevice device, string options, KernelCache cache)
    {
        // A program for one architecture alone names it itself.
        string[] own = options.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        string[] all = own.Any(o => o.StartsWith("-arch=", StringComparison.Ordinal)) ? ["-std=c++17", .. own]
            : [Nvrtc.ArchitectureOption(device.Architecture), "-std=c++17", .. own];
        return cache.Get(KernelCache.Key(_text.Value, all, Nvrtc.Version), () => Nvrtc.Compile(name, _text.Value, all));
    }

    /// <summary>
    /// The text with <c>await_previous()</c> as the first statement of every kernel: a recorded kernel is started before the one in front of it is over
    /// (<see cref="CudaKernel"/>), so one that forgot to wait would read what is not written yet.
    /// </summary>
    private static string Awaiting(string source)
    {
        var found = 0;
        var text = KernelHead().Replace(source, head =>
        {
            found++;
            return head.Value + " await_previous();";
        });
        return found == source.Split(KernelMark).Length - 1 ? text
            : throw new InvalidOperationException($"a kernel's head is written in a way that {nameof(CudaProgram)} does not recognise: {KernelHead()}");
    }

    private const string KernelMark = "__global__"; // however a head goes on: one that is not recognised must not slip through

    // Also inside a macro, whose lines end in a backslash.
    [GeneratedRegex("""extern "C" __global__ void (?:__launch_bounds__\((?:[^()]|\([^()]*\))*\) )?\w+\([^()]*\)[\s\\]*\{""")]
    private static partial Regex KernelHead();

    private CudaModule Module(CudaDevice device, string options)
    {
        var key = (device.Index, options);
        if (_modules.TryGetValue(key, out var known)) return known;
        lock (_modules) return _modules.GetOrAdd(key, _ => new CudaModule(device, Image(device, options, KernelCache.Default)));
    }
}

/// <summary>A kernel ready to be queued.</summary>
public readonly unsafe struct CudaKernel
{
    private const int MaxDynamicSharedBytes = 8; // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    private readonly CudaDevice _device;
    private readonly nint _function;

    internal CudaKernel(CudaDevice device, nint function)
    {
        _device = device;
        _function = function;
    }

    /// <summary>Queues one launch on the compute stream; nothing is queued for an empty grid.</summary>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of a block.</param>
    /// <param name="arguments">In the order of the kernel's parameters, of their exact types (int, long, uint, ulong, float, address).</param>
    public void Launch(long grid, int block, params ReadOnlySpan<KernelArgument> arguments) => Launch((grid, 1, 1), block, 0, arguments);

    /// <summary>The same with a grid of two dimensions.</summary>
    public void Launch((long X, long Y) grid, int block, params ReadOnlySpan<KernelArgument> arguments) => Launch((grid.X, grid.Y, 1), block, 0, arguments);

    /// <summary>
    /// The same with three dimensions and dynamic shared memory; more than 48 KB of it must have been asked for by <see cref="AllowShared"/>.
    /// </summary>
    public void Launch((long X, long Y, long Z) grid, int block, int sharedBytes, params ReadOnlySpan<KernelArgument> arguments) =>
        Launch(_device.Compute, grid, block, sharedBytes, arguments);

    /// <summary>The same on another stream.</summary>
    internal void Launch(CudaStream stream, (long X, long Y, long Z) grid, int block, int sharedBytes, params ReadOnlySpan<KernelArgument> arguments)
    {
        var pointers = stackalloc void*[arguments.Length];
        fixed (KernelArgument* values = arguments)
        {
            for (var i = 0; i < arguments.Length; i++) pointers[i] = values + i;
            Queue(stream, grid, block, sharedBytes, pointers);
        }
    }

    /// <summary>The same for a kernel with one parameter, a structure of the same layout here and there.</summary>
    public void Launch<TArguments>((long X, long Y, long Z) grid, int block, int sharedBytes, in TArguments arguments)
        where TArguments : unmanaged
    {
        fixed (TArguments* values = &arguments)
        {
            void* pointer = values;
            Queue(_device.Compute, grid, block, sharedBytes, &pointer);
        }
    }

    /// <summary>
    /// Lets launches ask for up to so many bytes of dynamic shared memory (a card of 8.6 or 8.9 has 99 KB a block, 8.0 has 163, 9.0 has 227). Returns this
    /// kernel.
    /// </summary>
    public CudaKernel AllowShared(int bytes)
    {
        _device.Use();
        cuFuncSetAttribute(_function, MaxDynamicSharedBytes, bytes).Ok();
        return this;
    }

    // A recorded step is some hundred kernels of a few microseconds, and a kernel that starts when the one before is over leaves the card idle for one or
    // two of them. Cards from 9.0 on start its blocks before, and hold them at await_previous() until all that was written is there (programmatic dependent
    // launch).
    private void Queue(CudaStream stream, (long X, long Y, long Z) grid, int block, int sharedBytes, void** arguments)
    {
        if (grid.X == 0 || grid.Y == 0 || grid.Z == 0) return;
        _device.Use();
        var early = new LaunchAttribute { Id = LaunchAttribute.ProgrammaticStreamSerialization, Value = 1 };
        var launch = new LaunchConfig
        {
            GridX = checked((uint)grid.X),
            GridY = checked((uint)grid.Y),
            GridZ = checked((uint)grid.Z),
            BlockX = (uint)block,
            BlockY = 1,
            BlockZ = 1,
            SharedBytes = (uint)sharedBytes,
            Stream = stream.Pointer,
            Attributes = &early,
            AttributeCount = _device is { IsRecording: true, Architecture: >= 90 } ? 1u : 0,
        };
        cuLaunchKernelEx(&launch, _function, arguments, null).Ok();
    }
}

/// <summary>Eight bytes of which the kernel reads as many as its parameter has.</summary>
public readonly struct KernelArgument
{
    private readonly ulong _bits;

    private KernelArgument(ulong bits) => _bits = bits;

    public static implicit operator KernelArgument(nint address) => new((ulong)address);

    public static implicit operator KernelArgument(int value) => new((ulong)(long)value);

    public static implicit operator KernelArgument(long value) => new((ulong)value);

    public static implicit operator KernelArgument(uint value) => new(value);

    public static implicit operator KernelArgument(ulong value) => new(value);

    public static implicit operator KernelArgument(float value) => new(BitConverter.SingleToUInt32Bits(value));

    /// <summary>The stored bits, for inspection.</summary>
    public ulong ToUInt64() => _bits;
}
