using System.Text.Json.Nodes;

using KtNotebooks.Experts;
using KtNotebooks.Files;
using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>A base with an adapter merged in is a checkpoint like any other.</summary>
[Collection("cpu variant")] // bits are compared: nobody may change the kernels meanwhile
public sealed class AdapterExportTests : IDisposable
{
    private const string Expert = "model.layers.1.mlp.experts.2.up_proj";

    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void In_F32_the_merged_model_is_the_model_with_its_adapter()
    {
        var (model, adapter) = (Base(DType.F32), Adapter("a", 1));
        Export(model, [adapter], shard: 40_000);
        using var merged = ModelFolder.Load(At("out"), DType.F32);
        using var expected = ModelFolder.Load(model, DType.F32);
        AdapterFolder.Load(expected, adapter);
        AdapterFormsTests.Close(AdapterFormsTests.Logits(expected), AdapterFormsTests.Logits(merged), 2e-5);
        // Every weight: the sum in double, rounded once or in the last place.
        foreach (var (name, stored) in Tensors(At("out")))
        {
            var sum = Sum(model, adapter, name);
            for (var i = 0; i < sum.Length; i++) Assert.Equal(sum[i], stored[i], 4e-7 * Math.Max(1, Math.Abs(sum[i])));
        }
        var index = JsonNode.Parse(File.ReadAllText(Path.Combine(At("out"), "model.safetensors.index.json")))!;
        Assert.True(index["weight_map"]!.AsObject().Select(e => e.Value!.GetValue<string>()).Distinct().Count() > 3);
        Assert.True(File.Exists(Path.Combine(At("out"), "tokenizer.json")));
        Assert.Equal([At("out")], Left());
    }

    [Fact]
    public void In_BF16_every_weight_is_the_sum_rounded_once()
    {
        var (model, adapter) = (Base(DType.BF16), Adapter("a", 1));
        Export(model, [adapter]);
        Assert.False(File.Exists(Path.Combine(At("out"), "model.safetensors.index.json")));
        using var pairs = AdapterSource.Open(adapter);
        foreach (var (name, stored) in Tensors(At("out")))
        {
            var sum = Sum(model, adapter, name);
            for (var i = 0; i < sum.Length; i++)
                Assert.True(Math.Abs(sum[i] - stored[i]) <= (Math.Abs(sum[i]) / 256 * 1.001) + 1e-6, $"{name}[{i}] is {stored[i]}, the sum {sum[i]}");
            if (!pairs.Tensors.ContainsKey($"base_model.model.{name[..^".weight".Length]}.lora_A.weight")) Assert.Equal(sum.Select(v => (float)v), stored);
        }
    }

