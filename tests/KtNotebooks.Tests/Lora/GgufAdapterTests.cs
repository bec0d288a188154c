using System.Text;

using KtNotebooks.Lora;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>Adapters as llama.cpp's converter writes them; the files are written here byte by byte.</summary>
[Collection("cpu variant")] // bits are compared: nobody may change the kernels meanwhile
public sealed class GgufAdapterTests : IDisposable
{
    private const uint F32 = 0, F16 = 1, Q8 = 8, BF16 = 30;

    /// <summary>llama.cpp's names, by the end of ours.</summary>
    private static readonly (string Ours, string Theirs)[] Names =
    [
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_a_proj", "attn_q_a"), ("self_attn.q_b_proj", "attn_q_b"),
        ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"), ("self_attn.kv_b_proj", "attn_kv_b"), ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
        ("mlp.shared_experts.down_proj", "ffn_down_shexp"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
    ];

    private readonly Samples.Folder _folder = new();

    private string File => Path.Combine(_folder.Path, "adapter.gguf");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("deepseek_v2_lite", F32, F32)]
    [InlineData("deepseek_v3", F16, BF16)]
    [InlineData("qwen3_moe", Q8, F16)]
    public void The_reference_s_adapter_as_llama_cpp_writes_it(string name, uint typeOfA, uint typeOfB)
    {
        var tensors = Gguf(name, typeOfA, typeOfB);
        Write(Pairs(16), tensors);
        using var model = AdapterFormsTests.Load(name);
        List<string> lines = [];
        var settings = AdapterFolder.Load(model, File, lines.Add);
        Assert.Equal((4, 4f), (settings.Rank, settings.Scale));
        Assert.Contains("Loaded adapter weight: blk.1.attn_output.weight.lora_a -> model.layers.1.self_attn.o_proj.lora_A.default.weight", lines);
        Assert.Contains("Loaded adapter weight: blk.1.ffn_up_exps.weight.lora_b[2] -> model.layers.1.mlp.experts.2.up_proj.lora_B.default.weight", lines);
        // Every value is what its code means.
        foreach (var (ours, tensor) in AdapterTensors.Of(model).Select(t => (t.Name, t.Tensor)))
        {
            using var view = tensor;
            Assert.Equal(_meant[ours], tensor.ToFloats());
        }
        // rounding moves tokens to other experts
        AdapterFormsTests.Close(AdapterFormsTests.Expected(name), AdapterFormsTests.Logits(model, name), typeOfA == F32 ? 2e-4 : 0.3);
    }

    [Fact]
    public void Ranks_may_differ_and_alpha_0_is_a_scale_of_1()
    {
        var a = Enumerable.Range(0, 2 * 64).Select(i => i * 0.01f).ToArray();
        var b = Enumerable.Range(0, 128 * 2).Select(i => i * 0.02f).ToArray();
        var tensors = Gguf("qwen3_moe", F32, F32);
        tensors["blk.0.attn_q.weight.lora_a"] = ([2, 64], F32, a);
        tensors["blk.0.attn_q.weight.lora_b"] = ([128, 2], F32, b);
        Write(Pairs(0), tensors);
        using var model = AdapterFormsTests.Load("qwen3_moe");
        var settings = AdapterFolder.Load(model, File);
        Assert.Equal((4, 1f, 2, 1f), (settings.Rank, settings.Scale, settings.RankOf("model.layers.0.self_attn.q_proj"),
            settings.ScaleOf("model.layers.0.self_attn.q_proj")));
        var pair = model.All().OfType<KtNotebooks.Nn.Linear>().Single(l => l.Path == "model.layers.0.self_attn.q_proj").Adapter!;
        Assert.Equal(a, pair.A.ToFloats());
        Assert.Equal(b, pair.B.ToFloats());
        Assert.Equal(1f, pair.Scale);
    }

    [Fact]
    public void The_same_in_PEFT_s_form()
    {
        Write(Pairs(16), Gguf("qwen3_moe", F32, F32));
        using (var source = AdapterSource.Open(File)) source.Save(Path.Combine(_folder.Path, "peft"), ExpertForm.Each);
        using var ours = new SafetensorsFile(Path.Combine(_folder.Path, "peft", "adapter_model.safetensors"));
        using var reference = new SafetensorsFile(Path.Combine(GoldenTests.Of("qwen3_moe"), "adapter_init.safetensors"));
        Assert.Equal(reference.Entries.Keys.Order(StringComparer.Ordinal), ours.Entries.Keys);
        foreach (var name in ours.Entries.Keys)
        {
            using var x = reference.Get(name);
            using var y = ours.Get(name);
            Assert.Equal(x.ToFloats(), y.ToFloats());
        }
    }

