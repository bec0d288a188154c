using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Nn;

[Collection(Alone.Name)] // buffers alive are counted process-wide
public class KvCacheTests
{
    /// <summary>
    /// Random life of a cache against lists of tokens. What a row holds is a function of its token and all before it, so a page that is found by its tokens, or
    /// is overwritten while others read it, shows at once. The books: every page is free, kept, or used as often as sequences list it.
    /// </summary>
    [Theory]
    [InlineData(1, null, 0)]
    [InlineData(2, null, 4000)]
    [InlineData(3, 900L, 4000)]
    [InlineData(4, 900L, 300)]
    [InlineData(5, 900L, 0)]
    public void A_cache_is_a_list_of_lists_of_rows(int seed, long? tokens, long idle)
    {
        var random = new Random(seed);
        using var cache = new KvCache(tokens, idle);
        List<(CachedSequence Sequence, List<int> Tokens, string? Adapter)> model = [];
        var (reused, refused) = (0, 0);
        for (var pass = 0; pass < 400; pass++)
        {
            while (model.Count > 0 && random.Next(5) == 0)
            {
                var gone = random.Next(model.Count);
                if (random.Next(2) == 0) model[gone].Sequence.Publish(Of(model[gone].Tokens));
                model[gone].Sequence.Free();
                Assert.Equal(0, model[gone].Sequence.Length);
                model.RemoveAt(gone);
            }
            if (random.Next(60) == 0) cache.Pages.ForgetAll();
            List<int>? fresh = null;
            if (model.Count == 0 || random.Next(3) == 0)
            {
                // Few different beginnings, so that many sequences begin alike, up to any place.
                fresh = [.. Enumerable.Repeat(random.Next(2), random.Next(200)), .. Enumerable.Range(0, 1 + random.Next(40)).Select(_ => random.Next(3))];
                var adapter = random.Next(2) == 0 ? null : "a";
                var sequence = cache.Add();
                var found = sequence.Reuse(adapter, Of(fresh));
                Assert.InRange(found, 0, fresh.Count - 1);
                reused += found;
                model.Add((sequence, fresh, adapter));
            }
            var rows = new int[model.Count];
            for (var s = 0; s < rows.Length; s++)
            {
                var (sequence, all, _) = model[s];
                if (sequence.Length == all.Count) all.AddRange(Enumerable.Range(0, random.Next(3) == 0 ? random.Next(90) : 1).Select(_ => random.Next(3)));
                rows[s] = random.Next(6) == 0 ? random.Next(all.Count - sequence.Length + 1) : all.Count - sequence.Length;
            }
            int[] starts = [0, .. rows.Select((_, s) => rows[..(s + 1)].Sum())];
            using var batch = cache.TryBatch([.. model.Select(m => m.Sequence)], rows);
            Books(cache, model.Select(m => m.Sequence));
            if (batch is null)
            {
                refused++;
                model[^1].Sequence.Free();
                model.RemoveAt(model.Count - 1);
                continue;
            }
            float[] values = [.. model.SelectMany((m, s) => Enumerable.Range(m.Sequence.Length, rows[s]).Select(i => Value(m.Tokens, i, m.Adapter)))];
            // Two columns, and another layer of keys and values, to see that each goes its own way.
            using var latent = Tensor.From([.. values.SelectMany(r => (float[])[r, -r])], values.Length, 2);
            using var key = Tensor.From([.. values.Select(r => r + 0.25f)], values.Length, 1, 1);
            using var value = Tensor.From([.. values.Select(r => r + 0.5f)], values.Length, 1, 1);
            var held = batch.Append("latent", latent, null, starts).Rows.ToFloats();
            var (k, v) = batch.Append("heads", key, value, starts);
            var (heldK, heldV) = (k.ToFloats(), v!.ToFloats());
            batch.Commit();
            for (var s = 0; s < model.Count; s++)
            {
                var (sequence, all, adapter) = model[s];
                Assert.Equal(sequence.Length, batch.Table.Counts[s]);
                for (var i = 0; i < sequence.Length; i++)
                {
                    var (row, expected) = ((int)batch.Table.RowOf(s, i), Value(all, i, adapter));
                    Assert.Equal((expected, -expected, expected + 0.25f, expected + 0.5f), (held[2 * row], held[(2 * row) + 1], heldK[row], heldV[row]));
                }
                if (random.Next(2) == 0) sequence.Publish(Of(all));
            }
            Books(cache, model.Select(m => m.Sequence));
        }
        foreach (var (sequence, _, _) in model) sequence.Free();
        Assert.Equal(0, cache.Pages.Used);
        Assert.InRange(cache.Pages.Idle, 0, PageTable.PagesOf(idle));
        Assert.InRange(reused, 1000, int.MaxValue); // also where nothing is kept: of those that still run
        Assert.Equal(tokens is not null, refused > 0);
    }

