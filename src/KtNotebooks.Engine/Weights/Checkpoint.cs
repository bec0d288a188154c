using System.Security.Cryptography;
using System.Text;
using System.Text.Json;

using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// A model folder as Hugging Face saves it: model.safetensors, or shards with model.safetensors.index.json. A tensor that is stored in the wanted type is a
/// view on the mapped file, so an expert costs no memory of ours until it is used. Low-bit experts stay as they are stored or become what
/// <see cref="FormatOf"/> says; all other low-bit tensors are dequantized when they are taken.
/// </summary>
public sealed class Checkpoint : IWeights, IDisposable
{
    private const string Single = "model.safetensors";
    private readonly Dictionary<string, SafetensorsFile> _fileOf = [];
    private readonly SortedDictionary<string, SafetensorsFile> _files = new(StringComparer.Ordinal);
    private readonly StoredMatrices _matrices;
    private readonly string _prefix = "";

    /// <param name="folder">The folder, or the name of a model in a cache (<see cref="HubCache"/>).</param>
    /// <exception cref="FileNotFoundException">The folder, an index or a shard is missing.</exception>
    /// <exception cref="InvalidDataException">A damaged file, or an index that does not fit its shards.</exception>
    /// <exception cref="NotSupportedException">config.json names a quantisation that is not known.</exception>
    public Checkpoint(string folder)
    {
        Folder = folder = HubCache.Resolve(folder);
        _matrices = new StoredMatrices(this);
        RegularFile.RequireFolder(folder, "a model's folder with config.json and *.safetensors (nothing is downloaded)");
        var config = Path.Combine(folder, "config.json");
        if (File.Exists(config))
        {
            var root = JsonSource.Read(config, "a model's config.json");
            (_prefix, Quantized) = (TextPart.PrefixOf(root), Quantization.Of(root, config));
        }
        var index = Path.Combine(folder, ShardedFolder.IndexName);
        var single = Path.Combine(folder, Single);
        try
        {
            if (Exists(index)) ReadIndex(index);
            else if (Exists(single))
                foreach (var name in Open(Single).Entries.Keys) _fileOf.Add(name, _files[Single]);
            else if (Fp8Conversion.IsUnfinished(folder))
                throw new FileNotFoundException($"{folder}: a conversion into this folder is not finished; give the same `kt convert` again, and it goes on");
            else
            {
                throw new FileNotFoundException($"{folder}: neither {Single} nor {ShardedFolder.IndexName} is there; "
                    + $"the weights belong beside config.json, which alone is enough for `kt plan` only{HubCache.Hint(folder)}");
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public string Folder { get; }

    /// <summary>The low-bit format that config.json announces, or null.</summary>
    public StorageFormat? Quantized { get; }

    /// <summary>Wanted format of the experts below a path (`model.layers.3.mlp.experts`); null: as stored.</summary>
    public Func<string, StorageFormat?> FormatOf { get; init; } = _ => null;

    /// <summary>Whether a tensor, or the experts below a path, are copied into memory of ours; if not, they are mapped.</summary>
    public Func<string, bool> InMemory { get; init; } = _ => false;

    /// <summary>Told the name and bytes of every tensor that is taken.</summary>
    public Action<string, long>? OnTaken { get; init; }

    /// <summary>Of the model's tensors; a <see cref="TextPart"/>'s without what they begin with, and of what is beside it all.</summary>
    public IEnumerable<string> Names => _fileOf.Keys;

    /// <summary>How a tensor is called in its file.</summary>
    public string StoredName(string name) => Entry(name).StoredName;

    /// <summary>The tensor is not of the text model of this checkpoint.</summary>
    public bool IsBeside(string name) => _prefix.Length > 0 && StoredName(name) == name;

    /// <summary>The shards by name.</summary>
    public IReadOnlyDictionary<string, SafetensorsFile> Files => _files;

    /// <summary>Bytes of all tensors.</summary>
    public long Bytes => _files.Values.Sum(f => f.Entries.Values.Sum(e => e.End - e.Begin));

    /// <summary>SHA-256 over the names and headers of all shards: two folders with the same one have the same tensors in the same places.</summary>
    public string HeaderHash =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(string.Join('\n', _files.Select(f => $"{f.Key} {f.Value.HeaderHash}")))));

    public bool Has(string name) => _fileOf.ContainsKey(name);

    /// <summary>Has a tensor of this name, or the codes of a low-bit format for it.</summary>
    public bool HasMatrix(string name) => _matrices.FormatOf(name) is not null || Has(name);

    public TensorEntry Entry(string name) => FileOf(name).Entries[name];

    /// <summary>A view on a tensor as it is stored, whatever its type. The caller disposes it.</summary>
    public Tensor Stored(string name) => FileOf(name).Get(name);

    /// <summary>The scales of an FP8 matrix as F32, in whatever type they are stored. The caller disposes them.</summary>
    public Tensor Fp8Scales(string name)
    {
        var (n, k) = ShapeOf(name);
        return _matrices.Scales(name, StorageFormat.Fp8, n, k, inMemory: true);
    }

    /// <summary>Rows and columns of a matrix, however it is stored.</summary>
    public (long N, long K) ShapeOf(string name)
    {
        var form = _matrices.FormatOf(name)?.Stored;
        var shape = Entry(name + form?.Data).Shape;
        return shape.Length == 2 ? (shape[0], shape[1] * (form?.ElementsEach ?? 1))
            : throw new InvalidDataException($"{FileOf(name).Path}: tensor '{name}' is no matrix: [{string.Join(", ", shape)}]");
    }

    /// <summary>How a projection's matrices are stored, by the first expert's; null: not there.</summary>
    public StorageFormat? StoredFormat(ExpertProjection names) => _matrices.FormatOf(names);

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        if (_matrices.FormatOf(name) is { } format && format.IsLowBit)
        {
            if (shape.Length != 2)
                throw new InvalidDataException($"{Folder}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but is a matrix "
                    + $"of {format.Name}");
            return _matrices.Dequantize(name, format, shape[0], shape[1], type);
        }
        var file = FileOf(name);
        var entry = file.Entries[name];
        if (!shape.SequenceEqual(entry.Shape))
            throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but "
                + $"is {entry.Type}[{string.Join(", ", entry.Shape)}]");
        if (entry.Type == type) return TakeBytes(name, InMemory(name), entry.Type, shape);
        if (!entry.Type.IsFloat())
            throw new InvalidDataException($"{file.Path}: tensor '{name}' is stored as {entry.Type}, which cannot be used as {type} yet");
        using var stored = file.Get(name);
        var converted = stored.To(type);
        Took(file, entry, drop: true);
        return converted;
    }

    public Matrices TakeExperts(ExpertProjection names, DType type, int count, long n, long k) => _matrices.TakeExperts(names, type, count, n, k);

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

    /// <summary>Fails when the scales of an FP8 matrix are missing or cannot be its own.</summary>
    internal void CheckFp8Scales(string name)
    {
        var (n, k) = ShapeOf(name);
        _matrices.CheckScales(name, StorageFormat.Fp8, n, k);
    }

    internal SafetensorsFile FileOf(string name) => _fileOf.TryGetValue(name, out var file) ? file
        : throw new InvalidDataException($"{Folder}: tensor '{name}' is missing from the checkpoint (expected by config.json)");

    /// <summary>Also a link to nothing, a pipe or a folder: what stands there is then named when it is opened, and not called missing.</summary>
    private static bool Exists(string path) => File.Exists(path) || Directory.Exists(path) || new FileInfo(path).LinkTarget is not null;

    private SafetensorsFile Open(string file)
    {
        if (!_files.TryGetValue(file, out var opened)) _files[file] = opened = new SafetensorsFile(Path.Combine(Folder, file), _prefix);
        return opened;
    }

    private void ReadIndex(string path)
    {
        var map = JsonSource.Field(JsonSource.Read(path, "a checkpoint's index"), "weight_map", JsonValueKind.Object, path);
        Dictionary<string, SafetensorsFile> opened = new(StringComparer.Ordinal); // by the name as it is written
        foreach (var entry in map.EnumerateObject())
        {
            var where = $"{path}: weight_map '{entry.Name}'";
            var shard = JsonSource.Text(entry.Value, where);
            if (!opened.TryGetValue(shard, out var file)) opened.Add(shard, file = Open(ShardName(shard, where, entry.Name)));
            var name = file.NameOf(entry.Name);
            if (!file.Entries.ContainsKey(name)) throw new InvalidDataException($"{path}: says '{entry.Name}' is in {shard}, but it is not there");
            if (!_fileOf.TryAdd(name, file)) throw new InvalidDataException($"{path}: names '{entry.Name}' twice");
        }
    }

    /// <summary>A shard's name below the folder, one for each file however it is written.</summary>
    private string ShardName(string shard, string where, string tensor)
    {
        var full = InnerPath.Of(Folder, shard, where);
        if (!shard.EndsWith(".safetensors", StringComparison.Ordinal))
            throw new InvalidDataException($"{where}: '{shard}' must be the name of a *.safetensors file");
        if (!Exists(full)) throw new FileNotFoundException($"{Folder}: shard {shard} is missing; {ShardedFolder.IndexName} names it for "
                + $"'{tensor}'{HubCache.Hint(Folder)}");
        return Path.GetRelativePath(Folder, full);
    }
}
