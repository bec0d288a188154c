using System.Collections.Concurrent;

using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// Attention on a card: the list of tiles and the choice of the kernel. BF16 with head sizes that are multiples of 16 up to 256 goes to the tensor cores
/// (Attention.cu), few queries on a cache too (QueryAttention.cu); anything else goes a row at a time (AttentionRows.cu). Everything fits into the
/// 99 KB of shared memory that a block has on the smallest card.
/// </summary>
internal static class AttentionKernels
{
    private const int MaxShared = 99 << 10, MaxWidth = 256, RowWarps = 4, RowTile = 16, TileInts = 8;

    /// <summary>More keys than there are, and no overflow when it is added to a row.</summary>
    private const int NoWindow = 1 << 30;

    private static readonly CudaProgram TensorCores = new("Attention", CudaProgram.Resource("Ops.Attention.cu"));
    private static readonly CudaProgram RowByRow = new("AttentionRows", CudaProgram.Resource("Ops.AttentionRows.cu"));
    private static readonly CudaProgram SingleQueries = new("QueryAttention", CudaProgram.Resource("Ops.QueryAttention.cu"));
    private static readonly ConcurrentDictionary<(Pass, int D, int Dv, bool Paged), Plan> Plans = new();
    private static readonly ConcurrentDictionary<(int D, int Dv, bool Latent), Plan> QueryPlans = new();
    private static readonly ConcurrentDictionary<(DType, int D, int Dv, int Vec), string> RowOptions = new();
    private static readonly ConcurrentDictionary<(int Device, string Options), CudaKernel> Kernels = new();

    /// <summary>What one walk computes.</summary>
    [Flags]
    private enum Pass
    {
        Forward = 1,
        Queries = 2,
        Keys = 4,
        Values = 8,

        /// <summary>Kernels of the tensor cores look at windows only when they are compiled for them.</summary>
        Window = 16,
    }

    /// <summary>Shapes as <see cref="Attention"/> says.</summary>
    public static void Forward(Spans spans, float scale, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse)
    {
        var (card, H, Hk, D, Dv) = (q.Gpu(), (int)q.Dim(1), (int)k.Dim(1), q.Width, v.Width);
        if (OnTensorCores(D, Dv, q, k, v, o))
        {
            var plan = PlanOf(Pass.Forward | WindowOf(spans.Window), D, Dv);
            using var tiles = QueryTiles(spans, plan.Rows, q.Device);
            plan.Kernel(card, TensorCores, "attention")
                .Launch((tiles.Dim(0) * H, 1, 1), plan.Threads, plan.SharedBytes, q.Pointer, k.Pointer, v.Pointer, o.Pointer,
                lse.Pointer, tiles.Pointer, H, Hk, scale);
            return;
        }
        using var rows = QueryTiles(spans, RowTile, q.Device);
        RowByRow.Kernel(card, "attention_rows", OptionsOf(D, Dv, q, k, v))
            .Launch(rows.Dim(0) * H, RowWarps * 32, q.Pointer, k.Pointer, v.Pointer, o.Pointer, lse.Pointer, rows.Pointer, H, Hk, Hk * D, Hk * Dv,
                (nint)0, scale);
    }