    /// <summary>
    /// Keys and values of 1 MB a page each, on cards of every size from 8 to 30 MB: memory ends while keys grow, between keys and values, and at a page that
    /// fits where twice as many do not. All that was held stays, and both tensors have room for the pages that are promised.
    /// </summary>
    [Fact]
    [Trait("card", "cuda")]
    public void Where_memory_ends_the_limit_is_what_there_is_room_for()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        const int Width = 4096;
        var pool = CudaDevice.Get(0).Pool;
        var before = pool.Limit;
        List<int> rooms = [];
        for (var megabytes = 8; megabytes <= 30; megabytes++)
        {
            using var cache = new KvCache();
            var sequence = cache.Add();
            pool.Trim();
            var limit = pool.HeldBytes + ((long)megabytes << 20);
            CacheBatch? Grown(CachedSequence by, int more) // what a pass itself needs is there
            {
                pool.Trim();
                pool.Limit = limit;
                var taken = cache.TryBatch([by], [more]);
                pool.Limit = before;
                return taken;
            }
            try
            {
                var filled = 0;
                while (Grown(sequence, PageTable.Rows) is { } batch)
                    using (batch)
                    {
                        using var flat = Memory.Place([.. Enumerable.Repeat(++filled + 0.5f, PageTable.Rows * Width)], Device.Cuda());
                        using var rows = flat.View(PageTable.Rows, 1, Width);
                        var (k, v) = batch.Append("layer", rows, rows, [0, PageTable.Rows]);
                        batch.Commit();
                        foreach (var tensor in new[] { k, v! })
                        {
                            Assert.True(tensor.Dim(0) >= filled * PageTable.Rows);
                            var held = tensor.ToFloats();
                            for (var page = 0; page < filled; page++) Assert.Equal(page + 1.5f, held[batch.Table.RowOf(0, page * PageTable.Rows) * Width]);
                        }
                    }
                Assert.Equal((filled * PageTable.Rows, filled, 0), (sequence.Length, cache.Pages.Limit, cache.Pages.Available));
                Assert.Null(Grown(sequence, 1));
                sequence.Free();
                using var again = Grown(cache.Add(), filled * PageTable.Rows);
                Assert.NotNull(again);
                rooms.Add(filled);
            }
            finally
            {
                pool.Limit = before;
            }
        }
        Assert.InRange(rooms[0], 1, 4);
        Assert.InRange(rooms.Distinct().Count(), 3, 20);
    }

    [Fact]
    public void The_page_that_was_given_up_first_goes_first()
    {
        var pool = new PagePool(limit: 2, idleLimit: 2);
        var root = pool.Root(null);
        var (a, b) = (pool.Take(), pool.Take());
        pool.Publish(a, root, [1, 2]);
        pool.Publish(b, root, [3, 4]);
        Assert.Equal(-1, pool.Take());
        pool.Release(b);
        pool.Release(a);
        Assert.Equal((b, 2), (pool.Find(root, [3, 4, 5]).Page, pool.Find(root, [3, 4, 5]).Rows));
        Assert.Equal(b, pool.Take());
        Assert.Equal(-1, pool.Find(root, [3, 4]).Page);
        Assert.Equal((a, 1), (pool.Find(root, [1, 9]).Page, pool.Find(root, [1, 9]).Rows));
        Assert.Equal(-1, pool.Find(pool.Root("a"), [1, 2]).Page); // another adapter's rows are other rows
        pool.Release(b);
        Assert.Contains("released more often", Assert.Throws<InvalidOperationException>(() => pool.Release(b)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_bytes_are_those_of_the_pages_and_nothing_leaks()
    {
        var before = Tiny.Alive();
        using (var cache = new KvCache())
        {
            using var rows = Tensor.Zeros(DType.BF16, 64, 576);
            var sequence = cache.Add();
            using (var batch = cache.Batch([sequence], [64]))
            {
                batch.Append("a", rows, null, [0, 64]);
                Assert.Equal(576 * 2, cache.BytesPerToken);
                Assert.Equal(64 * 576 * 2, cache.ByteLength);
                batch.Append("b", rows, null, [0, 64]);
                batch.Commit();
            }
            Assert.Equal(2 * 576 * 2, cache.BytesPerToken);
            using (var batch = cache.Batch([sequence], [64])) batch.Append("a", rows, null, [0, 64]);
            Assert.Equal(2 * 128 * 576 * 2, cache.ByteLength); // all layers grow before a pass, so that none fails in it
        }
        Assert.Equal(before, Tiny.Alive());
    }

    [Fact]
    public void Wrong_uses_are_named()
    {
        using var cache = new KvCache(tokens: 100);
        using var rows = Tensor.Zeros(DType.F32, 2, 3);
        using var other = Tensor.Zeros(DType.F32, 2, 4);
        using var batch = cache.Batch([cache.Add()], [2]);
        batch.Append("a", rows, null, [0, 2]);
        Assert.Equal("[KvCache] rows F32[2, 4] do not fit the cached F32[64, 3]",
            Assert.Throws<ArgumentException>(() => batch.Append("a", other, null, [0, 2])).Message);
        Assert.Equal("[KvCache] 1 pages of 64 rows are free, which is too few for this pass",
            Assert.Throws<InsufficientMemoryException>(() => cache.Batch([cache.Add()], [65])).Message);
    }

    private static ReadOnlySpan<int> Of(List<int> tokens) => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(tokens);

    private static float Value(List<int> tokens, int i, string? adapter)
    {
        var hash = new HashCode();
        hash.Add(adapter);
        for (var j = 0; j <= i; j++) hash.Add(tokens[j]);
        return hash.ToHashCode() & 0xFFFFF;
    }

    private static void Books(KvCache cache, IEnumerable<CachedSequence> sequences)
    {
        var used = sequences.SelectMany(s => s.Pages).CountBy(p => p).ToDictionary();
        Assert.Equal(used.Count, cache.Pages.Used);
        foreach (var (page, count) in used) Assert.Equal(count, cache.Pages.References(page));
        Assert.InRange(cache.Pages.Count, 0, cache.Pages.Limit);
    }
}
