using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json;

using KtNotebooks.Files;
using KtNotebooks.Interop;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>One tensor of a safetensors file: type, shape and byte range in the data section.</summary>
public sealed record TensorEntry(string Name, DType Type, long[] Shape, long Begin, long End)
{
    /// <summary>Its name in the header.</summary>
    public string StoredName { get; init; } = Name;
}

/// <summary>
/// A memory-mapped safetensors file: 8 bytes header length, JSON header, data. Tensors are views on the mapping, so nothing is read before it is used and
/// the operating system may drop pages again. The mapping goes when the file has been disposed and the last tensor that looks at it as well.
/// </summary>
public sealed unsafe partial class SafetensorsFile : IDisposable
{
    private const long MaxHeader = 100_000_000; // the format's own limit
    private const int MaxDimensions = 8;
    private const int ReadPiece = 16 << 20;
    private const int DontNeed = 4;
    private readonly FileStream _file; // stays open, so that a file which is replaced meanwhile is still read as it was
    private readonly long _length;
    private readonly DateTime _written;
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, TensorEntry> _entries = [];
    private readonly byte* _start;
    private readonly byte* _data;
    private readonly string _prefix;
    private int _users = 1; // this object, and one for every tensor handed out
    private int _disposed;

    /// <param name="path">The file, or a link to it: what Hugging Face's cache is made of.</param>
    /// <param name="prefix">Left out of the names that begin with it.</param>
    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not a safetensors file, truncated, or with a header that does not fit the data.</exception>
    public SafetensorsFile(string path, string prefix = "")
    {
        (Path, _prefix) = (path, prefix);
        _file = RegularFile.Open(path, "a safetensors file");
        _length = Length;
        _written = File.GetLastWriteTimeUtc(_file.SafeFileHandle);
        if (_length < 8)
        {
            _file.Dispose();
            throw Bad("is too short for a safetensors header; it may be truncated or a Git LFS pointer");
        }
        _map = MemoryMappedFile.CreateFromFile(_file, null, 0, MemoryMappedFileAccess.Read, HandleInheritability.None, leaveOpen: true);
        _view = _map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        byte* start = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        _start = start;
        try
        {
            var name = path.Length <= 300 ? path : "…" + path[^300..];
            MappedBytes.Watch(start, _length, $"kt: {name} has become shorter while it was read; leave a model's files alone while it is in use");
            var header = *(long*)start;
            if (header <= 1 || header > MaxHeader)
                throw Bad($"does not start with a safetensors header length (read {header}); it is another format or damaged");
            if (8 + header > _length) throw Bad($"is truncated: its header needs {8 + header} bytes, the file has {_length}");
            _data = start + 8 + header;
            DataStart = 8 + header;
            HeaderHash = Convert.ToHexStringLower(SHA256.HashData(new ReadOnlySpan<byte>(start, (int)(8 + header))));
            Read(new ReadOnlySpan<byte>(start + 8, (int)header), _length - 8 - header);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public string Path { get; }

    public IReadOnlyDictionary<string, TensorEntry> Entries => _entries;

    public IReadOnlyDictionary<string, string> Metadata { get; private set; } = new Dictionary<string, string>();

    /// <summary>A stored name as it is asked for.</summary>
    public string NameOf(string stored) => stored.StartsWith(_prefix, StringComparison.Ordinal) ? stored[_prefix.Length..] : stored;

    /// <summary>Where the data begins in the file.</summary>
    public long DataStart { get; }

    /// <summary>SHA-256 of the header: changes whenever a name, a type, a shape or a place does.</summary>
    public string HeaderHash { get; } = "";

    /// <summary>A view on the mapped bytes; it keeps the mapping alive.</summary>
    public Tensor Get(string name)
    {
        var entry = Entry(name);
        return Get(name, entry.Type, entry.Shape);
    }

    /// <summary>The same bytes seen as another type and shape.</summary>
    public Tensor Get(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var entry = Entry(name);
        ObjectDisposedException.ThrowIf(_disposed != 0, this);
        RequireWhole();
        Interlocked.Increment(ref _users);
        return new Tensor(new MappedBuffer(this, entry, (nint)(_data + entry.Begin)), 0, type, shape);
    }

    /// <summary>
    /// A copy in memory of our own, read in large pieces in parallel: as fast as the disk or the page cache, and without mapped pages that would count as
    /// memory a second time.
    /// </summary>
    public Tensor Read(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var entry = Entry(name);
        var tensor = Tensor.Empty(type, shape);
        var (target, bytes) = (tensor.Pointer, tensor.ByteLength);
        if (bytes != entry.End - entry.Begin) throw new ArgumentException($"[SafetensorsFile] {tensor} is not the size of '{name}'");
        RequireWhole();
        RowParallel.For((bytes + ReadPiece - 1) / ReadPiece, ReadPiece, (first, last) =>
        {
            for (var at = first * ReadPiece; at < Math.Min(last * ReadPiece, bytes); at += ReadPiece)
                ReadAt(new Span<byte>((byte*)target + at, (int)Math.Min(ReadPiece, bytes - at)), entry.Begin + at);
        });
        return tensor;
    }

    /// <summary>
    /// Gives the mapped pages of a tensor back to the system. Once read they count as memory of this process; what has been converted is not read again.
    /// They stay in the page cache, and whoever reads them again gets them.
    /// </summary>
    public void Drop(string name) => Drop(Entry(name));

    internal void Drop(TensorEntry entry)
    {
        var page = Environment.SystemPageSize;
        var (first, last) = (((nint)(_data + entry.Begin) + page - 1) / page * page, (nint)(_data + entry.End) / page * page);
        // advice: where it fails it costs memory, not correctness
        if (OperatingSystem.IsLinux() && last > first) _ = madvise((void*)first, (nuint)(last - first), DontNeed);
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0) Release();
    }

    /// <summary>The system's number of the open file.</summary>
    internal int Descriptor => (int)_file.SafeFileHandle.DangerousGetHandle();

    /// <summary>Reads from a place in the file, past the mapping; 0 at its end.</summary>
    internal int ReadSome(Span<byte> target, long at) => RandomAccess.Read(_file.SafeFileHandle, target, at);

    /// <summary>Fails when the file has been written to, cut or lengthened since it was opened: its tensors are then not what the header says.</summary>
    /// <exception cref="InvalidDataException">It has.</exception>
    internal void RequireSame()
    {
        if (Length != _length || File.GetLastWriteTimeUtc(_file.SafeFileHandle) != _written)
            throw Bad($"has been changed while it was in use ({_length} bytes when it was opened, {Length} now); leave a model's files alone while a run reads "
                + "them; the run goes on from its last checkpoint with resume_from_checkpoint");
    }

    /// <summary>Fills a span with the data from a place in the data section, past the mapping.</summary>
    internal void ReadAt(Span<byte> target, long at)
    {
        for (var done = 0; done < target.Length;)
        {
            var count = RandomAccess.Read(_file.SafeFileHandle, target[done..], DataStart + at + done);
            if (count == 0) throw Bad($"ended at byte {DataStart + at + done} while it was read; is it being written?");
            done += count;
        }
    }

    /// <summary>
    /// Fails when the file has become shorter since it was opened. It costs one call of the system (measured: 4 µs in a container). What it cannot see is a
    /// file that is cut after the check while its mapped pages are in use: <see cref="MappedBytes"/> says so then.
    /// </summary>
    /// <exception cref="InvalidDataException">It has.</exception>
    internal void RequireWhole()
    {
        if (_file.SafeFileHandle.IsClosed) return; // no tensor looks at it any more
        if (Length < _length) throw Bad($"has {Length} bytes, but had {_length} when it was opened; leave a model's files alone while it is in use");
    }

    [LibraryImport("libc")]
    private static partial int madvise(void* address, nuint length, int advice);

    /// <summary>Bytes of the file now.</summary>
    internal long Length => RandomAccess.GetLength(_file.SafeFileHandle);

    private TensorEntry Entry(string name) => _entries.TryGetValue(name, out var entry) ? entry : throw Bad($"has no tensor '{name}'");

    /// <summary>A tensor that looked at the file has gone.</summary>
    internal void Release()
    {
        if (Interlocked.Decrement(ref _users) > 0) return;
        MappedBytes.Leave(_start);
        _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _map.Dispose();
        _file.Dispose();
    }

    private void Read(ReadOnlySpan<byte> header, long dataLength)
    {
        if (JsonSource.BadText(header) is var (_, what)) throw Damaged(what);
        JsonDocument json;
        try
        {
            json = JsonDocument.Parse(header.ToArray());
        }
        catch (JsonException error)
        {
            throw Damaged(JsonSource.Reason(error));
        }
        using (json)
        {
            if (json.RootElement.ValueKind != JsonValueKind.Object) throw Damaged($"it is {JsonSource.Named(json.RootElement)}, not an object of tensors");
            foreach (var item in json.RootElement.EnumerateObject())
            {
                if (item.Name == "__metadata__")
                {
                    if (item.Value.ValueKind != JsonValueKind.Object) throw Damaged($"__metadata__ is {JsonSource.Named(item.Value)}");
                    Metadata = item.Value.EnumerateObject().GroupBy(p => p.Name).ToDictionary(p => p.Key, p => p.Last().Value.ToString());
                    continue;
                }
                var entry = EntryOf(item);
                if (!_entries.TryAdd(entry.Name, entry)) throw Damaged($"tensor '{entry.Name}' stands there twice");
                if (entry.End > dataLength) throw Bad($"is truncated: tensor '{entry.Name}' ends at byte {entry.End} of the data, the file has {dataLength}");
            }
        }
        long end = 0;
        foreach (var entry in _entries.Values.OrderBy(e => e.Begin).ThenBy(e => e.End))
        {
            if (entry.Begin != end) throw Damaged($"tensor '{entry.Name}' begins at byte {entry.Begin} of the data, the one before ends at byte {end}");
            end = entry.End;
        }
        if (end != dataLength) throw Bad($"has {dataLength} bytes of data, but its header describes {end}");
    }

    private TensorEntry EntryOf(JsonProperty item)
    {
        var name = item.Name;
        if (item.Value.ValueKind != JsonValueKind.Object) throw Damaged($"tensor '{name}' is {JsonSource.Named(item.Value)}, not an object");
        if (Numbers(item.Value, "shape") is not { Length: <= MaxDimensions } shape)
            throw Damaged($"tensor '{name}' has no 'shape' of at most {MaxDimensions} whole numbers");
        if (Numbers(item.Value, "data_offsets") is not [var begin, var finish]) throw Damaged($"tensor '{name}' has no 'data_offsets' of two whole numbers");
        var dtype = item.Value.TryGetProperty("dtype", out var text) && text.ValueKind == JsonValueKind.String ? text.ToString()
            : throw Damaged($"tensor '{name}' has no 'dtype'");
        var entry = new TensorEntry(NameOf(name), TypeOf(dtype, name), shape, begin, finish) { StoredName = name };
        if (shape.Any(dim => dim < 0)) throw Bad($"says tensor '{name}' has the shape [{string.Join(", ", shape)}]");
        if (begin < 0) throw Bad($"says tensor '{name}' begins at byte {begin}");
        if (Bytes(entry.Type, shape) is not { } bytes) throw Damaged($"tensor '{name}' with the shape [{string.Join(", ", shape)}] is larger than any file");
        if (finish - begin != bytes) throw Bad($"says tensor '{name}' has {finish - begin} bytes, but {entry.Type}[{string.Join(", ", shape)}] needs {bytes}");
        return entry;
    }

    /// <summary>Null where the product leaves 63 bits.</summary>
    private static long? Bytes(DType type, long[] shape)
    {
        if (shape.Contains(0)) return 0;
        UInt128 bytes = (ulong)type.Size();
        foreach (var dim in shape)
            if ((bytes *= (ulong)dim) > long.MaxValue) return null;
        return (long)bytes;
    }

    private static long[]? Numbers(JsonElement item, string key)
    {
        if (!item.TryGetProperty(key, out var list) || list.ValueKind != JsonValueKind.Array) return null;
        List<long> numbers = [];
        foreach (var element in list.EnumerateArray())
        {
            if (element.ValueKind != JsonValueKind.Number || !element.TryGetInt64(out var number)) return null;
            numbers.Add(number);
        }
        return [.. numbers];
    }

    private DType TypeOf(string text, string tensor) => text switch
    {
        "F32" => DType.F32,
        "BF16" => DType.BF16,
        "F16" => DType.F16,
        "F64" => DType.F64,
        "F8_E4M3" => DType.F8E4M3,
        "I8" => DType.I8,
        "U8" or "BOOL" => DType.U8,
        "I32" => DType.I32,
        "I64" => DType.I64,
        _ => throw Bad($"stores tensor '{tensor}' as {(text.Length <= 20 ? text : text[..20] + "…")}, a type that is not supported"),
    };

    private InvalidDataException Damaged(string how) => Bad($"has a damaged safetensors header: {how}");

    private InvalidDataException Bad(string what) => new($"{Path} {what}");
}
