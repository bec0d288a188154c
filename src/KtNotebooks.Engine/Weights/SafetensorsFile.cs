using System.IO.MemoryMappedFiles;
using System.Text.Json;

using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>One tensor of a safetensors file: type, shape and byte range in the data section.</summary>
public sealed record TensorEntry(string Name, DType Type, long[] Shape, long Begin, long End);

/// <summary>
/// A memory-mapped safetensors file: 8 bytes header length, JSON header, data. Tensors are views on the mapping, so nothing is read before it is used and
/// the operating system may drop pages again.
/// </summary>
public sealed unsafe class SafetensorsFile : IDisposable
{
    private const long MaxHeader = 100_000_000; // the format's own limit
    private readonly MemoryMappedFile _map;
    private readonly MemoryMappedViewAccessor _view;
    private readonly Dictionary<string, TensorEntry> _entries = [];
    private readonly byte* _data;

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

    /// <summary>A view on the mapped bytes; it keeps the mapping alive.</summary>
    public Tensor Get(string name)
    {
        if (!_entries.TryGetValue(name, out var entry)) throw Bad($"has no tensor '{name}'");
        var length = entry.End - entry.Begin;
        return new Tensor(new BorrowedBuffer((nint)(_data + entry.Begin), length, this), 0, entry.Type, entry.Shape);
    }

    public void Dispose()
    {
        _view?.SafeMemoryMappedViewHandle.ReleasePointer();
        _view?.Dispose();
        _map?.Dispose();
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
                var bytes = shape.Aggregate((long)entry.Type.Size(), (product, dim) => checked(product * dim));
                if (entry.Begin < 0 || entry.End - entry.Begin != bytes) throw Bad($"says tensor '{entry.Name}' has {entry.End - entry.Begin} bytes, but {entry.Type}[{string.Join(", ", shape)}] needs {bytes}");
                if (entry.End > dataLength) throw Bad($"is truncated: tensor '{entry.Name}' ends at byte {entry.End} of the data, the file has {dataLength}");
                _entries.Add(entry.Name, entry);
            }
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
