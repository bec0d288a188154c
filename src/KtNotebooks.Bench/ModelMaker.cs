using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>
/// Writes a random checkpoint of a real model's shape: config.json, shards, index; for tests and benchmarks of true sizes without a download. Names and
/// shapes are those that the model's own code asks for. Streamed in pieces of a few megabytes a thread. Formats: bf16; fp8 as DeepSeek-V3 ships it (every
/// linear layer; embedding, head, router and norms stay BF16); int4 as Kimi ships it (routed experts packed, the rest BF16).
/// </summary>
public sealed class ModelMaker
{
    private const float Deviation = 0.02f;
    private const int PieceBytes = 8 << 20;
    private const long ShardBytes = 4_000_000_000;
    private readonly string _folder;
    private readonly RandomCodes _codes;
    private readonly JsonObject _config;
    private readonly List<List<Item>> _shards = [[]];

    /// <param name="shape">One of <see cref="ModelShapes.Known"/>.</param>
    /// <param name="layers">The first layers alone; null: all.</param>
    /// <param name="format">Bf16, fp8 or int4; null: as the shape's config says.</param>
    /// <exception cref="ArgumentException">An unknown shape, too many layers, or a format that does not fit.</exception>
    /// <exception cref="IOException">The folder is in use, or the disk is too small.</exception>
    public ModelMaker(string shape, string folder, int? layers = null, StorageFormat? format = null, ulong seed = 1)
    {
        _folder = Folders.Full(folder, "the random model's folder");
        _config = ModelShapes.Config(shape, layers);
        Format = format ?? (_config.ContainsKey(Quantization.Key) ? StorageFormat.Fp8 : StorageFormat.BF16);
        if (Format != StorageFormat.BF16 && Format.Config is null)
            throw new ArgumentException($"a checkpoint is made as bf16, fp8 or int4; {Format.Name} is made from those while they are loaded");
        if (Directory.Exists(folder) && Directory.EnumerateFileSystemEntries(folder).FirstOrDefault() is { } found)
            throw new IOException($"{folder}: is not empty (there is {Path.GetFileName(found)}); choose a new folder");
        _config.Remove(Quantization.Key);
        if (Format != StorageFormat.BF16) _config[Quantization.Key] = JsonNode.Parse(Format.Config!);
        // The multi-token prediction layer is not made.
        if (_config.ContainsKey("num_nextn_predict_layers")) _config["num_nextn_predict_layers"] = 0;
        _codes = new RandomCodes(seed, Deviation);
        foreach (var (name, dims) in TensorsOf(shape, _config)) Add(name, dims);
        Bytes = _shards.Sum(s => PlanOf(s).FileBytes);
        AtomicFile.RequireSpace(folder, Bytes + 10_000_000);
    }

    public StorageFormat Format { get; }

    /// <summary>Numbers of the model, however they are stored.</summary>
    public long Parameters { get; private set; }

    /// <summary>Bytes of all shards.</summary>
    public long Bytes { get; }

    public int Shards => _shards.Count;

    public void Run(Action<WorkProgress>? report = null, CancellationToken cancel = default)
    {
        Folders.Create(_folder, "the random model's folder");
        var meter = new WorkMeter(Bytes, report);
        var map = new JsonObject();
        for (var s = 0; s < _shards.Count; s++)
        {
            var file = _shards.Count == 1 ? "model.safetensors" : $"model-{s + 1:D5}-of-{_shards.Count:D5}.safetensors";
            Write(file, _shards[s], meter, cancel);
            foreach (var item in _shards[s]) map[item.Name] = file;
        }
        if (_shards.Count > 1) AtomicFile.WriteText(Path.Combine(_folder, "model.safetensors.index.json"), new JsonObject
        {
            ["metadata"] = new JsonObject { ["total_size"] = _shards.Sum(s => PlanOf(s).DataBytes) },
            ["weight_map"] = map,
        }.ToJsonString());
        AtomicFile.WriteText(Path.Combine(_folder, "config.json"), _config.ToJsonString(Indented));
    }

    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Every tensor that the model of a config asks for, in its order.</summary>
    /// <param name="name">Of the config, for errors.</param>
    /// <param name="config">Its fields.</param>
    internal static IReadOnlyList<(string Name, long[] Dims)> TensorsOf(string name, JsonObject config)
    {
        using var model = ModelFolder.Shape(ConfigFile.FromJson(name, config.ToJsonString()));
        return [.. model.AllWeights.Select(p => (p.Name, p.Tensor.Shape.ToArray()))];
    }

