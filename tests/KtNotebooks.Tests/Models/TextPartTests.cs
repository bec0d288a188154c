using System.Text.Json.Nodes;

using KtNotebooks.Formats;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Models;

/// <summary>Kimi-K2.5's form: a text model inside a model that sees gives the bits of the same text model alone.</summary>
[Collection("cpu variant")]
public sealed class TextPartTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Plain => Path.Combine(_folder.Path, "plain");

    private string Nested => Path.Combine(_folder.Path, "nested");

    public void Dispose() => _folder.Dispose();

    [Theory]
    [InlineData("kimi_k2")]
    [InlineData("deepseek_v3")]
    public void The_text_model_gives_the_bits_of_the_same_model_alone(string textType)
    {
        Make(textType, StorageFormat.Int4);
        var (plain, plainGradients, plainNotes) = Run(Plain);
        var (nested, nestedGradients, notes) = Run(Nested);
        Assert.Equal(plain, nested);
        Assert.Equal(plainGradients.Keys, nestedGradients.Keys);
        foreach (var (name, gradient) in plainGradients) Assert.Equal(gradient, nestedGradients[name]);
        Assert.Contains(nestedGradients, g => g.Key.Contains(".experts.", StringComparison.Ordinal) && g.Value.Any(v => v != 0));
        Assert.Empty(plainNotes);
        Assert.EndsWith("2 tensors beside the text model are not loaded (vision_tower, mm_projector)", Assert.Single(notes), StringComparison.Ordinal);
    }

    [Fact]
    public void A_plan_counts_the_text_model_as_it_counts_it_alone()
    {
        Make("kimi_k2", StorageFormat.Int4);
        var (plain, nested) = (MemoryPlan.Open([Plain]), MemoryPlan.Open([Nested]));
        Assert.Equal(plain.Rows, nested.Rows);
        Assert.Equal((plain.Parameters, plain.Stored), (nested.Parameters, nested.Stored));
        Assert.Contains(nested.Rows, r => r.Format == "int4");
    }

    [Fact]
    public void An_adapter_has_the_names_that_PEFT_gives_it_and_fits_both()
    {
        Make("kimi_k2", StorageFormat.Int4);
        var adapter = Path.Combine(_folder.Path, "adapter");
        Directory.CreateDirectory(adapter);
        var settings = new LoraSettings(Rank: 2, Experts: true);
        using (var model = ModelFolder.Load(Nested))
        {
            LoraAdapter.Attach(model, settings);
            AdapterFolder.Save(model, settings, adapter, null);
        }
        using (var file = new SafetensorsFile(Path.Combine(adapter, "adapter_model.safetensors")))
            Assert.All(file.Entries.Keys, n => Assert.StartsWith("base_model.model.language_model.model.layers.", n, StringComparison.Ordinal));
        foreach (var folder in new[] { Plain, Nested })
        {
            using var model = ModelFolder.Load(folder);
            AdapterFolder.Load(model, adapter);
            Assert.All(model.All().OfType<IAdaptable>().Where(m => m.IsExperts), m => Assert.NotNull(m.Adapter));
        }
    }

    /// <summary>What is beside the text model is copied, names stay as they were, and only what has a pair changes.</summary>
    [Fact]
    public void An_export_keeps_the_whole()
    {
        Make("kimi_k2", StorageFormat.Fp8);
        var (adapter, merged) = (Path.Combine(_folder.Path, "adapter"), Path.Combine(_folder.Path, "merged"));
        Directory.CreateDirectory(adapter);
        var settings = new LoraSettings(Rank: 2, Target: ["o_proj"]);
        using (var model = ModelFolder.Load(Nested))
        {
            LoraAdapter.Attach(model, settings);
            AdapterFolder.Save(model, settings, adapter, null);
        }
        using (var export = new AdapterExport(new ExportSettings(Nested, [adapter], merged)))
        {
            export.Run(cancel: TestContext.Current.CancellationToken);
            Assert.Equal(3, export.Merged);
        }
        using var before = new Checkpoint(Nested);
        using var after = new Checkpoint(merged);
        Assert.Equal(before.Names.Select(before.StoredName).Order(StringComparer.Ordinal), after.Names.Select(after.StoredName).Order(StringComparer.Ordinal));
        Assert.Equal(Logits(Nested), Logits(merged)); // a fresh adapter changes nothing
    }

    [Fact]
    public void A_conversion_keeps_the_whole()
    {
        Make("kimi_k2", StorageFormat.Fp8);
        foreach (var folder in new[] { Plain, Nested })
            using (var conversion = new Fp8Conversion(folder, folder + "-bf16")) conversion.Run(cancel: TestContext.Current.CancellationToken);
        using var checkpoint = new Checkpoint(Nested + "-bf16");
        Assert.Null(checkpoint.Quantized);
        Assert.Contains("vision_tower.patch_embed.proj.weight", checkpoint.Names.Select(checkpoint.StoredName));
        Assert.Contains("language_model.lm_head.weight", checkpoint.Names.Select(checkpoint.StoredName));
        Assert.Equal(Logits(Plain + "-bf16"), Logits(Nested + "-bf16"));
    }

    [Fact]
    public void A_whole_without_its_text_model_is_named()
    {
        Make("kimi_k2", StorageFormat.Int4);
        LowBitFolder.Edit(Nested, config => config.Remove("text_config"));
        var error = Assert.Throws<InvalidDataException>(() => ModelFolder.Load(Nested));
        Assert.Equal($"{Path.Combine(Nested, "config.json")}: has no 'text_config'", error.Message);
    }

    /// <summary>The tiny model in V3's form with low-bit experts, alone and inside.</summary>
    private void Make(string textType, StorageFormat format)
    {
        LowBitFolder.Save(Plain, format, change: config => config.Replace("\"deepseek_v2\"", $"\"{textType}\", \"n_group\": 1, \"topk_group\": 1",
            StringComparison.Ordinal));
        Checkout.Copy(Plain, Nested);
        var map = new JsonObject();
        foreach (var file in Directory.GetFiles(Nested, "*.safetensors").Order(StringComparer.Ordinal))
        {
            List<(string Name, Tensor Tensor)> tensors = [];
            using (var stored = new SafetensorsFile(Path.Combine(Plain, Path.GetFileName(file))))
                foreach (var name in stored.Entries.Keys) tensors.Add(("language_model." + name, stored.Get(name).Clone()));
            if (map.Count == 0)
                foreach (var name in (string[])["vision_tower.patch_embed.proj.weight", "mm_projector.proj.0.weight"])
                    tensors.Add((name, Tensor.Zeros(DType.BF16, 4, 4)));
            File.Delete(file);
            SafetensorsWriter.Write(file, tensors);
            foreach (var (name, tensor) in tensors)
            {
                map[name] = Path.GetFileName(file);
                tensor.Dispose();
            }
        }
        File.WriteAllText(Path.Combine(Nested, "model.safetensors.index.json"), new JsonObject { ["weight_map"] = map }.ToJsonString());
        var text = JsonNode.Parse(File.ReadAllText(Path.Combine(Nested, "config.json")))!;
        File.WriteAllText(Path.Combine(Nested, "config.json"), new JsonObject
        {
            ["model_type"] = "kimi_k25",
            ["architectures"] = new JsonArray("KimiK25ForConditionalGeneration"),
            ["tie_word_embeddings"] = false,
            ["text_config"] = text,
            ["vision_config"] = new JsonObject { ["hidden_size"] = 4 },
        }.ToJsonString());
    }

    private static (float[] Logits, Dictionary<string, float[]> Gradients, IReadOnlyList<string> Notes) Run(string folder)
    {
        using var model = ModelFolder.Load(folder);
        using var logits = model.Logits(TokenBatch.ForInference([[1, 2, 3, 200, 7, 8]]));
        LoraAdapter.Attach(model, new LoraSettings(Rank: 3, Experts: true), 1);
        var random = new Random(1);
        foreach (var (_, tensor) in model.AllTrainable)
            tensor.Store([.. Enumerable.Range(0, (int)tensor.Count).Select(_ => (random.NextSingle() - 0.5f) * 0.3f)]);
        new LayerMajorStep(model).Run(Tiny.Batch(1, 7, 12), cancel: TestContext.Current.CancellationToken);
        return (logits.ToFloats(), Tiny.TakeGradients(model), model.Notes);
    }

    private static float[] Logits(string folder)
    {
        using var model = ModelFolder.Load(folder);
        using var logits = model.Logits(TokenBatch.ForInference([[1, 2, 3, 200]]));
        return logits.ToFloats();
    }
}