    public static void Backward(Spans spans, float scale, Tensor dO, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, Tensor dq, Tensor dk, Tensor dv)
    {
        var (card, H, Hk, D, Dv) = (q.Gpu(), (int)q.Dim(1), (int)k.Dim(1), q.Width, v.Width);
        using var delta = Tensor.Empty(DType.F32, q.Device, q.Dim(0), H);
        var options = OptionsOf(D, Dv, q, k, v, o, dO);
        RowByRow.Kernel(card, "attention_delta", options)
            .Launch((delta.Count + RowWarps - 1) / RowWarps, RowWarps * 32, dO.Pointer, o.Pointer, delta.Pointer, delta.Count);
        if (OnTensorCores(D, Dv, q, k, v, dO, dq, dk, dv))
        {
            var queries = PlanOf(Pass.Queries | WindowOf(spans.Window), D, Dv);
            using var queryTiles = QueryTiles(spans, queries.Rows, q.Device);
            queries.Kernel(card, TensorCores, "attention_dq")
                .Launch((queryTiles.Dim(0) * H, 1, 1), queries.Threads, queries.SharedBytes, q.Pointer, k.Pointer, v.Pointer,
                dO.Pointer, lse.Pointer, delta.Pointer, dq.Pointer, queryTiles.Pointer, H, Hk, scale);
            ReadOnlySpan<Pass> walks = D + Dv <= 320 ? [Pass.Keys | Pass.Values] : [Pass.Keys, Pass.Values];
            foreach (var walk in walks)
            {
                var keys = PlanOf(walk | WindowOf(spans.Window), D, Dv);
                using var keyTiles = KeyTiles(spans, keys.Rows, q.Device);
                keys.Kernel(card, TensorCores, "attention_dkv")
                    .Launch((keyTiles.Dim(0) * Hk, 1, 1), keys.Threads, keys.SharedBytes, q.Pointer, k.Pointer, v.Pointer, dO.Pointer, lse.Pointer,
                        delta.Pointer, dk.Pointer, dv.Pointer, keyTiles.Pointer, H, Hk, scale);
            }
            return;
        }
        using var byQuery = QueryTiles(spans, RowTile, q.Device);
        using var byKey = KeyTiles(spans, RowTile, q.Device);
        RowByRow.Kernel(card, "attention_rows_dq", options)
            .Launch(byQuery.Dim(0) * H, RowWarps * 32, q.Pointer, k.Pointer, v.Pointer, dO.Pointer, lse.Pointer, delta.Pointer, dq.Pointer, byQuery.Pointer, H,
                Hk, scale);
        RowByRow.Kernel(card, "attention_rows_dkv", options)
            .Launch(byKey.Dim(0) * Hk, RowWarps * 32, q.Pointer, k.Pointer, v.Pointer, dO.Pointer, lse.Pointer, delta.Pointer, dk.Pointer, dv.Pointer,
                byKey.Pointer, H, Hk, scale);
    }

    /// <summary>
    /// Attention on a paged cache, as <see cref="CachedAttention"/> says. BF16 heads that the tensor cores take go there. Otherwise few queries are cut into
    /// parts of their keys, about sixteen warps a multiprocessor together, and joined; the parts of many would be larger than what they save.
    /// </summary>
    public static void Cached(PassLists lists, float scale, int window, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse)
    {
        const int FewQueries = 64, SmallestPart = 128;
        var (card, T, H, Hk, W, R, device) = (q.Gpu(), (int)q.Dim(0), (int)q.Dim(1), (int)k.Dim(1), q.Width, o.Width, q.Device);
        if (T == 0) return;
        var (keyPitch, valuePitch, pages) = (Hk * k.Width, Hk * v.Width, lists.On(device, "pages", PaddedPages));
        Tensor QueryTiles(int rows) => lists.On(device, ("query tiles", window, rows), at => Numbers(TilesOf(at, window, rows)));
        var single = T <= FewQueries ? QueryPlan(q, k, v, R) : null;
        if (single is null && v.Width == R && OnTensorCores(W, R, q, k, v, o))
        {
            var plan = PlanOf(Pass.Forward | WindowOf(window), W, R, paged: true);
            var held = QueryTiles(plan.Rows);
            plan.Kernel(card, TensorCores, "attention").Launch((held.Count / TileInts * H, 1, 1), plan.Threads, plan.SharedBytes, q.Pointer, k.Pointer,
                v.Pointer,
                o.Pointer, lse.Pointer, held.Pointer, H, Hk, scale, pages.Pointer);
            return;
        }
        var options = OptionsOf(W, R, q, k, v);
        if (T > FewQueries)
        {
            var tiles = QueryTiles(RowTile);
            RowByRow.Kernel(card, "attention_rows", options)
                .Launch(tiles.Count / TileInts * H, RowWarps * 32, q.Pointer, k.Pointer, v.Pointer, o.Pointer, lse.Pointer, tiles.Pointer, H, Hk, keyPitch,
                    valuePitch, pages.Pointer, scale);
            return;
        }
        // A part is a warp's of one head, or a block's of the heads of a key head, which walks over whole pages.
        var blocks = Hk * (((H / Hk) + 15) / 16);
        var part = single is null ? (int)Math.Max(SmallestPart, (long)T * lists.Rows.Longest * H / (card.Multiprocessors * 16L) / 32 * 32)
            : (int)Math.Max(1, (long)T * lists.Rows.Longest * blocks / (card.Multiprocessors * 2L) / PageTable.Rows) * PageTable.Rows;
        var align = single is null ? 32 : PageTable.Rows;
        var parts = lists.On(device, ("parts", window, part, align), at => Parts(at, window, part, align));
        var (slots, cut, count) = (parts.Pointer, (nint)(parts.Pointer + (FirstInts(T) * sizeof(int))), (parts.Count - FirstInts(T)) / TileInts);
        using var sums = Tensor.Empty(DType.F32, device, count, H, R);
        using var lses = Tensor.Empty(DType.F32, device, count, H);
        if (single is not null)
            single.Kernel(card, SingleQueries, "attention_query").Launch((count, blocks, 1), single.Threads, single.SharedBytes, q.Pointer, k.Pointer,
                v.Pointer, sums.Pointer, lses.Pointer, cut, H, Hk, pages.Pointer, scale);
        else RowByRow.Kernel(card, "attention_parts", options)
            .Launch(count * H, 32, q.Pointer, k.Pointer, v.Pointer, sums.Pointer, lses.Pointer, cut, H, Hk, keyPitch, valuePitch, pages.Pointer,
                scale);
        RowByRow.Kernel(card, "attention_join", options).Launch((T, H), 128, sums.Pointer, lses.Pointer, slots, o.Pointer, lse.Pointer, H);
    }