    private void Add(string name, long[] dims)
    {
        Parameters += dims.Aggregate(1L, (a, b) => a * b);
        var isExpert = name.Contains(".experts.", StringComparison.Ordinal) && !name.EndsWith("_bias", StringComparison.Ordinal);
        var isLinear = dims.Length == 2 && name is not ("model.embed_tokens.weight" or "lm_head.weight")
            && !name.EndsWith(".gate.weight", StringComparison.Ordinal) && !name.EndsWith(".router.weight", StringComparison.Ordinal)
            && !name.EndsWith("_bias", StringComparison.Ordinal);
        if (Format == StorageFormat.Fp8 && isLinear)
        {
            Place(new Item(name, DType.F8E4M3, dims, StorageFormat.Fp8, 0),
                new Item(name + "_scale_inv", DType.F32, Format.ScaleShape(dims[0], dims[1]), null, _codes.Fp8Scale));
            return;
        }
        if (Format == StorageFormat.Int4 && isExpert)
        {
            if (Format.Refusal(dims[1]) is { } refusal) throw new ArgumentException($"{name}: {refusal}");
            Place(new Item(name + "_packed", DType.I32, [dims[0], dims[1] / 8], StorageFormat.Int4, 0),
                new Item(name + "_scale", DType.BF16, Format.ScaleShape(dims[0], dims[1]), null, _codes.Int4Scale),
                new Item(name + "_shape", DType.I64, [2], null, 0, dims));
            return;
        }
        // The router's correction bias is small and F32; norms are one.
        if (dims.Length == 1) Place(name.EndsWith("bias", StringComparison.Ordinal) ? new Item(name, DType.F32, dims, null, 0)
            : new Item(name, DType.BF16, dims, null, 1));
        else Place(new Item(name, DType.BF16, dims, StorageFormat.BF16, 0));
    }

    /// <summary>Puts items into the current shard, or into a new one when it is full.</summary>
    private void Place(params Item[] items)
    {
        if (_shards[^1].Count > 0 && _shards[^1].Sum(i => i.Bytes) + items.Sum(i => i.Bytes) > ShardBytes) _shards.Add([]);
        _shards[^1].AddRange(items);
    }

    private static SafetensorsPlan PlanOf(List<Item> items) => new([.. items.Select(i => (i.Name, i.Type, i.Dims))]);

    private void Write(string file, List<Item> items, WorkMeter meter, CancellationToken cancel)
    {
        var plan = PlanOf(items);
        using var shard = new ShardFile(Path.Combine(_folder, file), plan);
        List<(Item Item, long At, int Count)> pieces = [];
        foreach (var item in items)
            for (long at = 0; at < item.Bytes; at += PieceBytes) pieces.Add((item, at, (int)Math.Min(PieceBytes, item.Bytes - at)));
        ShardWork.Run(Interop.Cpu.Threads, pieces.Count, () => Tensor.Empty(DType.U8, PieceBytes), (index, memory) =>
        {
            var (item, at, count) = pieces[(int)index];
            var bytes = memory.Span<byte>()[..count];
            item.Fill(_codes, at, bytes);
            shard.Write(item.Name, at, bytes);
            meter.Add(file, count);
        }, cancel);
        shard.Complete();
        meter.Add(file, plan.Header.Length);
    }

    /// <summary>One stored tensor: random codes of a format, or one value (or the numbers given) throughout.</summary>
    private sealed record Item(string Name, DType Type, long[] Dims, StorageFormat? Codes, float Value, long[]? Numbers = null)
    {
        public long Bytes { get; } = Dims.Aggregate((long)Type.Size(), (a, b) => a * b);

        public void Fill(RandomCodes codes, long at, Span<byte> target)
        {
            if (Codes is { } format) codes.Fill(format, Name, at / PieceBytes, target);
            else if (Numbers is not null) System.Runtime.InteropServices.MemoryMarshal.AsBytes(Numbers.AsSpan()).CopyTo(target);
            else if (Type == DType.BF16) System.Runtime.InteropServices.MemoryMarshal.Cast<byte, ushort>(target).Fill(Bf16.FromFloat(Value));
            else System.Runtime.InteropServices.MemoryMarshal.Cast<byte, float>(target).Fill(Value);
        }
    }
}
