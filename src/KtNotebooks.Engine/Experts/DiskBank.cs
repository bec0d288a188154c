using KtNotebooks.Formats;
using KtNotebooks.Weights;

namespace KtNotebooks.Experts;

/// <summary>
/// A part of a matrix on its way from a block of memory into a slot of the card.
/// </summary>
/// <param name="Name">Of the tensor.</param>
/// <param name="InBlock">Its first byte in the block.</param>
/// <param name="InSlot">And in the slot.</param>
/// <param name="Source">Where it lies in host memory; 0: in the file.</param>
internal readonly record struct DiskPart(string Name, int InBlock, long InSlot, int Bytes, nint Source = 0);

/// <summary>One read of a shard, aligned as disks want it, and what of it goes where; or (no file) what lies in host memory already.</summary>
internal sealed record DiskRead(SafetensorsFile? File, long At, int Bytes, IReadOnlyList<DiskPart> Parts);

/// <summary>
/// A bank whose experts stay in the checkpoint's shards: where each piece of an expert lies in which file, and with which reads a group of them comes.
/// Neighbours in a file are one read; what is longer than a block is several. Scales that the checkpoint stores in another type than the kernels read lie
/// widened in host memory (FP8's: 1/8192 of the codes) and come from there.
/// </summary>
internal sealed class DiskBank
{
    /// <summary>Unwanted bytes between two pieces that cost less than a read of their own.</summary>
    private const long Gap = 64 << 10;

    private readonly Piece[] _pieces; // in the order of experts

    /// <exception cref="InvalidDataException">The files do not have the experts as they are to be used; says what to do.</exception>
    public DiskBank(ExpertSet experts, string path)
    {
        Layout = new BankLayout(experts);
        List<Piece> pieces = [];
        for (var e = 0; e < experts.Count; e++)
            foreach (var (from, piece) in (ReadOnlySpan<(Matrices, BankLayout.Piece)>)
                [(experts.Gate, Layout.Gate), (experts.Up, Layout.Up), (experts.Down, Layout.Down)])
            {
                using var data = from.Data(e);
                using var scales = from.Scales(e);
                pieces.Add(PieceOf(data, e, piece.Data) ?? throw new InvalidDataException($"{path}: weights: disk reads experts as the checkpoint stores "
                    + $"them, but these must be rearranged or converted to {piece.Format.Name} first; write weights: host, or {Conversion}"));
                if (scales is not null) pieces.Add(PieceOf(scales, e, piece.Scales) ?? new Piece(null, "", scales.Pointer, scales.ByteLength, e, piece.Scales));
            }
        _pieces = [.. pieces];
    }

    /// <summary>What a person may do about the format of a checkpoint.</summary>
    public const string Conversion = "`kt convert fp8-to-bf16 SRC DST` first where that is the one you want";

    public BankLayout Layout { get; }

    /// <summary>Bytes of the experts that are read from the disk, each time all of them come.</summary>
    public long Bytes => _pieces.Sum(p => p.File is null ? 0 : p.Bytes);

    /// <summary>The reads that bring a group, in the order of the files.</summary>
    /// <param name="block">Most bytes of a read, a multiple of <see cref="DirectFile.Alignment"/>.</param>
    public IEnumerable<DiskRead> Reads(ExpertGroup group, int block)
    {
        Piece[] mine = [.. _pieces.Where(p => p.Expert >= group.First && p.Expert < group.First + group.Count)];
        foreach (var file in mine.Where(p => p.File is not null).GroupBy(p => p.File!))
            foreach (var read in Runs([.. file.OrderBy(p => p.At)]).SelectMany(run => Cut(file.Key, run, group.First, block))) yield return read;
        foreach (var read in FromMemory(mine.Where(p => p.File is null), group.First, block)) yield return read;
    }

    /// <summary>Pieces that follow each other in a file, nearly.</summary>
    private static IEnumerable<ArraySegment<Piece>> Runs(Piece[] sorted)
    {
        for (int first = 0, last = 1; first < sorted.Length; first = last++)
        {
            while (last < sorted.Length && sorted[last].At - (sorted[last - 1].At + sorted[last - 1].Bytes) <= Gap) last++;
            yield return new ArraySegment<Piece>(sorted, first, last - first);
        }
    }

    private IEnumerable<DiskRead> Cut(SafetensorsFile file, ArraySegment<Piece> run, int firstExpert, int block)
    {
        var (from, end) = (run[0].At / DirectFile.Alignment * DirectFile.Alignment, run[^1].At + run[^1].Bytes);
        for (var at = from; at < end; at += block)
        {
            var upTo = Math.Min(at + block, end);
            List<DiskPart> parts = [];
            foreach (var p in run)
            {
                var (first, last) = (Math.Max(p.At, at), Math.Min(p.At + p.Bytes, upTo));
                if (first < last) parts.Add(new DiskPart(p.Name, (int)(first - at), Place(p, firstExpert) + (first - p.At), (int)(last - first)));
            }
            if (parts.Count > 0) yield return new DiskRead(file, at, (int)(upTo - at), parts);
        }
    }

    private IEnumerable<DiskRead> FromMemory(IEnumerable<Piece> pieces, int firstExpert, int block)
    {
        List<DiskPart> parts = [];
        var at = 0;
        foreach (var p in pieces)
            for (long done = 0; done < p.Bytes;)
            {
                var bytes = (int)Math.Min(block - at, p.Bytes - done);
                parts.Add(new DiskPart(p.Name, at, Place(p, firstExpert) + done, bytes, (nint)(p.At + done)));
                (done, at) = (done + bytes, at + bytes);
                if (at < block) continue;
                yield return new DiskRead(null, 0, at, parts);
                (parts, at) = ([], 0);
            }
        if (parts.Count > 0) yield return new DiskRead(null, 0, at, parts);
    }

    private long Place(Piece p, int firstExpert) => ((p.Expert - firstExpert) * Layout.ExpertBytes) + p.InExpert;

    /// <summary>Null: not bytes of a file.</summary>
    private static Piece? PieceOf(Tensor tensor, int expert, long inExpert) => tensor.Home is (MappedBuffer mapped, var offset)
        ? new Piece(mapped.File, mapped.Entry.StoredName, mapped.File.DataStart + mapped.Entry.Begin + offset, tensor.ByteLength, expert, inExpert) : null;

    /// <param name="At">Place in the file, or address in host memory.</param>
    private sealed record Piece(SafetensorsFile? File, string Name, long At, long Bytes, int Expert, long InExpert);
}
