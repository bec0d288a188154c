using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>The library's border: variants, threads, error texts; and the dense GEMM.</summary>
[Collection("cpu variant")]
public sealed unsafe class NativeTests
{
    public static TheoryData<string> Variants => OnVariant.All;

    [Theory, MemberData(nameof(Variants))]
    public void Gemm_equals_the_definition(string variant)
    {
        using var on = new OnVariant(variant);
        var random = new Random(7);
        int[] ms = [1, 2, 3, 4, 5, 7, 11, 12, 13, 31, 33, 97], ns = [1, 5, 8, 15, 16, 17, 31, 32, 33, 65, 257],
            ks = [0, 1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 391, 773];
        foreach (var m in ms)
            foreach (var n in ns)
            {
                var k = ks[random.Next(ks.Length)];
                CheckGemm(random, m, n, k, random.Next(2), random.Next(2), random.Next(2), random.Next(2), random.Next(2));
            }
        foreach (var k in ks) // every combination of orientation and type once for each k
            for (var bits = 0; bits < 32; bits++)
                CheckGemm(random, 1 + random.Next(13), 1 + random.Next(40), k, bits & 1, (bits >> 1) & 1, (bits >> 2) & 1, (bits >> 3) & 1, (bits >> 4) & 1);
        CheckGemm(random, 530, 70, 40, 0, 1, 1, 1, 0); // more rows than one range
        CheckGemm(random, 40, 530, 40, 1, 0, 0, 0, 1);
    }

    private static void CheckGemm(Random random, int m, int n, int k, int transA, int transB, int typeA, int typeB, int typeC)
    {
        int lda = (transA == 1 ? m : k) + random.Next(3), ldb = (transB == 1 ? k : n) + random.Next(3), ldc = n + random.Next(3);
        var (alpha, beta) = random.Next(2) == 0 ? (1f, 0f) : (0.75f, -0.5f);
        using var a = new Numbers((transA == 1 ? k : m) * lda, typeA, random);
        using var b = new Numbers((transB == 1 ? n : k) * ldb, typeB, random);
        using var c = new Numbers(m * ldc, typeC, random);
        var before = Enumerable.Range(0, c.Count).Select(i => c[i]).ToArray();
        Native.Ok(Native.kt_gemm(transA, transB, m, n, k, alpha, a.Pointer, Math.Max(lda, 1), typeA, b.Pointer, Math.Max(ldb, 1), typeB, beta, c.Pointer, ldc,
            typeC));
        for (var i = 0; i < m; i++)
            for (var j = 0; j < n; j++)
            {
                var sum = Reference.Sum(k, l => a[transA == 1 ? l * lda + i : i * lda + l], l => b[transB == 1 ? j * ldb + l : l * ldb + j]);
                var old = beta * before[i * ldc + j];
                new Reference(alpha * sum.Value + old, sum.Magnitude + Math.Abs(old)).Check(c, i * ldc + j, k,
                    () => $"{Cpu.Variant} M{m} N{n} K{k} transA {transA} transB {transB} types {typeA}{typeB}{typeC}");
            }
        for (var i = 0; i < m; i++)
            for (var j = n; j < ldc; j++)
                Assert.Equal(before[i * ldc + j], c[i * ldc + j]); // between the rows nothing is touched
    }

