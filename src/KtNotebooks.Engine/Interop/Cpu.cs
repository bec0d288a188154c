using System.Runtime.InteropServices;

namespace KtNotebooks.Interop;

/// <summary>
/// The CPU kernels in use. Chosen once, at first use: <c>KT_CPU</c> = amx | amx_int8 | avx512bf16 | avx512 | avx2 | plain forces a variant (default: the
/// best one here), <c>KT_THREADS</c> the number of threads (default: all physical processors that this process may use).
/// <c>plain</c>, a missing library or a processor without AVX2 mean managed code; the last two are noted on stderr, once.
/// </summary>
public static class Cpu
{
    /// <summary>The variant that does not use the native library.</summary>
    public const string Plain = "plain";

    /// <summary>The environment variable that forces a variant.</summary>
    public const string VariantVariable = "KT_CPU";

    private static readonly Lock Gate = new();
    private static volatile State? _state;
    private static bool _configured; // by the last Configure
    private static bool _counted; // somebody has said how many threads, or one was spared

    /// <summary>Whether the native kernels are loaded and in use.</summary>
    public static bool IsNative => Current.IsNative;

    /// <summary>The variant in use: amx, amx_int8 (rows are quantized where they meet INT8 weights), avx512bf16, avx512, avx2 or plain.</summary>
    public static string Variant => Current.Variant;

    /// <summary>The variants that run on this machine, best first; plain is always the last.</summary>
    public static IReadOnlyList<string> Variants => Current.Variants;

    /// <summary>Threads of the native pool; without it, the processors that .NET sees.</summary>
    public static int Threads => Current.Threads;

    /// <summary>
    /// Until it is disposed, a row's results do not depend on the rows computed with it, bit for bit, so that what is generated does not depend on the
    /// batch. Costs time where few rows are computed at once. For products that this thread asks for, so that a training run beside it keeps its own bits;
    /// several may be open. To be disposed by the thread that opened it.
    /// </summary>
    public static IDisposable RowInvariant() => new InvariantScope();

    /// <summary>Whether the native library is there, whatever computes.</summary>
    internal static bool HasLibrary => Probe(out _).Length > 1;

    private static State Current
    {
        get
        {
            if (_state is { } state)
                return state;
            lock (Gate)
                return _state ??= Start();
        }
    }

    /// <summary>Changes the variant (null: the best) and the number of threads (0: all) at run time; calls that run elsewhere finish as they began.</summary>
    /// <exception cref="ArgumentException">The variant is unknown or does not run here.</exception>
    public static void Use(string? variant, int threads = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(threads);
        lock (Gate)
        {
            _counted = threads > 0;
            _state = Choose(variant, threads, Probe(out _));
        }
    }

    /// <summary>
    /// What a run asks for: `kernel` of its rules and `cpu_infer`. What it leaves open is as at the start: KT_CPU and KT_THREADS, else the best variant and
    /// all processors.
    /// </summary>
    /// <exception cref="ArgumentException">The variant does not run here.</exception>
    public static void Configure(string? variant, int? threads)
    {
        lock (Gate)
        {
            if (variant is null && threads is null && !_configured) return; // a notebook's own Cpu.Use stays
            _configured = variant is not null || threads is not null;
            _counted = threads is not null;
            _state = Choose(variant ?? Environment.GetEnvironmentVariable(VariantVariable), threads ?? ThreadsVariable(), Probe(out _));
        }
    }

    /// <summary>
    /// Leaves a processor to the thread that keeps a card busy while the others compute beside it, unless somebody has said how many compute. V2-Lite in INT4,
    /// split, 16 processors: a prompt of 512 tokens takes 160 ms in place of 180, a token 12.4 in place of 16.6.
    /// </summary>
    internal static void SpareOne()
    {
        const int Few = 8; // where one is more than what it saves
        lock (Gate)
        {
            var state = _state ??= Start();
            if (_counted || state.Threads < Few || ThreadsVariable() > 0) return;
            (_counted, _state) = (true, Choose(state.Variant, state.Threads - 1, state.Variants));
        }
    }

    private static int ThreadsVariable() => Environment.GetEnvironmentVariable("KT_THREADS") is not { Length: > 0 } text ? 0
        : int.TryParse(text, out var threads) && threads >= 0 ? threads
        : throw new ArgumentException($"KT_THREADS must be a number of threads (0: all), but is '{text}'");

    private static State Start()
    {
        var (variant, threads) = (Environment.GetEnvironmentVariable(VariantVariable), ThreadsVariable());
        var variants = Probe(out var missing);
        if (missing is not null && variant != Plain)
            Console.Error.WriteLine($"note: {missing}; computing on the CPU with managed code, which is much slower");
        return Choose(variant, threads, variants);
    }

    private static unsafe State Choose(string? variant, int threads, string[] variants)
    {
        if (string.IsNullOrEmpty(variant))
            variant = variants[0];
        if (variant == Plain)
            return new(false, Plain, variants, threads > 0 ? threads : Environment.ProcessorCount);
        if (variants.Length == 1)
            throw new ArgumentException($"KT_CPU: variant '{variant}' needs the native library, which is not usable here; available: {Plain}");
        if (Native.kt_init(variant, threads) != 0)
            throw new ArgumentException($"KT_CPU, KT_THREADS: {Native.Text(Native.kt_last_error())}");
        return new(true, variant, variants, Native.kt_threads());
    }

    // The variants that run here, and why native ones do not.
    private static unsafe string[] Probe(out string? missing)
    {
        missing = null;
        if (!NativeLibrary.TryLoad(Native.Library, typeof(Native).Assembly, null, out _))
            missing = $"lib{Native.Library}.so was not found beside the program (building it needs cmake and g++)";
        else if (Native.kt_abi_version() is var version && version != Native.AbiVersion)
            missing = $"lib{Native.Library}.so has ABI version {version}, but this program needs {Native.AbiVersion}; rebuild it";
        else if (Native.Text(Native.kt_cpu_variants()) is { Length: > 0 } names)
            return [.. names.Split(','), Plain];
        else
            missing = "this processor has no AVX2 with FMA";
        return [Plain];
    }

    /// <summary>Whether the variant in use multiplies BF16 weights in tiles; one that does not refuses them.</summary>
    public static bool MultipliesTiles => IsNative && Native.kt_multiplies_tiles() != 0;

    /// <summary>Whether a scope of <see cref="RowInvariant"/> is open on this thread: what hands work to another one opens one there.</summary>
    internal static bool IsRowInvariant => InvariantScope.IsOpen;

    private sealed class InvariantScope : IDisposable
    {
        [ThreadStatic]
        private static int _open;
        private readonly int _thread = Environment.CurrentManagedThreadId;
        private bool _closed;

        public InvariantScope() => Count(1);

        public static bool IsOpen => _open > 0;

        public void Dispose()
        {
            if (_closed) return;
            if (_thread != Environment.CurrentManagedThreadId) throw new InvalidOperationException("RowInvariant must be closed by the thread that opened it");
            _closed = true;
            Count(-1);
        }

        private static void Count(int change)
        {
            _open += change;
            if (IsNative) Native.kt_set_row_invariant(_open > 0 ? 1 : 0);
        }
    }

    private sealed record State(bool IsNative, string Variant, string[] Variants, int Threads);
}
