using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>Models that stay in low bits: as stored (FP8, packed 4 bits), or quantised while they are loaded.</summary>
[Collection("cpu variant")]
public sealed class LowBitCheckpointTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Source => Path.Combine(_folder.Path, "source");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Training_on_an_FP8_base_has_the_bits_of_training_on_the_converted_one()
    {
        LowBitFolder.Save(Source, StorageFormat.Fp8);
        var converted = Path.Combine(_folder.Path, "converted");
        using (var conversion = new Fp8Conversion(Source, converted)) conversion.Run(cancel: TestContext.Current.CancellationToken);
        var (direct, directLoss) = Train(Source, StorageFormat.Fp8);
        var (plain, plainLoss) = Train(converted, StorageFormat.BF16);
        Assert.Equal(plainLoss, directLoss);
        Assert.Equal(plain.Keys, direct.Keys);
        foreach (var (name, gradient) in plain) Assert.Equal(gradient, direct[name]);
        Assert.Contains(plain, g => g.Key.Contains("experts", StringComparison.Ordinal) && g.Value.Any(v => v != 0));
    }

    /// <summary>Qwen3's FP8 releases store their scales in BF16; the numbers are the same, so all that is made of them is.</summary>
    [Theory]
    [InlineData(DType.BF16)]
    [InlineData(DType.F16)]
    public void The_type_of_FP8_scales_changes_nothing(DType type)
    {
        LowBitFolder.Save(Source, StorageFormat.Fp8);
        LowBitFolder.StoreScalesAs(Source, DType.F32);
        var narrow = Path.Combine(_folder.Path, "narrow");
        Checkout.Copy(Source, narrow);
        LowBitFolder.StoreScalesAs(narrow, type);
        foreach (var inMemory in new[] { false, true })
        {
            using var wide = new Checkpoint(Source) { InMemory = _ => inMemory };
            using var other = new Checkpoint(narrow) { InMemory = _ => inMemory };
            var (a, b) = (wide.TakeExperts(new("model.layers.1.mlp.experts", "up_proj"), DType.BF16, 4, 18, 40),
                other.TakeExperts(new("model.layers.1.mlp.experts", "up_proj"), DType.BF16, 4, 18, 40));
            for (var e = 0; e < 4; e++) Assert.Equal(a.ToFloats(e, DType.F32), b.ToFloats(e, DType.F32));
            a.DisposeEach();
            b.DisposeEach();
            const string Dense = "model.layers.0.mlp.up_proj.weight";
            using var x = wide.Take(Dense, DType.BF16, 44, 40);
            using var y = other.Take(Dense, DType.BF16, 44, 40);
            Assert.Equal(x.ToFloats(), y.ToFloats());
        }
        var (gradients, loss) = Train(Source, StorageFormat.Fp8);
        var (narrowGradients, narrowLoss) = Train(narrow, StorageFormat.Fp8);
        Assert.Equal(loss, narrowLoss);
        foreach (var (name, gradient) in gradients) Assert.Equal(gradient, narrowGradients[name]);
        foreach (var folder in new[] { Source, narrow })
        {
            using var conversion = new Fp8Conversion(folder, folder + "-bf16");
            conversion.Run(cancel: TestContext.Current.CancellationToken);
        }
        foreach (var file in Directory.GetFiles(Source + "-bf16", "*.safetensors"))
            Assert.Equal(File.ReadAllBytes(file), File.ReadAllBytes(Path.Combine(narrow + "-bf16", Path.GetFileName(file))));
    }

    [Fact]
    public void FP8_scales_of_another_type_or_shape_are_named()
    {
        LowBitFolder.Save(Source, StorageFormat.Fp8);
        var shard = Path.Combine(Source, "model-00002-of-00002.safetensors");
        using (var file = new SafetensorsFile(shard))
        {
            List<(string Name, Tensor Tensor)> scales = [.. file.Entries.Keys.Select(n => (n, Tensor.From([1], 1)))];
            SafetensorsWriter.Write(shard, scales);
            foreach (var (_, scale) in scales) scale.Dispose();
        }
        Assert.Matches($@"^{shard}: tensor 'model\.layers\.\d.*_scale_inv' must be F32, BF16 or F16 \[1, 1\], but is I32\[1\]$",
            Assert.Throws<InvalidDataException>(() => new Fp8Conversion(Source, Source + "-bf16")).Message);
        Assert.Matches("_scale_inv' must be F32, BF16 or F16", Assert.Throws<InvalidDataException>(() => ModelFolder.Load(Source).Dispose()).Message);
    }

    [Fact]
    public void Packed_4_bits_are_used_as_they_are_stored()
    {
        LowBitFolder.Save(Source, StorageFormat.Int4);
        using var checkpoint = new Checkpoint(Source);
        const string path = "model.layers.1.mlp.experts";
        var experts = checkpoint.TakeExperts(new(path, "gate_proj"), DType.BF16, 4, 32, 64);
        Assert.Equal(StorageFormat.Int4, experts.Format);
        using (var dense = checkpoint.Take($"{path}.2.gate_proj.weight", DType.F32, 32, 64)) Assert.Equal(experts.ToFloats(2, DType.F32), dense.ToFloats());
        experts.DisposeEach();
        var (gradients, loss) = Train(Source, StorageFormat.Int4);
        Assert.True(float.IsFinite((float)loss));
        Assert.All(gradients.Values, g => Assert.All(g, v => Assert.True(float.IsFinite(v))));
    }

    /// <summary>
    /// Generation straight from the codes: prefill, the cache and decoding a row at a time give the tokens of the model whose weights are what the codes
    /// stand for, in BF16. Few rows meet codes before they are scaled, so a weight is not rounded to BF16 there as the decoded one is: where the two models
    /// part, the decoded one must hold both tokens for equal within a few roundings of its logits.
    /// </summary>
    [Theory]
    [InlineData("fp8")]
    [InlineData("int4")]
    public void Greedy_tokens_from_low_bits_are_those_of_the_decoded_model(string formatName)
    {
        var format = StorageFormat.Parse(formatName);
        LowBitFolder.Save(Source, format);
        var plain = Path.Combine(_folder.Path, "plain");
        if (format == StorageFormat.Fp8)
        {
            using var conversion = new Fp8Conversion(Source, plain);
            conversion.Run(cancel: TestContext.Current.CancellationToken);
        }
        else
        {
            Decode(Source, plain);
        }
        foreach (var seed in new[] { 3, 5, 7 })
        {
            int[] prompt = [.. Enumerable.Range(0, 9).Select(i => ((i * 31) + seed) % Tiny.Vocabulary)];
            var expected = Tokens(plain, StorageFormat.BF16, prompt);
            Assert.Equal(24, expected.Length);
            Assert.True(expected.Distinct().Count() > 1, "one token again and again would say nothing");
            var actual = Tokens(Source, format, prompt);
            var same = expected.Zip(actual).TakeWhile(pair => pair.First == pair.Second).Count();
            if (same == expected.Length) continue;
            var logits = NextLogits(plain, [.. prompt, .. expected[..same]]);
            const float Rounding = 1f / 256; // of a BF16 number, relative
            // Its own two ways, a prompt at once and row by row from the cache, differ by four of them here.
            Assert.InRange(Math.Abs(logits[expected[same]] - logits[actual[same]]), 0, 8 * Rounding * logits.Max(MathF.Abs));
        }
    }

    private static float[] NextLogits(string folder, int[] ids)
    {
        using var model = ModelFolder.Load(folder, DType.BF16);
        using var tape = Tape.Scratch();
        return model.Logits(TokenBatch.ForInference([ids])).ToFloats()[^Tiny.Vocabulary..];
    }

    private static int[] Tokens(string folder, StorageFormat format, int[] prompt)
    {
        using var model = ModelFolder.Load(folder, DType.BF16);
        Assert.All(model.All().OfType<ExpertBank>(), bank => Assert.Equal(format, bank.Format));
        return [.. Scheduler.Generate(model, new GenerationRequest(prompt, Sampling.Greedy(24)), cancel: TestContext.Current.CancellationToken)];
    }

    /// <summary>The folder in BF16, every packed matrix decoded.</summary>
    private static void Decode(string from, string to)
    {
        Directory.CreateDirectory(to);
        File.Copy(Path.Combine(from, "config.json"), Path.Combine(to, "config.json"));
        LowBitFolder.Edit(to, c => c.Remove("quantization_config"));
        using var checkpoint = new Checkpoint(from);
        List<(string Name, Tensor Tensor)> tensors = [];
        foreach (var name in checkpoint.Names)
        {
            if (name.EndsWith("_packed", StringComparison.Ordinal))
            {
                var weight = name[..^"_packed".Length];
                var (n, k) = checkpoint.ShapeOf(weight);
                tensors.Add((weight, checkpoint.Take(weight, DType.BF16, n, k)));
            }
            else if (!name.EndsWith("_scale", StringComparison.Ordinal) && !name.EndsWith("_shape", StringComparison.Ordinal))
                tensors.Add((name, checkpoint.Stored(name)));
        }
        SafetensorsWriter.Write(Path.Combine(to, "model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
    }

    [Theory]
    [InlineData("fp8", 0.03)]
    [InlineData("int8", 0.012)]
    [InlineData("int4", 0.11)]
    public void Experts_are_quantised_on_the_way_in(string formatName, double limit)
    {
        var format = StorageFormat.Parse(formatName);
        // Normal numbers: relative error about 2.6 % (3 bits of mantissa), 0.9 % (largest of 64 over 127), 8.6 %.
        Tiny.Save(Source, change: c => c.Replace("\"hidden_size\": 40", "\"hidden_size\": 64", StringComparison.Ordinal));
        using var checkpoint = new Checkpoint(Source) { FormatOf = path => path == "model.layers.1.mlp.experts" ? format : null };
        using var stored = new Checkpoint(Source);
        var quantised = checkpoint.TakeExperts(new("model.layers.1.mlp.experts", "up_proj"), DType.BF16, 4, 18, 64);
        Assert.Equal(format, quantised.Format);
        for (var e = 0; e < 4; e++)
        {
            using var exact = stored.Take($"model.layers.1.mlp.experts.{e}.up_proj.weight", DType.F32, 18, 64);
            var (w, q) = (exact.ToFloats(), quantised.ToFloats(e, DType.F32));
            var error = Math.Sqrt(w.Zip(q, (a, b) => (double)(a - b) * (a - b)).Sum() / w.Sum(v => (double)v * v));
            Assert.InRange(error, limit / 10, limit);
        }
        quantised.DisposeEach();
        var others = checkpoint.TakeExperts(new("model.layers.2.mlp.experts", "up_proj"), DType.BF16, 4, 18, 64);
        Assert.Equal(StorageFormat.BF16, others.Format);
        others.DisposeEach();
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        Tiny.Save(Source);
        using (var checkpoint = new Checkpoint(Source) { FormatOf = _ => StorageFormat.Int4 })
            Assert.Equal($"{Source}: experts 'model.layers.1.mlp.experts.*.up_proj.weight' [18, 40]: int4 needs rows of a multiple of 32 elements, but they "
                + "have 40; choose int8 or fp8",
                Assert.Throws<InvalidDataException>(() =>
                    checkpoint.TakeExperts(new("model.layers.1.mlp.experts", "up_proj"), DType.BF16, 4, 18, 40)).Message);
        Directory.Delete(Source, recursive: true);
        LowBitFolder.Save(Source, StorageFormat.Fp8);
        LowBitFolder.Edit(Source, c => c["quantization_config"]!["weight_block_size"] = new System.Text.Json.Nodes.JsonArray(64, 64));
        Assert.StartsWith($"{Path.Combine(Source, "config.json")}: FP8 is read as e4m3 with blocks of 128×128",
            Assert.Throws<NotSupportedException>(() => new Checkpoint(Source)).Message, StringComparison.Ordinal);
        LowBitFolder.Edit(Source, c => c["quantization_config"] = new System.Text.Json.Nodes.JsonObject { ["quant_method"] = "awq" });
        Assert.EndsWith("quant_method 'awq' is not known; known are fp8, compressed-tensors, mxfp4",
            Assert.Throws<NotSupportedException>(() => new Checkpoint(Source)).Message, StringComparison.Ordinal);
        LowBitFolder.Edit(Source, c => c.Remove("quantization_config"));
        using var wrong = new Checkpoint(Source);
        Assert.EndsWith("tensor 'model.layers.1.mlp.experts.0.up_proj.weight' must be F8E4M3[18, 140], but is F8E4M3[18, 40]",
            Assert.Throws<InvalidDataException>(() => wrong.TakeExperts(new("model.layers.1.mlp.experts", "up_proj"), DType.BF16, 4, 18, 140)).Message,
            StringComparison.Ordinal);
    }

    /// <summary>One step with an adapter beside everything, in BF16.</summary>
    private static (Dictionary<string, float[]> Gradients, double Loss) Train(string folder, StorageFormat format)
    {
        using var model = ModelFolder.Load(folder, DType.BF16);
        Assert.Contains(model.All(), m => m is ExpertBank bank && bank.Format == format);
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Experts: true), 1);
        var random = new Random(1);
        foreach (var (_, tensor) in model.AllTrainable)
            tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)]);
        var loss = new LayerMajorStep(model).Run(Tiny.Batch(1, 5, 11, 30), cancel: TestContext.Current.CancellationToken);
        return (Tiny.TakeGradients(model), loss);
    }
}
