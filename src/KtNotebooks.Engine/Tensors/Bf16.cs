using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace KtNotebooks.Tensors;

/// <summary>BF16 is the upper half of an F32: widening is a shift, narrowing rounds to nearest, ties to even; NaN stays NaN.</summary>
public static class Bf16
{
    public static float ToFloat(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

    public static ushort FromFloat(float value)
    {
        var bits = BitConverter.SingleToUInt32Bits(value);
        if (float.IsNaN(value)) return (ushort)((bits >> 16) | 0x40);
        return (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    public static float Round(float value) => ToFloat(FromFloat(value));

    public static void Widen(ReadOnlySpan<ushort> source, Span<float> target)
    {
        ref var s = ref MemoryMarshal.GetReference(source);
        ref var t = ref MemoryMarshal.GetReference(target);
        var n = source.Length;
        if (target.Length < n) throw new ArgumentException($"target holds {target.Length} values, needs {n}");
        var i = 0;
        for (; i <= n - 8; i += 8)
        {
            var (low, high) = Vector128.Widen(Vector128.LoadUnsafe(ref s, (nuint)i));
            Vector256.Create(low << 16, high << 16).AsSingle().StoreUnsafe(ref t, (nuint)i);
        }
        for (; i < n; i++) Unsafe.Add(ref t, i) = ToFloat(Unsafe.Add(ref s, i));
    }

    public static void Narrow(ReadOnlySpan<float> source, Span<ushort> target)
    {
        ref var s = ref MemoryMarshal.GetReference(source);
        ref var t = ref MemoryMarshal.GetReference(target);
        var n = source.Length;
        if (target.Length < n) throw new ArgumentException($"target holds {target.Length} values, needs {n}");
        var i = 0;
        var half = Vector256.Create(0x7FFFu);
        var one = Vector256.Create(1u);
        for (; i <= n - 16; i += 16)
        {
            var a = Vector256.LoadUnsafe(ref s, (nuint)i);
            var b = Vector256.LoadUnsafe(ref s, (nuint)i + 8);
            if (!Vector256.EqualsAll(a, a) || !Vector256.EqualsAll(b, b)) break; // a NaN: the scalar loop handles the rest
            var x = a.AsUInt32();
            var y = b.AsUInt32();
            x = (x + half + ((x >>> 16) & one)) >>> 16;
            y = (y + half + ((y >>> 16) & one)) >>> 16;
            Vector256.Narrow(x, y).StoreUnsafe(ref t, (nuint)i);
        }
        for (; i < n; i++) Unsafe.Add(ref t, i) = FromFloat(Unsafe.Add(ref s, i));
    }
}
