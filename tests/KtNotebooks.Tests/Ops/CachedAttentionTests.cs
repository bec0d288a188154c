using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Interop;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>Attention on pages in any order against attention on the same rows end to end, and its bits.</summary>
[Trait("card", "cuda")]
[Collection("cpu variant")]
public class CachedAttentionTests
{
    public static TheoryData<string, string, DType> Places => new([.. ((string[])["avx512bf16", "avx512", "avx2", "plain"]).Select(v => ("cpu", v))
        .Append(("cuda:0", "")).SelectMany(p => (DType[])[DType.F32, DType.BF16], (p, t) => (p.Item1, p.Item2, t))]);

    /// <summary>Shapes: H, Hk, D, Dv; Hk = 0: one row a token whose first Dv columns are the values.</summary>
    private static readonly (int H, int Hk, int D, int Dv)[] Shapes = [(4, 2, 48, 32), (4, 4, 16, 16), (6, 0, 40, 24), (1, 1, 7, 5), (20, 0, 96, 80),
        (8, 2, 64, 64)];

    /// <summary>New rows and keys of each sequence: one row behind many keys, several rows, none, many.</summary>
    private static readonly (int New, int Keys)[][] Cases = [[(1, 1500), (1, 7)], [(5, 140), (0, 9), (70, 80), (1, 64)], [(3, 3), (1, 1)]];

    [Theory]
    [MemberData(nameof(Places))]
    public void Pages_in_any_order_are_rows_end_to_end(string where, string variant, DType type)
    {
        var device = Device.Parse(where);
        if (device.Kind == DeviceKind.Cuda) Require.Hardware("cuda", CudaDevice.Missing);
        using var on = device.Kind == DeviceKind.Cpu ? new OnVariant(variant) : null;
        foreach (var (H, Hk, D, Dv) in Shapes)
            foreach (var (sequences, window, sinks) in Cases.SelectMany(c => ((int, bool)[])[(0, false), (0, true), (5, false), (100, true)], (c, w) =>
                (c, Hk == 0 ? 0 : w.Item1, Hk != 0 && w.Item2)).Distinct())
            {
                using var tape = Tape.Scratch();
                using var made = new Made(H, Hk, D, Dv, type, sequences, seed: 3) { Window = window, Sinks = sinks };
                var actual = made.Run(device);
                var expected = made.EndToEnd();
                Close(expected, actual, type);
                if (device.Kind != DeviceKind.Cpu) continue;
                using (Op.UsePlain()) Close(expected, made.Run(device), type);
            }
    }