    /// <summary>The page numbers, and zeros up to what sequences of <see cref="PassRows.Longest"/> rows would have.</summary>
    private static int[] PaddedPages(PassRows at)
    {
        var pages = new int[at.Table.Counts.Length * PageTable.PagesOf(at.Longest)];
        at.Table.Pages.CopyTo(pages, 0);
        return pages;
    }

    /// <summary>
    /// Every query's keys in parts of at most so many, the first from a multiple of <paramref name="align"/> on: where each query's parts begin, [T + 1] in the
    /// place of <see cref="FirstInts"/>, then their tiles. As many tiles as sequences of <see cref="PassRows.Longest"/> rows would have: those behind the
    /// last part see no key.
    /// </summary>
    private static int[] Parts(PassRows at, int window, int part, int align)
    {
        var (starts, table) = (at.SeqStarts, at.Table);
        List<Tile> parts = [];
        var first = new int[FirstInts(starts[^1])];
        for (var s = 0; s + 1 < starts.Length; s++)
            for (var t = starts[s]; t < starts[s + 1]; t++)
            {
                var seen = table.Counts[s] - (starts[s + 1] - t) + 1;
                for (var from = window == 0 ? 0 : Math.Max(0, seen - window) / align * align; from < seen; from += part)
                {
                    var n = Math.Min(part, seen - from);
                    parts.Add(new Tile(t, 1, from, n, n - 1, parts.Count, table.FirstPage[s]) { Window = window == 0 ? NoWindow : window - seen + from + n });
                }
                first[t + 1] = parts.Count;
            }
        var keys = window == 0 ? at.Longest : Math.Min(at.Longest, window + align - 1);
        var most = starts[^1] * ((keys + part - 1) / part);
        while (parts.Count < most) parts.Add(new Tile(0, 1, 0, 0, -1, parts.Count) { Window = NoWindow });
        return [.. first, .. Numbers(parts)];
    }

    /// <summary>Numbers before the tiles: T + 1, rounded up so that tiles begin at a multiple of 16 bytes.</summary>
    private static int FirstInts(int queries) => (queries + TileInts) / TileInts * TileInts;

    /// <summary>What sinks do to a result, in place: see <see cref="Attention"/>.</summary>
    public static void Sink(Tensor o, Tensor lse, Tensor sinks) =>
        RowByRow.Kernel(o.Gpu(), "attention_sinks", OptionsOf(o.Width, o.Width, o))
            .Launch((lse.Count + RowWarps - 1) / RowWarps, RowWarps * 32, o.Pointer, lse.Pointer, sinks.Pointer, lse.Count, (int)sinks.Count);

