using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Tensors;

namespace KtNotebooks.Weights;

/// <summary>
/// A checkpoint's folder as Hugging Face writes it: model.safetensors, or model-0000x-of-…safetensors with model.safetensors.index.json, and the files beside
/// the weights. One tensor is in memory at a time.
/// </summary>
public static class ShardedFolder
{
    public const string IndexName = "model.safetensors.index.json";

    /// <summary>LLaMA-Factory's and transformers' size of a shard.</summary>
    public const long ShardBytes = 5_000_000_000;

    internal static readonly JsonSerializerOptions Indented = new()
    {
        WriteIndented = true,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    /// <summary>Cuts groups of tensors that stay together into shards.</summary>
    public static IReadOnlyList<IReadOnlyList<NewTensor>> Cut(IEnumerable<IReadOnlyList<NewTensor>> groups, long shardBytes)
    {
        ArgumentNullException.ThrowIfNull(groups);
        List<List<NewTensor>> shards = [[]];
        long bytes = 0;
        foreach (var group in groups)
        {
            var size = group.Sum(t => t.Bytes);
            if (bytes > 0 && bytes + size > shardBytes)
            {
                shards.Add([]);
                bytes = 0;
            }
            shards[^1].AddRange(group);
            bytes += size;
        }
        return shards;
    }

    /// <summary>Writes shards and their index.</summary>
    /// <param name="folder">Is there.</param>
    /// <param name="make">Makes a tensor, in host memory.</param>
    /// <param name="storedName">How a tensor is called in the files.</param>
    /// <param name="onShard">Told shards written, shards in all.</param>
    /// <param name="cancel">Looked at between tensors.</param>
    public static void Write(string folder, IReadOnlyList<IReadOnlyList<NewTensor>> shards, Func<NewTensor, Tensor> make, Func<string, string> storedName,
        Action<int, int>? onShard = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(shards);
        ArgumentNullException.ThrowIfNull(make);
        ArgumentNullException.ThrowIfNull(storedName);
        var map = new SortedDictionary<string, string>(StringComparer.Ordinal);
        for (var i = 0; i < shards.Count; i++)
        {
            var (shard, file) = (shards[i], shards.Count == 1 ? "model.safetensors" : $"model-{i + 1:D5}-of-{shards.Count:D5}.safetensors");
            SafetensorsWriter.Write(Path.Combine(folder, file), [.. shard.Select(t => (storedName(t.Name), t.Type, t.Shape))], t =>
            {
                cancel.ThrowIfCancellationRequested();
                return make(shard[t]);
            });
            foreach (var tensor in shard) map.Add(storedName(tensor.Name), file);
            onShard?.Invoke(i + 1, shards.Count);
        }
        if (shards.Count == 1) return;
        var index = new JsonObject
        {
            ["metadata"] = new JsonObject { ["total_size"] = shards.Sum(s => s.Sum(t => t.Bytes)) },
            ["weight_map"] = new JsonObject(map.Select(e => KeyValuePair.Create(e.Key, (JsonNode?)e.Value))),
        };
        AtomicFile.WriteText(Path.Combine(folder, IndexName), index.ToJsonString(Indented) + "\n");
    }

    /// <summary>config.json, tokenizer, generation settings, model code: the files of a model's folder that are no weights, and what is left out.</summary>
    public static (IReadOnlyList<FolderFile> Files, IReadOnlyList<string> LeftOut) BesideWeights(string model)
    {
        var (files, leftOut) = FolderFiles.Of(model);
        return ([.. files.Where(f => f.Name != IndexName
            && Path.GetExtension(f.Name) is not (".safetensors" or ".bin" or ".pt" or ".pth" or ".gguf" or ".tmp"))], leftOut);
    }

    /// <summary>Copies such files.</summary>
    /// <param name="changed">The text of a file that is not copied as it is; null: as it is.</param>
    public static void Copy(IReadOnlyList<FolderFile> files, string folder, string key, Func<FolderFile, string?>? changed = null)
    {
        ArgumentNullException.ThrowIfNull(files);
        foreach (var file in files)
        {
            var target = Path.Combine(folder, file.Name);
            if (Path.GetDirectoryName(target) is { } parent && parent != folder) Folders.Create(parent, key);
            if (changed?.Invoke(file) is { } text)
            {
                AtomicFile.WriteText(target, text);
                continue;
            }
            using var stream = RegularFile.Open(file.Source, "a file of the model");
            AtomicFile.Write(target, file.Bytes, copy => stream.CopyTo(copy));
        }
    }
}

/// <summary>A tensor that will be written.</summary>
public sealed record NewTensor(string Name, DType Type, long[] Shape)
{
    public long Bytes => Shape.Aggregate((long)Type.Size(), (product, dim) => product * dim);
}
