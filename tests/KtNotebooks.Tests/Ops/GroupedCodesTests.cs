using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>Products with matrices as they are stored give the bits of products with the same matrices dequantized beforehand.</summary>
[Trait("card", "cuda")]
public class GroupedCodesTests
{
    /// <summary>None, few, a tile of 64, one more, more than a tile of 128.</summary>
    private static readonly int[] RowsOf = [3, 0, 64, 65, 150];

    public static TheoryData<string, int, int, bool> Cases
    {
        get
        {
            var cases = new TheoryData<string, int, int, bool>();
            foreach (var format in StorageFormat.All.Where(f => f.IsLowBit))
                foreach (var byColumns in (bool[])[false, true])
                {
                    cases.Add(format.Name, 40, 96, byColumns);
                    cases.Add(format.Name, 296, 160, byColumns);
                    cases.Add(format.Name, 24, 32, byColumns);
                }
            return cases;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Codes_give_the_bits_of_what_they_stand_for(string name, int n, int k, bool byColumns)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var (format, random, there, experts) = (StorageFormat.Parse(name), new Random(n + k), Device.Cuda(), RowsOf.Length);
        if (!GroupedKernels.ReadsCodes(there, DType.BF16, format, n, k, rows: 1)) Assert.Skip("this card's products read no codes: Hopper's do");
        var layout = new BankBytes(format, n, k, experts, random);
        int[] offsets = [0, .. RowsOf.Select((_, e) => RowsOf[..(e + 1)].Sum())];
        var (inner, outer) = byColumns ? (n, k) : (k, n);
        using var x = Numbers(random, offsets[^1], inner).To(there);
        using var low = Numbers(random, offsets[^1], 8).To(there);
        using var pairs = (byColumns ? Numbers(random, experts, 8, outer) : Numbers(random, experts, outer, 8)).To(there);
        using var stored = layout.Bytes.To(there);
        using var plain = layout.Plain.To(there);
        using var tiles = GroupedKernels.Tiles(there, offsets, 0, experts);
        var second = new GroupedTerm(RowSource.Of(low), new ExpertSide(pairs.Pointer, 8L * outer, pairs.Width), 8);
        uint[] Product(ExpertSide side)
        {
            using var y = Tensor.Zeros(DType.BF16, there, offsets[^1], outer);
            GroupedKernels.Product(x.Gpu(), DType.BF16, tiles, byColumns, y.Pointer, outer, outer, 1, new GroupedTerm(RowSource.Of(x), side, inner), second);
            using var back = y.To(Device.Cpu);
            return [.. back.ToFloats().Select(BitConverter.SingleToUInt32Bits)];
        }
        var expected = Product(new ExpertSide(plain.Pointer, (long)n * k, k));
        Assert.Contains(expected, bits => bits << 1 != 0);
        Assert.Equal(expected, Product(new ExpertSide(stored.Pointer, layout.Stride, k, format, stored.Pointer + (nint)layout.Scales)));
    }

    private static Tensor Numbers(Random random, params ReadOnlySpan<long> shape)
    {
        var count = 1L;
        foreach (var dim in shape) count *= dim;
        using var floats = Tensor.From([.. Enumerable.Range(0, (int)count).Select(_ => (float)(random.NextDouble() - 0.5))], shape);
        return floats.To(DType.BF16);
    }

    /// <summary>Experts one behind the other, codes then scales, as a bank has them, and the same dequantized [E, n, k].</summary>
    private sealed unsafe class BankBytes
    {
        public BankBytes(StorageFormat format, int n, int k, int experts, Random random)
        {
            var codes = format.Bytes(n, k);
            Plain = Tensor.Empty(DType.BF16, experts, n, k);
            for (var e = 0; e < experts; e++)
            {
                using var values = Numbers(random, n, k);
                var (data, scales) = format.Quantize(values);
                using (data)
                using (scales)
                using (var matrix = format.Dequantize(data, scales, n, k, DType.BF16))
                using (var place = Plain.Slice(e, 1))
                {
                    Scales = (data.ByteLength + 255) / 256 * 256;
                    Stride = Scales + ((scales.ByteLength + 255) / 256 * 256);
                    Bytes ??= Tensor.Zeros(DType.U8, experts * Stride);
                    Copy(data, Bytes.Pointer + (nint)(e * Stride));
                    Copy(scales, Bytes.Pointer + (nint)((e * Stride) + Scales));
                    Copy(matrix, place.Pointer);
                }
            }
        }

        public Tensor Bytes { get; } = null!;

        public Tensor Plain { get; }

        public long Stride { get; }

        public long Scales { get; }

        private static void Copy(Tensor from, nint to) =>
            System.Buffer.MemoryCopy((void*)from.Pointer, (void*)to, from.ByteLength, from.ByteLength);
    }
}