    private static Pass WindowOf(int window) => window == 0 ? default : Pass.Window;

    /// <summary>The kernel of single queries, where widths and addresses suit QueryAttention.cu; null: something else.</summary>
    private static Plan? QueryPlan(Tensor q, Tensor k, Tensor v, int R)
    {
        const int Heads = 16, Warps = 8;
        var (W, latent) = (q.Width, k.Pointer == v.Pointer);
        if (q.Type != DType.BF16 || W % 32 != 0 || R % 16 != 0 || (v.Width != R && !latent) || (q.Pointer | k.Pointer | v.Pointer) % 16 != 0) return null;
        var rows = ((Heads + PageTable.Rows) * (W + 8)) + (Heads * (PageTable.Rows + 8)) + (latent ? 0 : PageTable.Rows * (R + 8));
        var shared = (rows * 2) + (2 * Warps * Heads * sizeof(float));
        return shared > MaxShared ? null : QueryPlans.GetOrAdd((W, R, latent),
            key => new Plan($"-DQK_WIDTH={key.D} -DV_WIDTH={key.Dv} -DLATENT={(key.Latent ? 1 : 0)}", PageTable.Rows, Warps * 32, shared));
    }

    private static bool OnTensorCores(int D, int Dv, params ReadOnlySpan<Tensor> tensors)
    {
        nint addresses = 0;
        foreach (var tensor in tensors) addresses |= tensor.Pointer;
        return tensors[0].Type == DType.BF16 && D % 16 == 0 && Dv % 16 == 0 && D is > 0 and <= MaxWidth && Dv is > 0 and <= MaxWidth && addresses % 16 == 0;
    }

    /// <summary>Tiles of at most so many queries and the keys that they see; the longest walk first.</summary>
    private static Tensor QueryTiles(Spans spans, int rows, Device device) =>
        OnGpu(TilesOf(spans.Queries, s => (spans.Keys[s + 1] - spans.Keys[s], spans.Keys[s], 0), spans.Window, rows), device);

    private static List<Tile> TilesOf(PassRows at, int window, int rows) =>
        TilesOf(at.SeqStarts, s => (at.Table.Counts[s], 0, at.Table.FirstPage[s]), window, rows);

    private static List<Tile> TilesOf(int[] starts, Func<int, (int Count, int Begin, int Pages)> keysOf, int window, int rows)
    {
        List<Tile> tiles = [];
        for (var s = 0; s + 1 < starts.Length; s++)
        {
            var (queries, keys) = (starts[s + 1] - starts[s], keysOf(s));
            var cached = keys.Count - queries;
            for (var j = 0; j < queries; j += rows)
            {
                var n = Math.Min(rows, queries - j);
                tiles.Add(new Tile(starts[s] + j, n, keys.Begin, cached + j + n, cached + j, 0, keys.Pages) { Window = window == 0 ? NoWindow : window });
            }
        }
        return tiles;
    }

    /// <summary>Tiles of at most so many keys and the queries that see one of them; keys that nobody sees are there too, to get their zeros.</summary>
    private static Tensor KeyTiles(Spans spans, int rows, Device device)
    {
        List<Tile> tiles = [];
        for (var s = 0; s < spans.Count; s++)
        {
            var (queries, keys) = (spans.Queries[s + 1] - spans.Queries[s], spans.Keys[s + 1] - spans.Keys[s]);
            var cached = keys - queries;
            for (var n = 0; n < keys; n += rows)
            {
                var first = Math.Max(0, n - cached); // the first query that sees key n
                tiles.Add(new Tile(spans.Keys[s] + n, Math.Min(rows, keys - n), spans.Queries[s] + first, queries - first, cached + first - n)
                {
                    Window = spans.Window == 0 ? NoWindow : spans.Window,
                });
            }
        }
        return OnGpu(tiles, device);
    }

    private static Tensor OnGpu(List<Tile> tiles, Device device)
    {
        using var flat = Memory.Place(Numbers(tiles), device);
        return flat.View(tiles.Count, TileInts);
    }