    [Fact]
    public void What_is_wrong_is_one_line()
    {
        var good = Gguf("qwen3_moe", F32, F32);
        Dictionary<string, (long[], uint, float[])> With(string name, long[] shape, uint type = F32) =>
            new(good) { [name] = (shape, type, new float[shape.Aggregate(1L, (p, d) => p * d)]) };
        Refuses($"{File} is no GGUF file: it does not start with GGUF", () => System.IO.File.WriteAllText(File, new string('x', 100)));
        Refuses($"{File}: is a GGUF file of type 'model'; expected is an adapter", () => Write([("general.type", "model")], good));
        Refuses($"{File}: 'adapter.lora.alpha' is missing", () => Write(Pairs(16)[..3], good));
        Refuses($"{File}: 'adapter.lora.alpha' is no number", () => Write([.. Pairs(16)[..3], ("adapter.lora.alpha", "16")], good));
        Refuses($"{File}: lora_alpha must lie between -1,000,000 and 1,000,000, but is ", () => Write(Pairs(1e38f), good));
        Refuses($"{File}: lora_alpha must lie between -1,000,000 and 1,000,000, but is NaN", () => Write(Pairs(float.NaN), good));
        Refuses($"{File}: has 'adapter.alora.invocation_tokens', which is not supported",
            () => Write([.. Pairs(16), ("adapter.alora.invocation_tokens", 1f)], good));
        Refuses($"{File}: holds no tensor", () => Write(Pairs(16), []));
        Refuses($"{File}: tensor 'blk.0.ffn_up_exps.weight.lora_a' has 5,000 experts; 4,096 are the most",
            () => Write(Pairs(16), With("blk.0.ffn_up_exps.weight.lora_a", [5000, 1, 1])));
        Refuses($"{File}: tensor 'blk.9.attn_q.weight.lora_a' fits no linear layer of this model, which has 3 layers",
            () => Write(Pairs(16), With("blk.9.attn_q.weight.lora_a", [4, 64])));
        Refuses($"{File}: tensor 'blk.0.attn_q.weight' is not named as llama.cpp names halves of pairs, blk.N.NAME.weight.lora_a",
            () => Write(Pairs(16), With("blk.0.attn_q.weight", [4, 64])));
        Refuses($"{File}: tensor 'blk.0.ffn_gate_inp.weight.lora_a' belongs to 'ffn_gate_inp', which has no pair here; known are output, attn_q",
            () => Write(Pairs(16), With("blk.0.ffn_gate_inp.weight.lora_a", [4, 64])));
        Refuses($"{File}: tensor 'blk.0.ffn_up_exps.weight.lora_a' must have 3 dimensions, experts first, but is [4, 64]",
            () => Write(Pairs(16), With("blk.0.ffn_up_exps.weight.lora_a", [4, 64])));
        Refuses($"{File}: tensor 'blk.0.attn_q.weight.lora_b' must be [128, 4] for this base and rank 4, but is F32[96, 4]",
            () => Write(Pairs(16), With("blk.0.attn_q.weight.lora_b", [96, 4])));
        Refuses($"{File}: tensor 'blk.0.attn_q.weight.lora_a' must be [4, 64] for this base and rank 4, but is ggml type 12[4, 64]",
            () => Write(Pairs(16), With("blk.0.attn_q.weight.lora_a", [4, 64], 12)));
        Refuses($"{File} is truncated: tensor ", () =>
        {
            Write(Pairs(16), good);
            var bytes = System.IO.File.ReadAllBytes(File);
            System.IO.File.WriteAllBytes(File, bytes[..^4000]);
        });
    }

    private void Refuses(string message, Action write)
    {
        write();
        using var model = AdapterFormsTests.Load("qwen3_moe");
        var error = Assert.ThrowsAny<Exception>(() => AdapterFolder.Load(model, File));
        Assert.StartsWith(message, error.Message, StringComparison.Ordinal);
        Assert.Empty(model.AllTrainable);
    }

    private static (string, object)[] Pairs(float alpha) =>
        [("general.type", "adapter"), ("general.architecture", "qwen3moe"), ("adapter.type", "lora"), ("adapter.lora.alpha", alpha)];

    private readonly Dictionary<string, float[]> _meant = [];