    /// <summary>The same rows alone, on other pages, cut into passes, with any number of threads.</summary>
    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.BF16)]
    public void The_bits_of_a_row_are_its_own(DType type)
    {
        foreach (var (H, Hk, D, Dv) in Shapes)
        {
            float[]? first = null;
            foreach (var (seed, threads, together) in ((int, int, bool)[])[(3, 1, true), (4, 2, true), (5, 3, false), (6, 1, false)])
            {
                using var on = new OnVariant(Cpu.Variants[0], threads);
                using var tape = Tape.Scratch();
                (int, int)[] sequences = together ? [(70, 1100), (3, 90)] : [(70, 1100)];
                using var made = new Made(H, Hk, D, Dv, type, sequences, seed);
                var rows = made.Run(Device.Cpu)[..(70 * H * Dv)];
                Assert.Equal(first ??= rows, rows);
                // The last row in a pass of its own.
                using var last = new Made(H, Hk, D, Dv, type, [(1, 1100)], seed, lastOf: 70);
                Assert.Equal(first[^(H * Dv)..], last.Run(Device.Cpu));
            }
        }
    }

    private static void Close(float[] expected, float[] actual, DType type)
    {
        Assert.Equal(expected.Length, actual.Length);
        var limit = type == DType.F32 ? 1e-5 : 0.01;
        for (var i = 0; i < expected.Length; i++) Assert.True(Math.Abs(expected[i] - actual[i]) <= limit, $"[{i}] is {actual[i]}, expected {expected[i]}");
    }

    /// <summary>Queries, keys and values by formula (the same whatever the pages), on pages in an order by seed.</summary>
    private sealed class Made : IDisposable
    {
        private readonly int[] _starts;
        private readonly Tensor _q, _k, _v;
        private readonly PageTable _table;
        private readonly (int New, int Keys)[] _sequences;
        private readonly int _h, _heads, _d, _dv;
        private readonly bool _latent;
        private readonly DType _type;

        public int Window { get; init; }

        public bool Sinks { get; init; }

        private Tensor? SinksOf() => Sinks ? Tensor.From([.. Enumerable.Range(0, _h).Select(h => (h * 0.7f) - 1)], _h) : null;

        public Made(int H, int Hk, int D, int Dv, DType type, (int New, int Keys)[] sequences, int seed, int lastOf = 0)
        {
            (_h, _heads, _d, _dv, _latent, _type, _sequences) = (H, Math.Max(1, Hk), D, Dv, Hk == 0, type, sequences);
            _starts = [0, .. sequences.Select((_, s) => sequences[..(s + 1)].Sum(x => x.New))];
            int[] needed = [.. sequences.Select(s => PageTable.PagesOf(s.Keys))];
            int[] pages = [.. Enumerable.Range(0, needed.Sum() + 3)];
            new Random(seed).Shuffle(pages);
            int[] first = [.. needed.Select((_, s) => needed[..s].Sum())];
            _table = new PageTable([.. sequences.Select(s => s.Keys)], first, pages[..needed.Sum()]);
            _q = Tensor.From([.. sequences.SelectMany((s, n) => Enumerable.Range(0, s.New).SelectMany(t => Row(1 + n, lastOf > 0 ? lastOf - 1 : t, H * D)))],
                type, _starts[^1], H, D);
            var valueWidth = _latent ? D : Dv;
            float[] k = [.. Enumerable.Repeat(float.NaN, pages.Length * PageTable.Rows * _heads * D)]; // what no key is written to must not be read
            float[] v = [.. Enumerable.Repeat(float.NaN, pages.Length * PageTable.Rows * _heads * valueWidth)];
            for (var s = 0; s < sequences.Length; s++)
                for (var j = 0; j < sequences[s].Keys; j++)
                {
                    Row(100 + s, j, _heads * D).CopyTo(k, _table.RowOf(s, j) * _heads * D);
                    Row(200 + s, j, _heads * valueWidth).CopyTo(v, _table.RowOf(s, j) * _heads * valueWidth);
                }
            _k = Tensor.From(k, type, pages.Length * PageTable.Rows, _heads, D);
            _v = Tensor.From(v, type, pages.Length * PageTable.Rows, _heads, valueWidth);
        }

        public float[] Run(Device device)
        {
            using var q = _q.To(device);
            using var k = _k.To(device);
            using var v = _v.To(device);
            using var made = SinksOf();
            using var sinks = made?.To(device);
            var table = new PageTable(_table.Counts, _table.FirstPage, _table.Pages);
            return (_latent ? CachedAttention.Latent(q, k, _starts, table, _dv, 0.3f)
                : CachedAttention.Apply(q, k, v, _starts, table, 0.3f, Window, sinks)).ToFloats();
        }

        public float[] EndToEnd()
        {
            int[] keys = [0, .. _sequences.Select((_, s) => _sequences[..(s + 1)].Sum(x => x.Keys))];
            IEnumerable<float> Rows(int n, int width, int take) => _sequences.SelectMany((s, i) => Enumerable.Range(0, s.Keys)
                .SelectMany(j => Row(n + i, j, width).Chunk(width / _heads).SelectMany(h => h.Take(take))));
            using var k = Tensor.From([.. Rows(100, _heads * _d, _d)], _type, keys[^1], _heads, _d);
            using var v = Tensor.From([.. _latent ? Rows(100, _d, _dv) : Rows(200, _heads * _dv, _dv)], _type, keys[^1], _heads, _dv);
            using var plain = Op.UsePlain();
            using var sinks = SinksOf();
            return Attention.Apply(_q, k, v, new Spans(_starts, keys) { Window = Window }, 0.3f, sinks).ToFloats();
        }

        public void Dispose()
        {
            foreach (var tensor in (Tensor[])[_q, _k, _v]) tensor.Dispose();
        }

        private static float[] Row(int sequence, int row, int width)
        {
            var random = new Random((sequence * 10007) + row);
            return [.. Enumerable.Range(0, width).Select(_ => (random.NextSingle() - 0.5f) * 2)];
        }
    }
}