    /// <summary>Kimi's packed codes cannot be merged into; dequantized they are a BF16 checkpoint like any other.</summary>
    [Fact]
    public void An_INT4_base_becomes_BF16()
    {
        var model = Path.Combine(_folder.Path, "int4");
        LowBitFolder.Save(model, StorageFormat.Int4);
        using (var plain = ModelFolder.Load(model, DType.F32))
        {
            LoraAdapter.Attach(plain, new LoraSettings(2, Experts: true), seed: 3);
            foreach (var p in plain.AllTrainable.Where(p => p.Name.Contains("lora_B", StringComparison.Ordinal))) p.Tensor.Span<float>().Fill(0.02f);
            AdapterFolder.Save(plain, new LoraSettings(2, Experts: true), At("pairs"), model);
        }
        Assert.Contains("export_dtype=bfloat16 writes the whole checkpoint in BF16", Assert.Throws<InvalidDataException>(() =>
            new AdapterExport(new ExportSettings(model, [At("pairs")], At("out")))).Message, StringComparison.Ordinal);
        using (var export = new AdapterExport(new ExportSettings(model, [At("pairs")], At("out"), 40_000, Dequantized: true)))
        {
            Assert.Empty(export.Notes);
            export.Run(cancel: TestContext.Current.CancellationToken);
        }
        using var merged = ModelFolder.Load(At("out"), DType.F32);
        using var expected = ModelFolder.Load(model, DType.F32);
        Assert.All(merged.All().OfType<ExpertBank>(), bank => Assert.Equal(StorageFormat.F32, bank.Format));
        using var stored = new Checkpoint(At("out"));
        Assert.All(stored.Names, name => Assert.False(name.EndsWith("_packed", StringComparison.Ordinal) || name.EndsWith("_shape", StringComparison.Ordinal)));
        Assert.DoesNotContain("quantization_config", File.ReadAllText(Path.Combine(At("out"), "config.json")), StringComparison.Ordinal);
        using var pairs = AdapterSource.Open(At("pairs"));
        using var codes = new Checkpoint(model);
        foreach (var name in stored.Names.Where(n => n.Contains(".experts.", StringComparison.Ordinal)))
        {
            var (n, k) = codes.ShapeOf(name);
            using var before = codes.Take(name, DType.F32, n, k);
            using var after = stored.Take(name, DType.F32, n, k);
            var path = "base_model.model." + name[..^".weight".Length];
            var (a, b) = (pairs.Tensors[path + ".lora_A.weight"].Read(), pairs.Tensors[path + ".lora_B.weight"].Read());
            var scale = pairs.Settings.ScaleOf(name[..^".weight".Length]);
            for (var i = 0; i < n; i++)
                for (var j = 0; j < k; j++)
                {
                    var sum = before.Span<float>()[(int)((i * k) + j)] + (scale * ((b[2 * i] * a[j]) + (b[(2 * i) + 1] * a[k + j])));
                    Assert.Equal(sum, after.Span<float>()[(int)((i * k) + j)], (Math.Abs(sum) / 256) + 1e-6);
                }
        }
    }