    [Theory, MemberData(nameof(Variants))]
    public void Gemm_rounds_to_the_nearest_even_BF16_once(string variant)
    {
        using var on = new OnVariant(variant);
        using var a = new Numbers(17, Native.F32);
        using var one = new Numbers(1, Native.F32) { [0] = 1 };
        using var c = new Numbers(17, Native.BF16);
        double[] values = [1 + 1 / 256.0, 1 + 3 / 256.0, 1 + 1 / 256.0 + 1e-6, -1 - 1 / 256.0, 0, 3.3895314e38, double.PositiveInfinity, double.NaN];
        double[] expected = [1, 1 + 4 / 256.0, 1 + 2 / 256.0, -1, 0, 3.3895314e38, double.PositiveInfinity, double.NaN];
        for (var i = 0; i < 17; i++)
            a[i] = values[i % 8];
        Native.Ok(Native.kt_gemm(0, 0, 17, 1, 1, 1, a.Pointer, 1, a.Type, one.Pointer, 1, one.Type, 0, c.Pointer, 1, c.Type));
        for (var i = 0; i < 17; i++)
            Assert.Equal((float)expected[i % 8], (float)c[i]);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Bits_depend_neither_on_the_run_nor_on_the_number_of_threads(string variant)
    {
        var random = new Random(3);
        using var a = new Numbers(150 * 900, Native.BF16, random);
        using var b = new Numbers(300 * 900, Native.BF16, random);
        using var first = new Numbers(150 * 300, Native.F32);
        using var second = new Numbers(150 * 300, Native.F32);
        foreach (var (threads, c) in new[] { (1, first), (2, second), (2, second), (3, second) })
        {
            using var on = new OnVariant(variant, threads);
            Assert.Equal(threads, Cpu.Threads);
            Native.Ok(Native.kt_gemm(0, 1, 150, 300, 900, 1, a.Pointer, 900, a.Type, b.Pointer, 900, b.Type, 0, c.Pointer, 300, c.Type));
            Assert.True(first.Bytes.SequenceEqual(c.Bytes));
        }
    }

    [Fact]
    public void Calls_from_several_threads_do_not_disturb_each_other()
    {
        using var on = new OnVariant("avx2", 2);
        using var a = new Numbers(64 * 64, Native.F32, new Random(1));
        var sums = new double[8];
        Parallel.For(0, 8, t =>
        {
            using var c = new Numbers(64 * 64, Native.F32);
            for (var repeat = 0; repeat < 50; repeat++)
                Native.Ok(Native.kt_gemm(0, 1, 64, 64, 64, 1, a.Pointer, 64, a.Type, a.Pointer, 64, a.Type, 0, c.Pointer, 64, c.Type));
            sums[t] = Enumerable.Range(0, c.Count).Sum(i => c[i]);
        });
        Assert.All(sums, s => Assert.Equal(sums[0], s));
    }

    [Fact]
    public void Errors_say_what_is_wrong_and_with_what()
    {
        using var on = new OnVariant("avx2");
        using var x = new Numbers(16, Native.F32, new Random(1));
        Assert.Equal("[kt_gemm] typeB must be 0 (F32) or 1 (BF16), but is 7",
            Text(() => Native.kt_gemm(0, 0, 2, 2, 2, 1, x.Pointer, 2, 0, x.Pointer, 2, 7, 0, x.Pointer, 2, 0)));
        Assert.Equal("[kt_gemm] K must not be negative, but is -1",
            Text(() => Native.kt_gemm(0, 0, 2, 2, -1, 1, x.Pointer, 2, 0, x.Pointer, 2, 0, 0, x.Pointer, 2, 0)));
        Assert.Equal("[kt_gemm] ldb must be at least 3, the length of a stored row, but is 2",
            Text(() => Native.kt_gemm(0, 1, 2, 2, 3, 1, x.Pointer, 3, 0, x.Pointer, 2, 0, 0, x.Pointer, 2, 0)));
        Assert.Equal("[kt_gemm] C is null", Text(() => Native.kt_gemm(0, 0, 2, 2, 2, 1, x.Pointer, 2, 0, x.Pointer, 2, 0, 0, null, 2, 0)));
        Assert.Equal("[kt_grouped_weight_grad] offsets must not descend, but offsets[1] = 2 and offsets[2] = 1", Text(() =>
        {
            var offsets = stackalloc int[] { 0, 2, 1 };
            return Native.kt_grouped_weight_grad(2, offsets, 2, 2, x.Pointer, 0, x.Pointer, 0, null);
        }));
        Assert.Equal("[kt_grouped_linear] W[1] is null, but expert 1 has 2 rows", Text(() =>
        {
            var offsets = stackalloc int[] { 0, 0, 2 };
            var w = stackalloc void*[] { null, null };
            return Native.kt_grouped_linear(2, offsets, 2, 2, x.Pointer, 0, null, w, 0, null, 0, null, null, 1, null, x.Pointer, 0);
        }));
        Assert.Equal("[kt_attention] sequence 0 has 1 keys, fewer than its 2 queries", Text(() =>
        {
            int* q = stackalloc int[] { 0, 2 }, k = stackalloc int[] { 0, 1 };
            return Native.kt_attention(1, q, k, 1, 1, 2, 2, 0, 1, x.Pointer, x.Pointer, x.Pointer, 0, x.Pointer, x.Floats);
        }));
        Assert.Equal("[kt_attention] H must be a multiple of Hk, but H = 3 and Hk = 2",
            Text(() => Native.kt_attention(0, null, null, 3, 2, 2, 2, 0, 1, null, null, null, 0, null, null)));
        Assert.StartsWith("[kt_init] CPU variant 'sse9' is not available here; available: ", Text(() => Native.kt_init("sse9", 0)), StringComparison.Ordinal);
        Assert.Contains("'sse9' is not available here; available: ", Assert.Throws<ArgumentException>(() => Cpu.Use("sse9")).Message, StringComparison.Ordinal);
    }

    private static string Text(Func<int> call)
    {
        var e = Assert.Throws<KtNativeException>(() => Native.Ok(call()));
        Assert.Equal(("ktnative", 1, "call()"), (e.Library, e.Status, e.Call));
        return e.Text;
    }

    [Fact]
    public void Plain_uses_no_native_code()
    {
        using var on = new OnVariant("avx2");
        Cpu.Use(Cpu.Plain);
        Assert.False(Cpu.IsNative);
        Assert.Equal("plain", Cpu.Variant);
        Assert.Equal("plain", Cpu.Variants[^1]);
    }
}