    private static int[] Numbers(List<Tile> tiles)
    {
        tiles.Sort(static (a, b) => a.Count != b.Count ? b.Count.CompareTo(a.Count) : a.Held.CompareTo(b.Held));
        var target = new int[tiles.Count * TileInts];
        for (var i = 0; i < tiles.Count; i++)
        {
            var t = tiles[i];
            ReadOnlySpan<int> values = [t.Held, t.Rows, t.Streamed, t.Count, t.Shift, t.Slot, t.Pages, t.Window];
            values.CopyTo(target.AsSpan(i * TileInts));
        }
        return target;
    }

    /// <summary>16 bytes at a time where both head sizes and all addresses allow it.</summary>
    private static string OptionsOf(int D, int Dv, params ReadOnlySpan<Tensor> tensors)
    {
        nint addresses = 0;
        foreach (var tensor in tensors) addresses |= tensor.Pointer;
        var (type, vec) = (tensors[0].Type, tensors[0].Type == DType.BF16 ? 8 : 4);
        return OptionsOf(type, D, Dv, D % vec == 0 && Dv % vec == 0 && addresses % 16 == 0 ? vec : 1);
    }

    private static string OptionsOf(DType type, int D, int Dv, int vec) =>
        RowOptions.GetOrAdd((type, D, Dv, vec),
            static key => $"-DTYPE={(key.Item1 == DType.BF16 ? "bf16" : "float")} -DQK_WIDTH={key.D} -DV_WIDTH={key.Dv} -DVEC={key.Vec}");

    /// <summary>
    /// The largest shape of the kernel that fits, as far as the registers hold its sums: 32 rows a warp (M_TILES = 2) for values up to 128 in the forward,
    /// which has one sum only.
    /// </summary>
    private static Plan PlanOf(Pass pass, int D, int Dv, bool paged = false) => Plans.GetOrAdd((pass, D, Dv, paged), static key =>
    {
        var (all, D, Dv, paged) = key;
        var pass = all & ~Pass.Window;
        foreach (var (tiles, step, warps) in ((int, int, int)[])[(2, 32, 4), (1, 32, 4), (1, 16, 4), (1, 16, 2)])
        {
            if (tiles == 2 && (pass != Pass.Forward || Dv > 128)) continue;
            if (step == 32 && pass != Pass.Forward && D + Dv > 320) continue;
            var rows = warps * tiles * 16;
            // Pitches are 8 elements longer than the rows. Held: Q, or Q and dO, or K and V; streamed twice: K and V, or Q and dO with lse and delta.
            var held = rows * (D + 8 + (pass == Pass.Forward ? 0 : Dv + 8)) * 2;
            var streamed = 2 * step * (D + 8 + Dv + 8) * 2;
            var shared = held + streamed + ((pass & (Pass.Keys | Pass.Values)) != 0 ? 2 * 2 * step * sizeof(float) : 0);
            if (shared > MaxShared) continue;
            var defines = string.Concat(Enum.GetValues<Pass>().Where(p => all.HasFlag(p)).Select(p => $" -DPASS_{p.ToString().ToUpperInvariant()}"));
            if (paged) defines += " -DPAGED";
            return new Plan($"-DQK_WIDTH={D} -DV_WIDTH={Dv} -DM_TILES={tiles} -DSTEP_ROWS={step} -DBLOCK_WARPS={warps} -DMIN_BLOCKS=2{defines} --use_fast_math",
                rows, warps * 32, shared);
        }
        throw new NotSupportedException($"[Attention] head sizes {D} and {Dv} do not fit into {MaxShared} bytes of shared memory");
    });

    private readonly record struct Tile(int Held, int Rows, int Streamed, int Count, int Shift, int Slot = 0, int Pages = 0)
    {
        public int Window { get; init; }
    }

    private sealed record Plan(string Options, int Rows, int Threads, int SharedBytes)
    {
        public CudaKernel Kernel(CudaDevice card, CudaProgram program, string entry) => Kernels.TryGetValue((card.Index, Options), out var known)
            ? known
            : Kernels.GetOrAdd((card.Index, Options), program.Kernel(card, entry, Options).AllowShared(SharedBytes));
    }
}