    /// <summary>The golden adapter under llama.cpp's names, experts stacked.</summary>
    private Dictionary<string, (long[] Shape, uint Type, float[] Values)> Gguf(string golden, uint typeOfA, uint typeOfB)
    {
        using var file = new SafetensorsFile(Path.Combine(GoldenTests.Of(golden), "adapter_init.safetensors"));
        var all = new Dictionary<string, (long[] Shape, uint Type, float[] Values)>();
        foreach (var entry in file.Entries.Values.OrderBy(e => e.Name.Contains(".experts.", StringComparison.Ordinal) ? int.Parse(e.Name.Split('.')[7]) : -1))
        {
            using var tensor = file.Get(entry.Name);
            var words = entry.Name.Split('.');
            var half = words[^2] == "lora_A" ? "a" : "b";
            var type = half == "a" ? typeOfA : typeOfB;
            var values = tensor.ToFloats();
            _meant[entry.Name] = Meant(values, type);
            var module = string.Join('.', words[5..^2]);
            if (words[6] != "experts")
            {
                all.Add($"blk.{words[4]}.{Names.Single(n => n.Ours == module).Theirs}.weight.lora_{half}", (entry.Shape, type, values));
                continue;
            }
            var name = $"blk.{words[4]}.ffn_{words[8].Split('_')[0]}_exps.weight.lora_{half}";
            var before = all.GetValueOrDefault(name, ([0, .. entry.Shape], type, []));
            all[name] = ([before.Shape[0] + 1, .. entry.Shape], type, [.. before.Values, .. values]);
        }
        return all;
    }

    /// <summary>The values that the codes stand for.</summary>
    private static float[] Meant(float[] values, uint type) => type switch
    {
        F16 => Array.ConvertAll(values, v => (float)(Half)v),
        BF16 => Array.ConvertAll(values, Tensors.Bf16.Round),
        Q8 => [.. values.Chunk(32).SelectMany(b =>
            b.Select(v => Scale(b) == 0 ? 0 : (float)(Half)Scale(b) * (sbyte)MathF.Round(v / Scale(b), MidpointRounding.AwayFromZero)))],
        _ => values,
    };

    private static float Scale(float[] block) => block.Max(Math.Abs) / 127;

    private void Write((string Key, object Value)[] pairs, Dictionary<string, (long[] Shape, uint Type, float[] Values)> tensors)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        void Text(string text)
        {
            writer.Write((ulong)Encoding.UTF8.GetByteCount(text));
            writer.Write(Encoding.UTF8.GetBytes(text));
        }
        writer.Write("GGUF"u8);
        writer.Write(3u);
        writer.Write((ulong)tensors.Count);
        writer.Write((ulong)pairs.Length + 1);
        Text("tokens"); // a list, to be passed over
        writer.Write(9u);
        writer.Write(8u);
        writer.Write(2ul);
        Text("a");
        Text("bc");
        foreach (var (key, value) in pairs)
        {
            Text(key);
            if (value is string text)
            {
                writer.Write(8u);
                Text(text);
            }
            else
            {
                writer.Write(6u);
                writer.Write((float)value);
            }
        }
        var data = new MemoryStream();
        foreach (var (name, (shape, type, values)) in tensors)
        {
            while (data.Length % 32 != 0) data.WriteByte(0);
            Text(name);
            writer.Write((uint)shape.Length);
            foreach (var dim in shape.Reverse()) writer.Write((ulong)dim);
            writer.Write(type);
            writer.Write((ulong)data.Length);
            data.Write(Codes(values, type));
        }
        while (stream.Length % 32 != 0) writer.Write((byte)0);
        writer.Write(data.ToArray());
        System.IO.File.WriteAllBytes(File, stream.ToArray());
    }

    private static byte[] Codes(float[] values, uint type) => type switch
    {
        F16 => [.. values.SelectMany(v => BitConverter.GetBytes((Half)v))],
        BF16 => [.. values.SelectMany(v => BitConverter.GetBytes(Tensors.Bf16.FromFloat(v)))],
        Q8 => [.. values.Chunk(32).SelectMany(b =>
            (byte[])[.. BitConverter.GetBytes((Half)Scale(b)),
                .. b.Select(v => (byte)(sbyte)(Scale(b) == 0 ? 0 : MathF.Round(v / Scale(b), MidpointRounding.AwayFromZero)))])],
        _ => [.. values.SelectMany(BitConverter.GetBytes)],
    };
}
