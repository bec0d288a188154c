using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;

using KtNotebooks.Formats;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>Shards of made-up codes on a disk, with sizes and places as a real checkpoint has them, and how fast that disk can be read.</summary>
internal static class DiskShards
{
    private const int Block = 8 << 20;

    /// <summary>Long enough for a disk to settle, short beside a step.</summary>
    private const double MeasuredSeconds = 6;

    /// <summary>Writes them, unless they are there from an earlier run; by all threads. Checks the free space first.</summary>
    /// <returns>Their folder, below the given one.</returns>
    public static string Make(string shape, int? layers, StorageFormat format, string folder, Action<string> note, CancellationToken cancel)
    {
        var target = Path.Combine(folder, $"{shape}-{layers?.ToString() ?? "all"}-{format.Name}");
        if (File.Exists(Path.Combine(target, "config.json"))) // written last
        {
            note($"{target}: shards of an earlier run are used");
            return target;
        }
        if (Directory.Exists(target)) throw new IOException($"{target}: shards of a run that was stopped while it wrote them: delete the folder");
        var maker = new ModelMaker(shape, target, layers, format);
        var watch = Stopwatch.StartNew();
        note($"writing {maker.Bytes / 1e9:F1} GB in {maker.Shards} shards to {target}");
        maker.Run(cancel: cancel);
        note($"written in {watch.Elapsed.TotalSeconds:F0} s, {maker.Bytes / watch.Elapsed.TotalSeconds / 1e9:F2} GB/s; they stay there for the next run");
        return target;
    }

    /// <summary>
    /// GB/s of reading the shards from their beginning on, past the page cache, each read where the one before ended: by one reader and by sixteen, the better
    /// of the two.
    /// </summary>
    public static double SequentialGbPerSecond(Checkpoint checkpoint, Action<string> note)
    {
        SafetensorsFile[] files = [.. checkpoint.Files.Values];
        DirectFile[] readers = [.. files.Select(f => new DirectFile(f))];
        try
        {
            var one = Rate(files, readers, 1);
            var many = Rate(files, readers, 16);
            note($"the disk, read straight on{(readers.All(r => r.IsDirect) ? "" : " through the page cache")}: {one:F2} GB/s by one reader, {many:F2} by 16");
            return Math.Max(one, many);
        }
        finally
        {
            foreach (var reader in readers) reader.Dispose();
        }
    }

    private static double Rate(SafetensorsFile[] files, DirectFile[] readers, int threads)
    {
        (int File, long At)[] pieces = [.. files.SelectMany((f, i) => Enumerable.Range(0, (int)(f.Length / Block)).Select(p => (i, p * (long)Block)))];
        if (pieces.Length == 0) return 0;
        long done = 0;
        var watch = Stopwatch.StartNew();
        ShardWork.Run(threads, pieces.Length, () => new Memory(), (piece, memory) =>
        {
            if (watch.Elapsed.TotalSeconds > MeasuredSeconds) return;
            Interlocked.Add(ref done, readers[pieces[piece].File].Read(memory.Address, pieces[piece].At, Block));
        }, CancellationToken.None);
        return done / watch.Elapsed.TotalSeconds / 1e9;
    }

    /// <summary>Memory that a disk reads into.</summary>
    private sealed unsafe class Memory : IDisposable
    {
        public nint Address { get; } = (nint)NativeMemory.AlignedAlloc(Block, DirectFile.Alignment);

        public void Dispose() => NativeMemory.AlignedFree((void*)Address);
    }
}

/// <summary>
/// Experts of a checkpoint's shards, all else made up. A model of more layers than the checkpoint has finds the experts of the others in it again, in turn: as
/// many reads of as many bytes as if each layer had its own, where the disk has no room for all.
/// </summary>
internal sealed class DiskWeights(Checkpoint checkpoint, PatternWeights others) : IWeights
{
    private const string Layers = "model.layers.";
    private readonly (int First, int Last) _stored = Sparse(checkpoint);

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape) => others.Take(name, type, shape);

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k) =>
        checkpoint.TakeExperts(names with { Path = Stored(names.Path) }, type, count, n, k);

    /// <summary>`model.layers.40.mlp.experts` → the stored layer that stands for it.</summary>
    private string Stored(string path)
    {
        var parts = path[Layers.Length..].Split('.', 2);
        var layer = int.Parse(parts[0], CultureInfo.InvariantCulture);
        return layer <= _stored.Last ? path : $"{Layers}{_stored.First + ((layer - _stored.First) % (_stored.Last - _stored.First + 1))}.{parts[1]}";
    }

    private static (int First, int Last) Sparse(Checkpoint checkpoint)
    {
        int[] layers = [.. from name in checkpoint.Files.Values.SelectMany(file => file.Entries.Keys)
            where name.StartsWith(Layers, StringComparison.Ordinal) && name.Contains(".experts.", StringComparison.Ordinal)
            select int.Parse(name.AsSpan(Layers.Length, name.IndexOf('.', Layers.Length) - Layers.Length), CultureInfo.InvariantCulture)];
        return (layers.Min(), layers.Max());
    }
}