    /// <summary>What a cut file lacks stays as the base has it, and is said.</summary>
    [Fact]
    public void Pairs_that_are_not_there_are_named()
    {
        var (model, adapter) = (Base(DType.BF16), Adapter("a", 1));
        var path = Path.Combine(adapter, "adapter_model.safetensors");
        List<(string, Tensor)> kept = [];
        using (var file = new SafetensorsFile(path))
            foreach (var name in file.Entries.Keys.Where(n => !n.Contains("layers.1.self_attn.o_proj", StringComparison.Ordinal)))
            {
                using var tensor = file.Get(name);
                kept.Add((name, tensor.To(tensor.Type)));
            }
        SafetensorsWriter.Write(path, kept);
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(adapter, "adapter_config.json")))!;
        config["modules_to_save"] = new JsonArray("lm_head");
        File.WriteAllText(Path.Combine(adapter, "adapter_config.json"), config.ToJsonString());
        using var export = new AdapterExport(new ExportSettings(model, [adapter], At("out")));
        Assert.Contains(export.Notes, n => n.EndsWith("that its target_modules name, as model.layers.1.self_attn.o_proj; they stay as the base has them",
            StringComparison.Ordinal) && n.Contains("holds no pair for 1 of ", StringComparison.Ordinal));
        Assert.Contains(export.Notes, n => n.EndsWith("modules_to_save names lm_head, which the file does not hold; it stays as the base has it",
            StringComparison.Ordinal));
    }

    [Fact]
    public void Two_adapters_add_up()
    {
        var model = Base(DType.F32);
        var (a, b) = (Adapter("a", 1), Adapter("b", 2));
        Export(model, [a, b]);
        var (one, two, plain) = (Sum(model, a, Expert + ".weight"), Sum(model, b, Expert + ".weight"), Sum(model, null, Expert + ".weight"));
        var merged = Tensors(At("out"))[Expert + ".weight"];
        for (var i = 0; i < merged.Length; i++) Assert.Equal(one[i] + two[i] - plain[i], merged[i], 1e-6);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void An_FP8_base_stays_FP8_or_becomes_BF16(bool asBf16)
    {
        var (model, adapter) = (Fp8Base(), Adapter("a", 1));
        Export(model, [adapter], shard: 20_000, withoutFp8: asBf16);
        using var source = new Checkpoint(model);
        using var target = new Checkpoint(At("out"));
        Assert.Equal(asBf16 ? DType.BF16 : DType.F8E4M3, target.Entry(Expert + ".weight").Type);
        Assert.Equal(asBf16, !target.Names.Any(n => n.EndsWith("_scale_inv", StringComparison.Ordinal)));
        Assert.Equal(asBf16, JsonNode.Parse(File.ReadAllText(Path.Combine(At("out"), "config.json")))!["quantization_config"] is null);
        foreach (var name in source.Names.Where(n => source.Entry(n).Type == DType.F8E4M3))
        {
            var (values, sum) = (Decoded(target, name), Sum(Decoded(source, name), adapter, name));
            // FP8: half a step of 2⁻³ of the value, or of the smallest step of a block, where the largest value is 448.
            var largest = sum.Max(Math.Abs);
            for (var i = 0; i < sum.Length; i++)
                Assert.True(Math.Abs(sum[i] - values[i]) <= Math.Max(Math.Abs(sum[i]) / (asBf16 ? 256 : 16), largest / 448 / 512) * 1.01,
                    $"{name}[{i}] is {values[i]}, the sum {sum[i]}");
        }
        using var norm = target.Stored("model.norm.weight");
        using var before = source.Stored("model.norm.weight");
        Assert.Equal(before.ToFloats(), norm.ToFloats());
    }

    /// <summary>
    /// How far rounding may move the logits is asked of the model itself: the exact sums, each number off by a random share of at most u (half a step: 2⁻⁴
    /// of E4M3, 2⁻⁸ of BF16), move them by as much and somewhat more than rounding does, whose error is often smaller than half a step.
    /// </summary>
    [Theory]
    [InlineData(true, "auto", 4)]
    [InlineData(true, "bfloat16", 8)]
    [InlineData(false, "auto", 8)]
    public void The_exported_folder_answers_as_base_and_adapter_do(bool isFp8, string type, int bits)
    {
        var (model, adapter) = (isFp8 ? Fp8Base() : Base(DType.BF16), Adapter("a", 1));
        // With all experts chosen no rounding sends a token to another one.
        var config = JsonNode.Parse(File.ReadAllText(Path.Combine(model, "config.json")))!;
        config["num_experts_per_tok"] = Tiny.Experts;
        File.WriteAllText(Path.Combine(model, "config.json"), config.ToJsonString());
        var (exit, output, errors) = Kt.Run("export", $"model_name_or_path={model}", $"adapter_name_or_path={adapter}", $"export_dir={At("out")}",
            $"export_dtype={type}", "export_size=0.00002");
        Assert.True(exit == 0, output + errors);

        var expected = Logits(model, adapter);
        AdapterFormsTests.Close(expected, Logits(Sums(model, adapter, 0)), 2e-5);
        var limit = Difference(expected, Logits(Sums(model, adapter, Math.Pow(2, -bits))));
        using var merged = ModelFolder.Load(At("out"), DType.F32);
        Assert.Equal([.. Enumerable.Repeat(isFp8 && type == "auto" ? StorageFormat.Fp8 : StorageFormat.F32, 2)], merged.All().OfType<ExpertBank>()
            .Select(b => b.Format));
        var error = Difference(expected, AdapterFormsTests.Logits(merged));
        Assert.InRange(error, limit / 4, limit * 1.25);
        Assert.True(Difference(expected, Logits(model)) > 3 * error,
            $"rounding moves the logits by {error}, the adapter only by {Difference(expected, Logits(model))}");
    }

    [Fact]
    public void What_tells_of_the_base_stays_with_it()
    {
        var model = Fp8Base();
        foreach (var name in (string[])["README.md", "LICENSE", "figures/loss.png", "trainer_state.json", "all_results.json", "modeling.py"])
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.Combine(model, name))!);
            File.WriteAllText(Path.Combine(model, name), "{}");
        }
        using (var export = new AdapterExport(new ExportSettings(model, [], At("out"))))
        {
            Assert.Contains($"{model}: not copied, they tell of the base: README.md, all_results.json, figures/loss.png, trainer_state.json", export.Notes);
            export.Run(cancel: TestContext.Current.CancellationToken);
        }
        var names = Directory.GetFileSystemEntries(At("out")).Select(Path.GetFileName).ToArray();
        Assert.Contains("LICENSE", names);
        Assert.Contains("modeling.py", names);
        Assert.Contains("config.json", names);
        Assert.DoesNotContain(names, name => name is "README.md" or "figures" or "trainer_state.json" or "all_results.json");
    }

    [Fact]
    public void Without_an_adapter_every_stored_byte_is_kept()
    {
        var model = Fp8Base();
        Export(model, []);
        using var source = new Checkpoint(model);
        using var target = new Checkpoint(At("out"));
        Assert.Equal(source.Names.Order(), target.Names.Order());
        foreach (var name in source.Names)
        {
            using var a = source.Stored(name);
            using var b = target.Stored(name);
            Assert.Equal(a.Type, b.Type);
            Assert.Equal(a.Shape.ToArray(), b.Shape.ToArray());
            if (a.Type == DType.F8E4M3) Assert.Equal(a.Span<byte>().ToArray(), b.Span<byte>().ToArray());
            else Assert.Equal(a.ToFloats(), b.ToFloats());
        }
    }

    [Fact]
    public void FP8_blocks_hold_their_largest_value_and_tails()
    {
        var random = new Random(5);
        var values = Enumerable.Range(0, 130 * 260).Select(_ => (float)(random.NextDouble() - 0.5)).ToArray();
        values[(129 * 260) + 259] = 7; // alone with few others in the last block
        Array.Clear(values, 0, 1);
        var (codes, scales) = Fp8(values, 130, 260);
        using (codes)
        using (scales)
        {
            Assert.Equal([2L, 3], scales.Shape.ToArray());
            Assert.Equal(7 / 448f, scales.Row<float>(1)[2]);
            using var decoded = StorageFormat.Fp8.Dequantize(codes, scales, 130, 260, DType.F32);
            var back = decoded.ToFloats();
            Assert.Equal(7f, back[^1], 1e-6f);
            Assert.Equal(0f, back[0]);
            for (var i = 0; i < values.Length - 260 * 2; i++) Assert.Equal(values[i], back[i], Math.Max(Math.Abs(values[i]) / 16, 0.5f / 448 / 512) * 1.01);
        }
        var (zeros, ones) = Fp8(new float[4], 2, 2);
        using (zeros)
        using (ones) Assert.Equal((0, 1f), (zeros.Span<byte>().ToArray().Sum(b => b), ones.Item()));
    }

    [Fact]
    public void An_export_that_is_cut_short_leaves_no_folder_and_the_next_one_is_whole()
    {
        var (model, adapter) = (Base(DType.F32), Adapter("a", 1));
        using (var export = new AdapterExport(new ExportSettings(model, [adapter], At("out"), 40_000)))
            Assert.Throws<IOException>(() =>
                export.Run((shard, _) => throw new IOException($"the disk failed at file {shard}"), TestContext.Current.CancellationToken));
        Assert.Empty(Left());
        using var stop = new CancellationTokenSource();
        using (var export = new AdapterExport(new ExportSettings(model, [adapter], At("out"), 40_000)))
            Assert.Throws<OperationCanceledException>(() => export.Run((_, _) => stop.Cancel(), stop.Token));
        Assert.Empty(Left());
        // What a killed export leaves goes with the next; what a person has beside it, and an export into another folder, stay.
        var (left, others, mine) = (OwnTemporary.Beside(At("out")), OwnTemporary.Beside(At("out2")), At("out.tmp"));
        foreach (var folder in new[] { left, others, mine })
            File.WriteAllText(Path.Combine(Directory.CreateDirectory(folder).FullName, "model-00009-of-00099.safetensors"), "half");
        Export(model, [adapter], shard: 40_000);
        Assert.DoesNotContain(Directory.GetFiles(At("out")), f => f.Contains("00099", StringComparison.Ordinal));
        Assert.Equal((false, true, true), (Directory.Exists(left), Directory.Exists(others), Directory.Exists(mine)));
        using var merged = ModelFolder.Load(At("out"), DType.F32);
    }

    [Fact]
    public void Two_exports_into_one_folder_do_not_meet()
    {
        var (model, adapter) = (Base(DType.F32), Adapter("a", 1));
        using var first = new AdapterExport(new ExportSettings(model, [adapter], At("out"), 40_000));
        using var second = new AdapterExport(new ExportSettings(model, [adapter], At("out"), 40_000));
        var refused = "";
        first.Run((_, _) => refused = Assert.ThrowsAny<IOException>(() => second.Run(cancel: TestContext.Current.CancellationToken)).Message,
            TestContext.Current.CancellationToken);
        Assert.StartsWith($"export_dir {At("out")}: an export (process {Environment.ProcessId} on ", refused, StringComparison.Ordinal);
        Assert.Equal($"export_dir '{At("out")}' is not empty; name a new folder",
            Assert.Throws<ArgumentException>(() => second.Run(cancel: TestContext.Current.CancellationToken)).Message);
        using var merged = ModelFolder.Load(At("out"), DType.F32);
        Assert.Equal([At("out")], Left());
    }

    [Fact]
    public void What_does_not_fit_is_named_before_anything_is_written()
    {
        var (model, adapter) = (Base(DType.F32), Adapter("a", 1));
        Directory.CreateDirectory(At("full"));
        File.WriteAllText(Path.Combine(At("full"), "x"), "");
        Assert.Equal($"export_dir '{At("full")}' is not empty; name a new folder", Refused(model, adapter, "full"));
        var weights = Path.Combine(adapter, "adapter_model.safetensors");
        Edit(weights, tensors => tensors["base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"] =
            tensors["base_model.model.model.layers.9.mlp.up_proj.lora_B.weight"] = Tensor.Zeros(DType.F32, 3, 3));
        Assert.Equal($"{weights}: tensor 'base_model.model.model.layers.9.mlp.up_proj.lora_A.weight' fits no weight of {model}", Refused(model, adapter));
        Edit(weights, tensors => tensors.Remove("base_model.model.model.layers.9.mlp.up_proj.lora_B.weight"));
        Assert.Equal($"{weights}: tensor 'base_model.model.model.layers.9.mlp.up_proj.lora_B.weight' is missing; an adapter holds both halves of every pair",
            Refused(model, adapter));
        Edit(weights, tensors =>
        {
            tensors.Remove("base_model.model.model.layers.9.mlp.up_proj.lora_A.weight");
            tensors[$"base_model.model.{Expert}.lora_A.weight"] = Tensor.Zeros(DType.F32, 3, 41);
        });
        Assert.Equal($"{weights}: tensor 'base_model.model.{Expert}.lora_A.weight' must be [3, 40] for this base and rank 3, but is F32[3, 41]",
            Refused(model, adapter));
        Assert.False(Directory.Exists(At("out")));
    }

    [Fact]
    public void The_program_exports_and_says_what_it_does()
    {
        var (model, adapter) = (Base(DType.F32), Adapter("a", 1));
        var (exit, output, errors) = Kt.Run("export", $"model_name_or_path={model}", $"adapter_name_or_path={adapter}", "template=deepseek",
            "finetuning_type=lora", $"export_dir={At("out")}", "export_size=1", "export_device=cpu");
        Assert.True(exit == 0, output + errors);
        Assert.Contains("45 matrices of", output, StringComparison.Ordinal);
        using var merged = ModelFolder.Load(At("out"), DType.F32);
        Assert.StartsWith("command line: unknown key 'export_dirr'.",
            Kt.Refuses("export", $"model_name_or_path={model}", "export_dirr=x", $"export_dir={At("two")}"), StringComparison.Ordinal);
        Assert.Equal($"export_dir '{At("out")}' is not empty; name a new folder",
            Kt.Refuses("export", $"model_name_or_path={model}", $"export_dir={At("out")}"));
    }

    /// <summary>What lies there of exports into `out`, whole or not.</summary>
    private string[] Left() => Directory.GetFileSystemEntries(_folder.Path, "*out*");

    private string At(string name) => Path.Combine(_folder.Path, name);

    private void Export(string model, string[] adapters, long shard = 5_000_000_000, bool withoutFp8 = false)
    {
        using var export = new AdapterExport(new ExportSettings(model, adapters, At("out"), shard, withoutFp8));
        export.Run(cancel: TestContext.Current.CancellationToken);
    }

    private string Refused(string model, string adapter, string target = "out") =>
        Assert.ThrowsAny<Exception>(() => new AdapterExport(new ExportSettings(model, [adapter], At(target)))).Message;

    private static void Edit(string path, Action<Dictionary<string, Tensor>> edit)
    {
        Dictionary<string, Tensor> tensors;
        using (var file = new SafetensorsFile(path)) tensors = file.Entries.Keys.ToDictionary(k => k, k => file.Get(k));
        edit(tensors);
        SafetensorsWriter.Write(path, [.. tensors.Select(t => (t.Key, t.Value))]);
        foreach (var tensor in tensors.Values) tensor.Dispose();
    }

    /// <summary>The tiny model as a folder in one file.</summary>
    private string Base(DType type)
    {
        Tiny.Save(At("base"));
        if (type == DType.F32) return At("base");
        using var model = ModelFolder.Load(At("base"), type);
        ModelWriter.Save(model, Path.Combine(At("base"), "config.json"), At("bf16"), type);
        return At("bf16");
    }

    /// <summary>The tiny model with every matrix but the token table, the head and the routers in FP8.</summary>
    private string Fp8Base()
    {
        var plain = Base(DType.BF16);
        List<(string, Tensor)> tensors = [];
        using (var checkpoint = new Checkpoint(plain))
            foreach (var name in checkpoint.Names)
            {
                var tensor = checkpoint.Stored(name);
                if (tensor.Rank == 1 || name.Contains("embed", StringComparison.Ordinal) || name.Contains("lm_head", StringComparison.Ordinal)
                    || name.EndsWith(".gate.weight", StringComparison.Ordinal))
                {
                    tensors.Add((name, tensor));
                    continue;
                }
                var (codes, scales) = Fp8(tensor.ToFloats(), (int)tensor.Dim(0), tensor.Width);
                tensor.Dispose();
                tensors.Insert(0, (name + "_scale_inv", scales)); // far from its matrix
                tensors.Add((name, codes));
            }
        SafetensorsWriter.Write(Path.Combine(At("fp8"), "model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
        var config = JsonNode.Parse(Tiny.Config)!.AsObject();
        config["quantization_config"] =
            JsonNode.Parse("""{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}""");
        File.WriteAllText(Path.Combine(At("fp8"), "config.json"), config.ToJsonString());
        return At("fp8");
    }

    [Fact]
    public void Experts_in_one_tensor_are_refused_before_anything_is_written()
    {
        var model = Path.Combine(Evaluation.GoldenTests.Of("gpt_oss"), "model");
        using (var loaded = ModelFolder.Load(model, DType.F32))
        {
            LoraAdapter.Attach(loaded, new LoraSettings(2, Experts: true));
            AdapterFolder.Save(loaded, new LoraSettings(2, Experts: true), At("stacked"), null);
        }
        var target = Path.Combine(At("stacked"), "merged");
        Assert.Equal($"{model}: the experts of 'model.layers.0.mlp.experts.0.down_proj' are stored in one tensor, which cannot be merged into; use the adapter "
            + "beside its base", Assert.Throws<InvalidDataException>(() => new AdapterExport(new ExportSettings(model, [At("stacked")], target))).Message);
        Assert.False(Directory.Exists(target));
    }

    private string Adapter(string name, ulong seed)
    {
        using var model = Tiny.WithAdapter(seed: seed);
        AdapterFolder.Save(model, new LoraSettings(3, Experts: true), At(name), null);
        if (seed == 1) return At(name);
        Edit(Path.Combine(At(name), "adapter_model.safetensors"), _ => { }); // without the fingerprint: seed 2 is another base
        return At(name);
    }

    private static Dictionary<string, float[]> Tensors(string folder)
    {
        using var checkpoint = new Checkpoint(folder);
        return checkpoint.Names.ToDictionary(n => n, n => Decoded(checkpoint, n));
    }

    private static float[] Decoded(Checkpoint checkpoint, string name)
    {
        using var stored = checkpoint.Stored(name);
        if (stored.Type != DType.F8E4M3) return stored.ToFloats();
        using var scales = checkpoint.Stored(name + "_scale_inv");
        using var values = StorageFormat.Fp8.Dequantize(stored, scales, stored.Dim(0), stored.Dim(1), DType.F32);
        return values.ToFloats();
    }

    /// <summary>Root mean square of the difference over that of the first.</summary>
    private static double Difference(float[] one, float[] two) =>
        Math.Sqrt(one.Zip(two, (a, b) => (double)(a - b) * (a - b)).Sum() / one.Sum(v => (double)v * v));

    private static float[] Logits(string model, string? adapter = null)
    {
        using var loaded = ModelFolder.Load(model, DType.F32);
        if (adapter is not null) AdapterFolder.Load(loaded, adapter);
        return AdapterFormsTests.Logits(loaded);
    }

    /// <summary>Base and adapter added up in double, as an F32 model; what the adapter changes is then off by a random share of at most `noise`.</summary>
    private string Sums(string model, string adapter, double noise)
    {
        var random = new Random(7);
        var (folder, config) = (At($"sums-{noise}"), JsonNode.Parse(File.ReadAllText(Path.Combine(model, "config.json")))!.AsObject());
        List<(string Name, Tensor Tensor)> tensors = [];
        using (var source = new Checkpoint(model))
            foreach (var name in source.Names.Where(n => !n.EndsWith("_scale_inv", StringComparison.Ordinal)))
            {
                var (before, sum) = (Decoded(source, name), Sum(model, adapter, name));
                var changes = !before.SequenceEqual(sum.Select(v => (float)v));
                tensors.Add((name, Tensor.From([.. sum.Select(v => (float)(changes ? v * (1 + (noise * ((2 * random.NextDouble()) - 1))) : v))],
                    source.Entry(name).Shape)));
            }
        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
        config.Remove("quantization_config");
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        return folder;
    }

    private static double[] Sum(string model, string? adapter, string name)
    {
        using var checkpoint = new Checkpoint(model);
        return Sum(Decoded(checkpoint, name), adapter, name);
    }

    /// <summary>W + 2 · B·A in double.</summary>
    private static double[] Sum(float[] weight, string? adapter, string name)
    {
        var sum = Array.ConvertAll(weight, v => (double)v);
        if (adapter is null) return sum;
        using var source = AdapterSource.Open(adapter);
        var pair = $"base_model.model.{name[..^".weight".Length]}";
        if (!source.Tensors.TryGetValue(pair + ".lora_A.weight", out var stored)) return sum;
        var (a, b, r) = (stored.Read(), source.Tensors[pair + ".lora_B.weight"].Read(), (int)stored.Shape[0]);
        var K = (int)stored.Shape[1];
        for (var i = 0; i < sum.Length; i++)
            for (var j = 0; j < r; j++) sum[i] += 2.0 * b[(i / K * r) + j] * a[(j * K) + (i % K)];
        return sum;
    }

    private static (Tensor Codes, Tensor Scales) Fp8(float[] values, int n, int k)
    {
        using var matrix = Tensor.From(values, DType.F32, n, k);
        return StorageFormat.Fp8.Quantize(matrix);
    }
}
