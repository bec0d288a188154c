using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Server;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Bench;

/// <summary>What `kt bench serve --shape` serves.</summary>
/// <param name="Shape">A name of <see cref="ModelShapes"/>.</param>
/// <param name="Layers">The first so many layers; null: all.</param>
/// <param name="Executor">Where the experts are computed.</param>
/// <param name="Format">How they are stored.</param>
/// <param name="Device">Where everything else is.</param>
/// <param name="SlotBytes">Device memory for experts on their way.</param>
/// <param name="Adapters">Named adapters beside the base, on all linears and all routed experts.</param>
/// <param name="Rank">Of each.</param>
public sealed record ServedShapeSettings(string Shape, int? Layers, ExecutorKind Executor, StorageFormat Format, Device Device, long SlotBytes, int Adapters,
    int Rank = 8);

/// <summary>A model of true shape behind the engine of the server, with made-up weights, adapters and as many tokens as the shape has.</summary>
public sealed class ServedShape : IDisposable
{
    private readonly BenchmarkModel _made;

    /// <param name="settings">What is served.</param>
    /// <param name="slots">Sequences at once.</param>
    /// <param name="note">Told what was measured on the way.</param>
    public ServedShape(ServedShapeSettings settings, int slots, Action<string> note)
    {
        ArgumentNullException.ThrowIfNull(settings);
        _made = new BenchmarkModel(settings.Shape, settings.Layers, settings.Executor, settings.Format, settings.SlotBytes, (_, _) => settings.Device,
            (_, _) => { }, note);
        try
        {
            for (var i = 1; i <= settings.Adapters; i++) Adapt(_made.Model, $"adapter-{i}", settings.Rank, i);
            Engine = new ModelEngine(_made.Model, Tokens(_made.Model.Info.Vocabulary), Templates.Get("empty"), new EngineSettings
            {
                BaseName = "base",
                Slots = slots,
            });
        }
        catch
        {
            _made.Dispose();
            throw;
        }
    }

    public ModelEngine Engine { get; }

    public void Dispose()
    {
        Engine.Dispose();
        _made.Dispose();
    }

    /// <summary>Puts a random adapter under a name, on all linears and all routed experts.</summary>
    internal static void Adapt(CausalLm model, string name, int rank, int seed, float deviation = 0.02f)
    {
        var settings = new LoraSettings(rank, Experts: true);
        var values = new float[(1 << 20) - 3]; // two tensors begin alike, but do not go on so
        new NormalRandom((ulong)seed, "adapter").Fill(values, deviation);
        Tensor Filled(Tensor target)
        {
            using var host = Tensor.Empty(DType.F32, target.Shape);
            var all = host.Span<float>();
            for (var at = 0; at < all.Length; at += values.Length) values.AsSpan(0, Math.Min(values.Length, all.Length - at)).CopyTo(all[at..]);
            Memory.Copy(host, target);
            return target;
        }
        foreach (var module in LoraAdapter.Adapted(model, settings))
        {
            var (ranks, scale) = LoraAdapter.RanksOf(module, settings);
            module.Named.Add(name, module.MakeAdapter([.. module.Targets.Zip(ranks, (t, r) =>
                (Filled(module.EmptyLora(t.Shape(r, t.Inputs))), Filled(module.EmptyLora(t.Shape(t.Outputs, r)))))], scale, 0));
        }
        WeightVersion.Change();
    }

    /// <summary>A tokenizer of made-up words: the bytes, then words until the vocabulary is full; the last token ends a text.</summary>
    private static Tokenizer Tokens(int vocabulary)
    {
        const string End = "<|end|>";
        if (vocabulary <= 256) throw new ArgumentException($"the shape's vocab_size is {vocabulary}; a server needs the 256 bytes and an end");
        using var cut = JsonDocument.Parse("""{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}""");
        string?[] tokens = [.. Enumerable.Range(0, 256).Select(b => ByteLevel.CharOf((byte)b).ToString()),
            .. Enumerable.Range(256, vocabulary - 257).Select(i => $"{ByteLevel.CharOf((byte)' ')}w{i}")];
        return new Tokenizer(new TokenizerParts("made-up tokens", new BpeModel(tokens, [], ignoreMerges: false),
            [new AddedToken(vocabulary - 1, End, Special: true)], null, TokenizerComponents.ReadPreTokenizer(cut.RootElement), [], [],
            new Dictionary<string, JsonElement>(), new JsonObject { ["eos_token"] = End }));
    }
}
