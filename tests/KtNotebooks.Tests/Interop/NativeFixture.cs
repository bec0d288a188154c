using System.Runtime.InteropServices;

using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>Tests that switch the CPU variant run one after the other.</summary>
[CollectionDefinition("cpu variant", DisableParallelization = true)]
public sealed class CpuVariantCollection;

/// <summary>Switches to a CPU variant for one test; skips with a reason where it does not run, unless KT_REQUIRE names it.</summary>
internal sealed class OnVariant : IDisposable
{
    public OnVariant(string variant, int threads = 0)
    {
        var here = Cpu.Variants;
        var runs = variant switch { "amx-emulated" => true, "amx_int8-emulated" => here.Contains("avx512bf16"), _ => here.Contains(variant) };
        if (here.Count == 1 || !runs)
        {
            var required = (Environment.GetEnvironmentVariable("KT_REQUIRE") ?? "").Split(',');
            var reason = here.Count == 1 ? "libktnative.so is not here" : $"this processor has no {variant}";
            Assert.False(required.Contains(variant), $"KT_REQUIRE names {variant}, but {reason}");
            Assert.Skip(reason);
        }
        Cpu.Use(variant, threads);
    }

    public static TheoryData<string> All => ["amx", "avx512bf16", "avx512", "avx2", "amx-emulated"];

    public void Dispose() => Cpu.Use(null);
}

/// <summary>Numbers in native memory, F32 or BF16, between guard bytes that must survive.</summary>
internal sealed unsafe class Numbers : IDisposable
{
    private const int Guard = 64;
    private readonly byte* _memory;
    private readonly int _bytes;

    public Numbers(int count, int type, Random? random = null)
    {
        (Count, Type) = (count, type);
        _bytes = count * (type == Native.BF16 ? 2 : 4);
        _memory = (byte*)NativeMemory.Alloc((nuint)(_bytes + 2 * Guard));
        new Span<byte>(_memory, _bytes + 2 * Guard).Fill(0xA5); // what is not overwritten stays visible
        if (random is not null)
            for (var i = 0; i < count; i++)
                this[i] = Math.Round((random.NextDouble() * 2 - 1) * 128) / 64; // few bits: exact in BF16
    }

    public int Count { get; }
    public int Type { get; }
    public void* Pointer => _memory + Guard;
    public float* Floats => (float*)Pointer;
    public ReadOnlySpan<byte> Bytes => new(Pointer, _bytes);

    public double this[int i]
    {
        get => Type == Native.BF16 ? BitConverter.Int32BitsToSingle(((ushort*)Pointer)[i] << 16) : Floats[i];
        set
        {
            if (Type == Native.BF16)
                ((ushort*)Pointer)[i] = (ushort)(BitConverter.SingleToInt32Bits((float)value) >> 16);
            else
                Floats[i] = (float)value;
        }
    }

    public void Dispose()
    {
        var intact = !new Span<byte>(_memory, Guard).ContainsAnyExcept((byte)0xA5)
                     && !new Span<byte>(_memory + Guard + _bytes, Guard).ContainsAnyExcept((byte)0xA5);
        NativeMemory.Free(_memory);
        Assert.True(intact, "the kernel wrote outside its output");
    }
}

/// <summary>A reference result: the value in double and Σ|a|·|b| over what was summed, from which the tolerance follows.</summary>
internal readonly record struct Reference(double Value, double Magnitude)
{
    /// <summary>
    /// Checks c · ε · Σ|a|·|b| for a sum of <paramref name="terms"/> numbers in F32, plus half a unit of BF16 where the result is stored so, plus the part of
    /// every product that is <paramref name="lost"/>.
    /// </summary>
    public void Check(Numbers actual, int index, int terms, Func<string> where, double lost = 0)
    {
        const double eps = 1.1920929e-7;
        var limit = ((eps * (8 + Math.Sqrt(terms))) + lost) * Magnitude + (actual.Type == Native.BF16 ? Math.Abs(Value) / 256 : 0) * (1 + 1e-3) + 1e-30;
        var error = Math.Abs(actual[index] - Value);
        if (!(error <= limit))
            Assert.Fail($"{where()}: [{index}] is {actual[index]:g9}, expected {Value:g9}, error {error:g3} > limit {limit:g3}");
    }

    /// <summary>Σ_k a(k) · b(k).</summary>
    public static Reference Sum(int terms, Func<int, double> a, Func<int, double> b)
    {
        double value = 0, magnitude = 0;
        for (var k = 0; k < terms; k++)
        {
            var product = a(k) * b(k);
            value += product;
            magnitude += Math.Abs(product);
        }
        return new(value, magnitude);
    }
}
