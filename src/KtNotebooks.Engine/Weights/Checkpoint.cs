using System.Text.Json;

using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// A model folder as Hugging Face saves it: model.safetensors, or shards with model.safetensors.index.json. A tensor that is stored in the wanted type is a view on the mapped file,
/// so an expert costs no memory of ours until it is used.
/// </summary>
public sealed class Checkpoint : IWeights, IDisposable
{
    private readonly string _folder;
    private readonly Dictionary<string, SafetensorsFile> _fileOf = [];
    private readonly Dictionary<string, SafetensorsFile> _files = [];

    /// <exception cref="FileNotFoundException">The folder, an index or a shard is missing.</exception>
    /// <exception cref="InvalidDataException">A damaged file, or an index that does not fit its shards.</exception>
    public Checkpoint(string folder)
    {
        _folder = folder;
        if (!Directory.Exists(folder)) throw new FileNotFoundException($"{folder}: no such folder; a model folder holds config.json and *.safetensors");
        var index = Path.Combine(folder, "model.safetensors.index.json");
        var single = Path.Combine(folder, "model.safetensors");
        try
        {
            if (File.Exists(index)) ReadIndex(index);
            else if (File.Exists(single))
                foreach (var name in Open("model.safetensors").Entries.Keys) _fileOf.Add(name, _files["model.safetensors"]);
            else throw new FileNotFoundException($"{folder}: neither model.safetensors nor model.safetensors.index.json is there");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public IEnumerable<string> Names => _fileOf.Keys;

    public TensorEntry Entry(string name) => FileOf(name).Entries[name];

    /// <summary>A view on a tensor as it is stored, whatever its type. The caller disposes it.</summary>
    public Tensor Stored(string name) => FileOf(name).Get(name);

    public Tensor Take(string name, DType type, params ReadOnlySpan<long> shape)
    {
        var file = FileOf(name);
        var tensor = file.Get(name);
        if (!tensor.HasShape(shape))
        {
            using (tensor) throw new InvalidDataException($"{file.Path}: tensor '{name}' must be [{string.Join(", ", shape.ToArray())}] by config.json, but is {tensor}");
        }
        if (tensor.Type == type) return tensor;
        using (tensor)
        {
            if (!tensor.Type.IsFloat()) throw new InvalidDataException($"{file.Path}: tensor '{name}' is stored as {tensor.Type}, which cannot be used as {type} yet");
            return tensor.To(type);
        }
    }

    public Matrices TakeExperts(string path, string suffix, DType type, int count, long n, long k)
    {
        var each = new Tensor[count];
        for (var e = 0; e < count; e++) each[e] = Take($"{path}.{e}.{suffix}", type, n, k);
        return Matrices.Each(each);
    }

    public void Dispose()
    {
        // A mapping outlives this as long as a tensor looks at it.
        foreach (var file in _files.Values) file.Dispose();
        _files.Clear();
        _fileOf.Clear();
    }

    private SafetensorsFile FileOf(string name) => _fileOf.TryGetValue(name, out var file) ? file : throw new InvalidDataException($"{_folder}: tensor '{name}' is missing from the checkpoint (expected by config.json)");

    private SafetensorsFile Open(string file)
    {
        if (!_files.TryGetValue(file, out var opened)) _files[file] = opened = new SafetensorsFile(Path.Combine(_folder, file));
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
                if (!_files.ContainsKey(shard) && !File.Exists(Path.Combine(_folder, shard))) throw new FileNotFoundException($"{_folder}: shard {shard} is missing; {Path.GetFileName(path)} names it for '{entry.Name}'");
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
