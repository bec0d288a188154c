using System.IO.MemoryMappedFiles;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json;

using KtNotebooks.Tensors;

using Microsoft.Win32.SafeHandles;

namespace KtNotebooks.Weights;

/// <summary>One tensor of a safetensors file: type, shape and byte range in the data section.</summary>
public sealed record TensorEntry(string Name, DType Type, long[] Shape, long Begin, long End);

/// <summary>
/// A memory-mapped safetensors file: 8 bytes header length, JSON header, data. Tensors are views on the mapping, so nothing is read before it is used and
/// the operating system may drop pages again. The mapping goes when the file has been disposed and the last tensor that looks at it as well.
/// </summary>
public sealed unsafe partial class SafetensorsFile : IDisposable
{
    private const long MaxHeader = 100_000_000; // the format's own limit
    private const int ReadPiece = 16 << 20;
    private const int DontNeed = 4;
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, TensorEntry> _entries = [];
    private readonly byte* _data;
    private int _users = 1; // this object, and one for every tensor handed out
    private int _disposed;

    /// <exception cref="FileNotFoundException">No such file.</exception>
    /// <exception cref="InvalidDataException">Not a safetensors file, truncated, or with a header that does not fit the data.</exception>
    public SafetensorsFile(string path)
    {
        Path = path;
        var info = new FileInfo(path);
        if (!info.Exists) throw new FileNotFoundException($"{path}: no such file", path);
        if (info.Length < 8) throw Bad("is too short for a safetensors header; it may be truncated or a Git LFS pointer");
        _map = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        _view = _map.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
        byte* start = null;
        _view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
        try
        {
            var header = *(long*)start;
            if (header <= 1 || header > MaxHeader) throw Bad($"does not start with a safetensors header length (read {header}); it is another format or damaged");
            if (8 + header > info.Length) throw Bad($"is truncated: its header needs {8 + header} bytes, the file has {info.Length}");
            _data = start + 8 + header;
            DataStart = 8 + header;
            HeaderHash = Convert.ToHexStringLower(SHA256.HashData(new ReadOnlySpan<byte>(start, (int)(8 + header))));
            Read(new ReadOnlySpan<byte>(start + 8, (int)header), info.Length - 8 - header);
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
        Interlocked.Increment(ref _users);
        return new Tensor(new BorrowedBuffer((nint)(_data + entry.Begin), entry.End - entry.Begin, Release), 0, type, shape);
    }

    /// <summary>A copy in memory of our own, read in large pieces in parallel: as fast as the disk or the page cache, and without mapped pages that would count as memory a second time.</summary>
    public Tensor Read(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var entry = Entry(name);
        var tensor = Tensor.Empty(type, shape);
        var (target, bytes) = (tensor.Pointer, tensor.ByteLength);
        if (bytes != entry.End - entry.Begin) throw new ArgumentException($"[SafetensorsFile] {tensor} is not the size of '{name}'");
        using var handle = File.OpenHandle(Path);
        RowParallel.For((bytes + ReadPiece - 1) / ReadPiece, ReadPiece, (first, last) =>
        {
            for (var at = first * ReadPiece; at < Math.Min(last * ReadPiece, bytes); at += ReadPiece)
                ReadAll(handle, new Span<byte>((byte*)target + at, (int)Math.Min(ReadPiece, bytes - at)), DataStart + entry.Begin + at, Path);
        });
        return tensor;
    }

    /// <summary>
    /// Gives the mapped pages of a tensor back to the system. Once read they count as memory of this process; what has been converted is not read again. They stay in the page cache, and whoever reads them again gets them.
    /// </summary>
    public void Drop(string name)
    {
        var (entry, page) = (Entry(name), Environment.SystemPageSize);
        var (first, last) = (((nint)(_data + entry.Begin) + page - 1) / page * page, (nint)(_data + entry.End) / page * page);
        if (OperatingSystem.IsLinux() && last > first) _ = madvise((void*)first, (nuint)(last - first), DontNeed); // advice: where it fails it costs memory, not correctness
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0) Release();
    }

    /// <summary>Fills a span from a place in a file.</summary>
    internal static void ReadAll(SafeFileHandle file, Span<byte> target, long at, string path)
    {
        for (var done = 0; done < target.Length;)
        {
            var count = RandomAccess.Read(file, target[done..], at + done);
            if (count == 0) throw new InvalidDataException($"{path} ended at byte {at + done} while it was read; is it being written?");
            done += count;
        }
    }

    [LibraryImport("libc")]
    private static partial int madvise(void* address, nuint length, int advice);

    private TensorEntry Entry(string name) => _entries.TryGetValue(name, out var entry) ? entry : throw Bad($"has no tensor '{name}'");

    private void Release()
    {
        if (Interlocked.Decrement(ref _users) > 0) return;
        _view.SafeMemoryMappedViewHandle.ReleasePointer();
        _view.Dispose();
        _map.Dispose();
    }

    private void Read(ReadOnlySpan<byte> header, long dataLength)
    {
        try
        {
            using var json = JsonDocument.Parse(header.ToArray());
            foreach (var item in json.RootElement.EnumerateObject())
            {
                if (item.Name == "__metadata__")
                {
                    Metadata = item.Value.EnumerateObject().ToDictionary(p => p.Name, p => p.Value.GetString() ?? "");
                    continue;
                }
                var offsets = item.Value.GetProperty("data_offsets");
                var shape = item.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt64()).ToArray();
                var entry = new TensorEntry(item.Name, TypeOf(item.Value.GetProperty("dtype").GetString(), item.Name), shape, offsets[0].GetInt64(), offsets[1].GetInt64());
                if (shape.Any(dim => dim < 0)) throw Bad($"says tensor '{entry.Name}' has the shape [{string.Join(", ", shape)}]");
                if (entry.Begin < 0) throw Bad($"says tensor '{entry.Name}' begins at byte {entry.Begin}");
                var bytes = shape.Aggregate((long)entry.Type.Size(), (product, dim) => checked(product * dim));
                if (entry.End - entry.Begin != bytes) throw Bad($"says tensor '{entry.Name}' has {entry.End - entry.Begin} bytes, but {entry.Type}[{string.Join(", ", shape)}] needs {bytes}");
                if (entry.End > dataLength) throw Bad($"is truncated: tensor '{entry.Name}' ends at byte {entry.End} of the data, the file has {dataLength}");
                _entries.Add(entry.Name, entry);
            }
            long end = 0;
            foreach (var entry in _entries.Values.OrderBy(e => e.Begin).ThenBy(e => e.End))
            {
                if (entry.Begin != end) throw Bad($"has a damaged safetensors header: tensor '{entry.Name}' begins at byte {entry.Begin} of the data, the one before ends at byte {end}");
                end = entry.End;
            }
            if (end != dataLength) throw Bad($"has {dataLength} bytes of data, but its header describes {end}");
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or FormatException or OverflowException or IndexOutOfRangeException or ArgumentException)
        {
            throw Bad($"has a damaged safetensors header: {error.Message}");
        }
    }

    private DType TypeOf(string? text, string tensor) => text switch
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
        _ => throw Bad($"stores tensor '{tensor}' as {text}, a type that is not supported"),
    };

    private InvalidDataException Bad(string what) => new($"{Path} {what}");
}
