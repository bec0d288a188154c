using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Nn;

[Collection(Alone.Name)] // buffers alive are counted process-wide
public class KvCacheTests
{
    /// <summary>Random passes, additions and removals against lists: every sequence keeps exactly its rows, in order, wherever its room has moved.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void A_cache_is_a_list_of_lists_of_rows(int seed)
    {
        var random = new Random(seed);
        List<List<float>> model = [];
        using var cache = new KvCache();
        var next = 0f;
        for (var pass = 0; pass < 120; pass++)
        {
            if (model.Count > 0 && random.Next(4) == 0)
            {
                var gone = random.Next(model.Count);
                model.RemoveAt(gone);
                cache.Remove(gone);
            }
            if (model.Count == 0 || random.Next(5) == 0) model.Add([]);
            var starts = new int[model.Count + 1];
            List<float> rows = [];
            for (var s = 0; s < model.Count; s++)
            {
                var count = random.Next(8) switch { 0 => 0, 1 => random.Next(150), _ => 1 };
                for (var i = 0; i < count; i++)
                {
                    rows.Add(next);
                    model[s].Add(next++);
                }
                starts[s + 1] = rows.Count;
            }
            // Two columns and another layer of keys and values, to see that each goes its own way.
            using var latent = Tensor.From([.. rows.SelectMany(r => (float[])[r, -r])], rows.Count, 2);
            using var key = Tensor.From([.. rows.Select(r => r + 0.25f)], rows.Count, 1, 1);
            using var value = Tensor.From([.. rows.Select(r => r + 0.5f)], rows.Count, 1, 1);
            var held = cache.Append("latent", latent, starts);
            using (held.Rows)
            {
                var all = held.Rows.ToFloats();
                for (var s = 0; s < model.Count; s++)
                {
                    Assert.Equal(model[s].Count, held.Counts[s]);
                    Assert.Equal(model[s].SelectMany(r => (float[])[r, -r]), all[(held.Begins[s] * 2)..((held.Begins[s] + held.Counts[s]) * 2)]);
                }
            }
            var (k, v, keys) = cache.Append("heads", key, value, starts);
            using (k)
            using (v)
            {
                Assert.Equal(model.SelectMany(s => s).Select(r => r + 0.25f), k.ToFloats());
                Assert.Equal(model.SelectMany(s => s).Select(r => r + 0.5f), v.ToFloats());
                Assert.Equal(model.Select(s => s.Count), keys.Zip(keys.Skip(1), (a, b) => b - a));
            }
            Assert.Equal(model.Count, cache.Sequences);
            for (var s = 0; s < model.Count; s++) Assert.Equal(model[s].Count, cache.Length(s));
        }
    }

    /// <summary>What a row costs to append does not depend on the other sequences: no room moves while one sequence grows within its own.</summary>
    [Fact]
    public void Rooms_stay_where_they_are_until_they_are_full()
    {
        using var cache = new KvCache();
        int[] Begins(params int[] counts)
        {
            int[] starts = [0, .. counts.Select((_, i) => counts[..(i + 1)].Sum())];
            using var rows = Tensor.Zeros(DType.BF16, starts[^1], 8);
            var held = cache.Append("a", rows, starts);
            held.Rows.Dispose();
            return held.Begins;
        }
        Assert.Equal([0, 64, 128], Begins(60, 10, 10));
        Assert.Equal([0, 64, 128], Begins(4, 54, 1));
        Assert.Equal([192, 64, 128], Begins(1, 0, 1)); // the first is full and moves to the end
        Assert.Equal([192, 64, 128, 320], Begins(0, 0, 0, 70)); // a new one behind them: the first's old room is too small
        cache.Remove(1);
        Assert.Equal([192, 128, 320, 0], Begins(0, 0, 0, 100)); // the gap of the first and second room together
    }

    [Fact]
    public void The_bytes_are_those_of_the_rows_and_nothing_leaks()
    {
        var before = Tiny.Alive();
        using (var cache = new KvCache())
        {
            using var rows = Tensor.Zeros(DType.BF16, 64, 576);
            cache.Append("a", rows, [0, 64]).Rows.Dispose();
            Assert.Equal(576 * 2, cache.BytesPerToken);
            Assert.Equal(64 * 576 * 2, cache.ByteLength);
            cache.Append("b", rows, [0, 64]).Rows.Dispose();
            Assert.Equal(2 * 576 * 2, cache.BytesPerToken);
            cache.Append("a", rows, [0, 64]).Rows.Dispose(); // grows in place, by half
            Assert.Equal((192 + 64) * 576 * 2, cache.ByteLength);
        }
        Assert.Equal(before, Tiny.Alive());
    }

    [Fact]
    public void Wrong_uses_are_named()
    {
        using var cache = new KvCache();
        Assert.Equal("[KvCache] there is no sequence 0; 0 are held (Parameter 'sequence')",
            Assert.Throws<ArgumentOutOfRangeException>(() => cache.Remove(0)).Message);
        using var rows = Tensor.Zeros(DType.F32, 2, 3);
        using var other = Tensor.Zeros(DType.F32, 2, 4);
        cache.Append("a", rows, [0, 2]).Rows.Dispose();
        Assert.Equal("[KvCache] rows F32[2, 4] do not fit the cached F32[64, 3]",
            Assert.Throws<ArgumentException>(() => cache.Append("a", other, [0, 2])).Message);
    }
}
