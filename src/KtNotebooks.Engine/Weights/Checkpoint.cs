using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// A model folder as Hugging Face saves it: model.safetensors, or shards with model.safetensors.index.json. A tensor that is stored in the wanted type is a view on the mapped file,
/// so an expert costs no memory of ours until it is used. Low-bit experts stay as they are stored or become what <see cref="FormatOf"/> says; all other low-bit tensors are decoded when they are taken.
/// </summary>
public sealed class Checkpoint : IWeights, IDisposable
{
    private readonly Dictionary<string, SafetensorsFile> _fileOf = [];
    private readonly SortedDictionary<string, SafetensorsFile> _files = new(StringComparer.Ordinal);
    private readonly StoredMatrices _matrices;

    /// <exception cref="FileNotFoundException">The folder, an index or a shard is missing.</exception>
    /// <exception cref="InvalidDataException">A damaged file, or an index that does not fit its shards.</exception>
    /// <exception cref="NotSupportedException">config.json names a quantisation that is not known.</exception>
    public Checkpoint(string folder)
    {
        Folder = folder;
        _matrices = new StoredMatrices(this);
        if (!Directory.Exists(folder)) throw new FileNotFoundException($"{folder}: no such folder; a model is a folder on this machine that holds config.json and *.safetensors (nothing is downloaded)");
        Quantized = Quantization.Read(folder);
        var index = Path.Combine(folder, "model.safetensors.index.json");
        var single = Path.Combine(folder, "model.safetensors");
        try
        {
            if (File.Exists(index)) ReadIndex(index);
            else if (File.Exists(single))
                foreach (var name in Open("model.safetensors").Entries.Keys) _fileOf.Add(name, _files["model.safetensors"]);
            else if (Fp8Conversion.IsUnfinished(folder)) throw new FileNotFoundException($"{folder}: a conversion into this folder is not finished; give the same `kt convert` again, and it goes on");
            else throw new FileNotFoundException($"{folder}: neither model.safetensors nor model.safetensors.index.json is there; the weights belong beside config.json, which alone is enough for `kt plan` only");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public string Folder { get; }

    /// <summary>The low-bit format that config.json announces, or null.</summary>
    public MatrixFormat? Quantized { get; }

    /// <summary>Wanted format of the experts below a path (`model.layers.3.mlp.experts`); null: as stored.</summary>
    public Func<string, MatrixFormat?> FormatOf { get; init; } = _ => null;

    /// <summary>Whether a tensor, or the experts below a path, are copied into memory of ours; if not, they are mapped.</summary>
    public Func<string, bool> InMemory { get; init; } = _ => false;

    /// <summary>Told the name and bytes of every tensor that is taken.</summary>
    public Action<string, long>? OnTaken { get; init; }

    public IEnumerable<string> Names => _fileOf.Keys;

    /// <summary>The shards by name.</summary>
    public IReadOnlyDictionary<string, SafetensorsFile> Files => _files;

    /// <summary>Bytes of all tensors.</summary>
    public long Bytes => _files.Values.Sum(f => f.Entries.Values.Sum(e => e.End - e.Begin));

    /// <summary>SHA-256 over the names and headers of all shards: two folders with the same one have the same tensors in the same places.</summary>
    public string HeaderHash => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', _files.Select(f => $"{f.Key} {f.Value.HeaderHash}")))));

    public bool Has(string name) => _fileOf.ContainsKey(name);

    public TensorEntry Entry(string name) => FileOf(name).Entries[name];

    /// <summary>A view on a tensor as it is stored, whatever its type. The caller disposes it.</summary>
    public Tensor Stored(string name) => FileOf(name).Get(name);

    /// <summary>Rows and columns of a matrix, however it is stored.</summary>
    public (long N, long K) ShapeOf(string name)
    {
        var packed = _matrices.FormatOf(name) == MatrixFormat.Int4;
        var shape = Entry(packed ? name + StoredMatrices.Packed : name).Shape;
        return shape.Length == 2 ? (shape[0], packed ? shape[1] * 8 : shape[1]) : throw new InvalidDataException($"{FileOf(name).Path}: tensor '{name}' is no matrix: [{string.Join(", ", shape)}]");
    }

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        if (_matrices.FormatOf(name) is { } format && format.IsLowBit())
        {
            if (shape.Length != 2) throw new InvalidDataException($"{Folder}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but is a matrix of {format.Name()}");
            return _matrices.Decode(name, format, shape[0], shape[1], type);
        }
        var file = FileOf(name);
        var entry = file.Entries[name];
        if (!shape.SequenceEqual(entry.Shape)) throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but is {entry.Type}[{string.Join(", ", entry.Shape)}]");
        if (entry.Type == type) return TakeBytes(name, InMemory(name), entry.Type, shape);
        if (!entry.Type.IsFloat()) throw new InvalidDataException($"{file.Path}: tensor '{name}' is stored as {entry.Type}, which cannot be used as {type} yet");
        using var stored = file.Get(name);
        var converted = stored.To(type);
        Took(file, entry, drop: true);
        return converted;
    }

    public Matrices TakeExperts(string path, string suffix, DType type, int count, long n, long k) => _matrices.TakeExperts(path, suffix, type, count, n, k);

    public void Dispose()
    {
        // A mapping outlives this as long as a tensor looks at it.
        foreach (var file in _files.Values) file.Dispose();
        _files.Clear();
        _fileOf.Clear();
    }

    /// <summary>A tensor's bytes, mapped or copied, under a type and shape of the same size.</summary>
    internal Tensor TakeBytes(string name, bool inMemory, DType type, params ReadOnlySpan<long> shape)
    {
        var file = FileOf(name);
        if (inMemory) HostMemory.Require(file.Entries[name].End - file.Entries[name].Begin);
        var tensor = inMemory ? file.Read(name, type, shape) : file.Get(name, type, shape);
        Took(file, file.Entries[name], drop: false);
        return tensor;
    }

    /// <summary>Counts a tensor as taken; <paramref name="drop"/>: it has been converted, its mapped pages may go.</summary>
    internal void Took(SafetensorsFile file, TensorEntry entry, bool drop)
    {
        if (drop) file.Drop(entry.Name);
        OnTaken?.Invoke(entry.Name, entry.End - entry.Begin);
    }

    internal SafetensorsFile FileOf(string name) => _fileOf.TryGetValue(name, out var file) ? file : throw new InvalidDataException($"{Folder}: tensor '{name}' is missing from the checkpoint (expected by config.json)");

    private SafetensorsFile Open(string file)
    {
        if (!_files.TryGetValue(file, out var opened)) _files[file] = opened = new SafetensorsFile(Path.Combine(Folder, file));
        return opened;
    }

    private void ReadIndex(string path)
    {
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(path));
            foreach (var entry in json.RootElement.GetProperty("weight_map").EnumerateObject())
            {
                var shard = entry.Value.GetString() ?? "";
                if (!_files.ContainsKey(shard) && !File.Exists(Path.Combine(Folder, shard))) throw new FileNotFoundException($"{Folder}: shard {shard} is missing; {Path.GetFileName(path)} names it for '{entry.Name}'");
                var file = Open(shard);
                if (!file.Entries.ContainsKey(entry.Name)) throw new InvalidDataException($"{path}: says '{entry.Name}' is in {shard}, but it is not there");
                _fileOf.Add(entry.Name, file);
            }
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or ArgumentException)
        {
            throw new InvalidDataException($"{path}: damaged index: {error.Message}");
        }
    }
}
