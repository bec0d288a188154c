using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// Makes a BF16 checkpoint of one in DeepSeek-V3's FP8 layout: every F8E4M3 matrix times its `weight_scale_inv`, all else as it is. Shard by shard under
/// the same names, in pieces of a few megabytes a thread, so memory does not depend on the model. A shard gets its name when it is whole: a run that was
/// stopped or killed goes on where it was.
/// </summary>
public sealed class Fp8Conversion : IDisposable
{
    private static readonly string ScaleSuffix = StorageFormat.Fp8.Stored!.Scales;
    private const string What = "the converted model's folder";
    private const string Journal = ".kt-convert.json";
    private const long PieceBytes = 4 << 20; // of FP8 codes; twice that in BF16
    private readonly string _target;
    private readonly Checkpoint _source;
    private readonly List<(string Name, SafetensorsPlan Plan)> _shards = [];
    private readonly FolderFile[] _otherFiles;

    /// <summary>
    /// Reads all headers and checks that the work can be done: scales, free disk, a target that is empty or holds the beginning of this same conversion.
    /// </summary>
    /// <exception cref="InvalidDataException">A matrix without scales, or a damaged source.</exception>
    /// <exception cref="IOException">The target is in use, or the disk is too small.</exception>
    public Fp8Conversion(string source, string target)
    {
        _target = Folders.Full(target, What);
        var from = Path.GetFullPath(HubCache.Resolve(source));
        if (IsWithin(RealPath(_target), RealPath(from)))
            throw new ArgumentException($"{target}: the converted model must not lie in the source folder {source}");
        _source = new Checkpoint(from);
        try
        {
            if (_source.Quantized != StorageFormat.Fp8)
                throw new InvalidDataException($"{Path.Combine(source, "config.json")}: has no {Quantization.Key} of quant_method fp8; there is nothing to "
                    + "convert");
            foreach (var (name, file) in _source.Files)
                if (PlanOf(file) is { } plan) _shards.Add((name, plan));
            var (files, leftOut) = FolderFiles.Of(from);
            _otherFiles = [.. files.Where(f => !IsRewritten(f.Name))];
            Notes = [.. leftOut.Select(what => $"{source}: not copied: {what}")];
            CheckTarget();
            Finished = _shards.Count(s => s.Plan.IsAt(Path.Combine(_target, s.Name)));
            Bytes = Remaining.Sum(s => s.Plan.FileBytes);
            AtomicFile.RequireSpace(_target, Bytes + _otherFiles.Sum(f => f.Bytes) + 1_000_000);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public int Shards => _shards.Count;

    /// <summary>Shards that an earlier run made.</summary>
    public int Finished { get; }

    /// <summary>Bytes that this run writes.</summary>
    public long Bytes { get; }

    /// <summary>What of the source folder is not copied, and why.</summary>
    public IReadOnlyList<string> Notes { get; }

    private IEnumerable<(string Name, SafetensorsPlan Plan)> Remaining => _shards.Where(s => !s.Plan.IsAt(Path.Combine(_target, s.Name)));

    /// <summary>Converts what is left. Index and config.json come last: a folder that has them is whole.</summary>
    /// <exception cref="OperationCanceledException">Cancelled; the next run goes on after the last whole shard.</exception>
    public void Run(Action<WorkProgress>? report = null, CancellationToken cancel = default)
    {
        Folders.Create(_target, What);
        OwnTemporary.Sweep(_target); // of a run that was killed; `kt convert` holds the folder's lock
        AtomicFile.WriteText(Path.Combine(_target, Journal), Identity());
        var meter = new WorkMeter(Bytes, report);
        foreach (var (name, plan) in Remaining.ToList()) Convert(name, plan, meter, cancel);
        foreach (var file in _otherFiles)
        {
            var to = Path.Combine(_target, file.Name);
            Folders.Create(Path.GetDirectoryName(to)!, What);
            using var stream = RegularFile.Open(file.Source, "a file of the model");
            AtomicFile.Write(to, file.Bytes, copy => stream.CopyTo(copy));
        }
        WriteIndex();
        WriteConfig();
        File.Delete(Path.Combine(_target, Journal));
    }

    /// <summary>Whether a folder holds the beginning of a conversion.</summary>
    public static bool IsUnfinished(string folder) => File.Exists(Path.Combine(folder, Journal));

    public void Dispose() => _source.Dispose();

    private static bool IsWithin(string path, string folder) =>
        path == folder || path.StartsWith(folder + Path.DirectorySeparatorChar, StringComparison.Ordinal);

    /// <summary>With all links followed, also where the last folders are not there yet.</summary>
    private static string RealPath(string path) =>
        FileKinds.RealPath(path) ?? (Path.GetDirectoryName(path) is { } above ? Path.Combine(RealPath(above), Path.GetFileName(path)) : path);

    private static bool IsRewritten(string file) =>
        file is "config.json" or Journal || file.EndsWith(".safetensors", StringComparison.Ordinal)
            || file.EndsWith(".safetensors.index.json", StringComparison.Ordinal) || file.EndsWith(".tmp", StringComparison.Ordinal);

    /// <summary>The tensors of a shard without scales, in order.</summary>
    private IEnumerable<TensorEntry> Kept(SafetensorsFile file) =>
        file.Entries.Values.Where(e => !(e.Name.EndsWith(ScaleSuffix, StringComparison.Ordinal) && _source.Has(e.Name[..^ScaleSuffix.Length])))
            .OrderBy(e => e.Begin);

    private SafetensorsPlan? PlanOf(SafetensorsFile file)
    {
        List<(string, DType, long[])> tensors = [];
        foreach (var entry in Kept(file))
        {
            if (entry.Type == DType.F8E4M3) CheckMatrix(file, entry);
            tensors.Add((entry.StoredName, entry.Type == DType.F8E4M3 ? DType.BF16 : entry.Type, entry.Shape));
        }
        return tensors.Count == 0 ? null : new SafetensorsPlan(tensors);
    }

    private void CheckMatrix(SafetensorsFile file, TensorEntry entry)
    {
        if (entry.Shape.Length != 2)
            throw new InvalidDataException($"{file.Path}: tensor '{entry.Name}' is FP8 but no matrix: [{string.Join(", ", entry.Shape)}]");
        _source.CheckFp8Scales(entry.Name);
    }

    private void CheckTarget()
    {
        var journal = Path.Combine(_target, Journal);
        if (File.Exists(journal))
        {
            if (RegularFile.ReadAllText(journal, "the record of a conversion") != Identity())
            {
                throw new IOException($"{_target}: holds the beginning of a conversion of another source, or the source has changed since; "
                    + "remove it or choose another folder");
            }
        }
        else if (_shards.TrueForAll(s => s.Plan.IsAt(Path.Combine(_target, s.Name))) && File.Exists(Path.Combine(_target, "config.json")))
        {
            throw new IOException($"{_target}: holds the whole converted model already; remove it to convert again");
        }
        else if (FileKinds.Of(_target) is FileKind.File or FileKind.Other)
        {
            throw new IOException($"{_target}: is a file, but the converted model is a folder; choose another name");
        }
        else if (Directory.Exists(_target) && Directory.EnumerateFileSystemEntries(_target).FirstOrDefault() is { } found)
        {
            throw new IOException($"{_target}: is not empty (there is {Path.GetFileName(found)}); choose a new folder");
        }
    }

    /// <summary>What the source is: its place, its headers, and size and time of every shard.</summary>
    private string Identity() => JsonSerializer.Serialize(new
    {
        source = _source.Folder,
        headers = _source.HeaderHash,
        shards = _source.Files.Select(f => (f.Key, File: new FileInfo(RealPath(f.Value.Path)))).Select(f =>
            $"{f.Key} {f.File.Length} {f.File.LastWriteTimeUtc.Ticks}"),
    });

    private void Convert(string name, SafetensorsPlan plan, WorkMeter meter, CancellationToken cancel)
    {
        var file = _source.Files[name];
        var path = Path.Combine(_target, name);
        Folders.Create(Path.GetDirectoryName(path)!, What);
        using var shard = new ShardFile(path, plan);
        List<Piece> pieces = [];
        foreach (var entry in Kept(file))
        {
            var row = entry.Type == DType.F8E4M3 ? entry.Shape[1] : 1;
            var count = entry.Type == DType.F8E4M3 ? entry.Shape[0] : entry.End - entry.Begin; // bytes of what is copied
            var step = entry.Type == DType.F8E4M3 ? Math.Max(PieceBytes / Math.Max(row, 1) / Fp8Format.Block, 1) * Fp8Format.Block
                : 2 * PieceBytes;
            for (long at = 0; at < count; at += step) pieces.Add(new Piece(entry, at, Math.Min(step, count - at)));
        }
        ShardWork.Run(Cpu.Threads, pieces.Count, () => new PieceMemory(), (index, memory) =>
        {
            var (entry, at, count) = pieces[(int)index];
            if (entry.Type != DType.F8E4M3)
            {
                var bytes = memory.Bytes(count);
                file.ReadAt(bytes, entry.Begin + at);
                shard.Write(entry.StoredName, at, bytes);
                meter.Add(name, count);
                return;
            }
            var k = entry.Shape[1];
            file.ReadAt(memory.Bytes(count * k), entry.Begin + (at * k));
            using var codes = memory.Codes(count, k);
            // Read, not mapped: a mapped page counts as memory of the process until the end, and the system maps its neighbours with it (measured: 26 MB a
            // GB of BF16).
            using var all = _source.Fp8Scales(entry.Name);
            using var scales = all.Slice(at / Fp8Format.Block, ((count - 1) / Fp8Format.Block) + 1);
            shard.Write(entry.StoredName, at * k * 2, memory.Dequantized(codes, scales, count, k));
            meter.Add(name, count * k * 2);
        }, cancel);
        shard.Complete();
        meter.Add(name, plan.Header.Length);
    }

    private void WriteIndex()
    {
        var map = new JsonObject();
        foreach (var (tensor, shard) in _shards.SelectMany(s => Kept(_source.Files[s.Name]).Select(e => (e.StoredName, s.Name)))
            .OrderBy(t => t.Item1, StringComparer.Ordinal)) map[tensor] = shard;
        if (_shards is [{ Name: "model.safetensors" }]) return;
        AtomicFile.WriteText(Path.Combine(_target, "model.safetensors.index.json"), new JsonObject
        {
            ["metadata"] = new JsonObject { ["total_size"] = _shards.Sum(s => s.Plan.DataBytes) },
            ["weight_map"] = map,
        }.ToJsonString(Indented));
    }

    private void WriteConfig()
    {
        var config = JsonSource.ReadNodes(Path.Combine(_source.Folder, "config.json"), "a model's config.json");
        Quantization.Remove(config);
        if (config.ContainsKey("torch_dtype")) config["torch_dtype"] = "bfloat16";
        AtomicFile.WriteText(Path.Combine(_target, "config.json"), config.ToJsonString(Indented));
    }

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Rows of an FP8 matrix, from a multiple of 128, or bytes of what is copied.</summary>
    private readonly record struct Piece(TensorEntry Entry, long At, long Count);

    /// <summary>What a thread works in; grows to the largest piece.</summary>
    private sealed unsafe class PieceMemory : IDisposable
    {
        private Tensor _input = Tensor.Empty(DType.U8, 2 * PieceBytes);
        private Tensor _output = Tensor.Empty(DType.BF16, PieceBytes);

        public Span<byte> Bytes(long count)
        {
            if (count > _input.Count) Grow(ref _input, DType.U8, count);
            return _input.Span<byte>()[..(int)count];
        }

        /// <summary>The bytes read last, as a matrix.</summary>
        public Tensor Codes(long rows, long k)
        {
            using var part = _input.Slice(0, rows * k);
            return part.View(rows, k);
        }

        public ReadOnlySpan<byte> Dequantized(Tensor codes, Tensor scales, long rows, long k)
        {
            if (rows * k > _output.Count) Grow(ref _output, DType.BF16, rows * k);
            StorageFormat.Fp8.DequantizeRows(codes, scales, k, 0, rows, (void*)_output.Pointer, DType.BF16);
            return new ReadOnlySpan<byte>((void*)_output.Pointer, (int)(rows * k * 2));
        }

        public void Dispose()
        {
            _input.Dispose();
            _output.Dispose();
        }

        private static void Grow(ref Tensor memory, DType type, long count)
        {
            memory.Dispose();
            memory = Tensor.Empty(type, count);
        }
    }
}
