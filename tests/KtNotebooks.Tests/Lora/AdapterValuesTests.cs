using KtNotebooks.Lora;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>Adapters that hold no numbers, none at all, or far too many; and what stands where an adapter is expected.</summary>
public sealed class AdapterValuesTests : IDisposable
{
    private const string Expert = "base_model.model.model.layers.1.mlp.experts.2.up_proj.lora_B.weight";

    private readonly Samples.Folder _folder = new();

    private string Adapter => Path.Combine(_folder.Path, "adapter");

    private string Weights => Path.Combine(Adapter, "adapter_model.safetensors");

    public void Dispose() => _folder.Dispose();

    /// <summary>By every way in: loading, merging, writing in another form.</summary>
    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    [InlineData(float.NegativeInfinity)]
    [InlineData(1e38f)]
    public void What_is_no_number_is_named_with_its_place(float value)
    {
        var values = new float[18 * 3];
        values[(4 * 3) + 2] = value;
        using var bad = Tensor.From(values, 18, 3);
        Save(tensors => tensors[Expert] = bad);
        var message = $"{Weights}: tensor '{Expert}' holds {value} at [4, 2]; values of an adapter lie between ±1,000,000: its training went wrong or " +
            "the file is damaged; take an earlier checkpoint";
        using var model = Tiny.Build();
        Assert.Equal(message, Assert.Throws<InvalidDataException>(() => AdapterFolder.Load(model, Adapter)).Message);
        Assert.Empty(model.AllTrainable);
        var settings = new ExportSettings(Tiny.Save(Path.Combine(_folder.Path, "model")), [Adapter], Path.Combine(_folder.Path, "out"));
        Assert.Equal(message, Assert.Throws<InvalidDataException>(() => new AdapterExport(settings)).Message);
        using var source = AdapterSource.Open(Adapter);
        Assert.Equal(message, Assert.Throws<InvalidDataException>(() => source.Save(Path.Combine(_folder.Path, "again"), ExpertForm.Each)).Message);
    }

    [Fact]
    public void An_adapter_without_tensors_is_refused()
    {
        Save(tensors => tensors.Clear());
        Assert.Equal($"{Weights}: holds no tensor; an adapter has a pair for each module that it adapts",
            Assert.Throws<InvalidDataException>(() => AdapterSource.Open(Adapter)).Message);
    }

    [Fact]
    public void A_type_without_plain_numbers_is_named()
    {
        using var codes = Tensor.Empty(DType.I32, 18, 3);
        Save(tensors => tensors[Expert] = codes);
        using var source = AdapterSource.Open(Adapter);
        Assert.StartsWith($"{Weights}: tensor '{Expert}' is I32[18, 3]; the types of an adapter are",
            Assert.Throws<InvalidDataException>(() => source.Tensors[Expert].Read()).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2147483647)]
    [InlineData(100000)]
    [InlineData(45)]
    public void A_rank_beyond_every_matrix_is_refused_before_anything_is_allocated(int rank)
    {
        using var model = Tiny.Build();
        var before = Tiny.Alive();
        var error = Assert.Throws<ArgumentException>(() => LoraAdapter.Attach(model, new LoraSettings(rank, Experts: true)));
        Assert.Equal($"lora_rank {rank} is larger than 40, the smaller side of the largest matrix that it adapts (model.layers.0.mlp.gate_proj, 44 × " +
            "40); a pair of a larger rank can say nothing more", error.Message);
        Assert.Equal(before.Count, Tiny.Alive().Count);
        Assert.Equal(21, LoraAdapter.Attach(model, new LoraSettings(40))); // above some of them it is still of use
    }

    [Fact]
    public void A_rank_of_a_pattern_is_held_against_its_own_matrices()
    {
        using var model = Tiny.Build();
        Assert.StartsWith("lora_rank 30 is larger than 28, the smaller side of the largest matrix that it adapts " +
            "(model.layers.0.self_attn.kv_a_proj_with_mqa, 28 × 40)",
            Assert.Throws<ArgumentException>(() => LoraAdapter.Attach(model,
                new LoraSettings(8, RankPattern: new Dictionary<string, int> { ["kv_a_proj_with_mqa"] = 30 }))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void What_stands_where_an_adapter_is_expected_is_said()
    {
        Save(_ => { });
        var (config, model, bin, loop) = (Path.Combine(Adapter, "adapter_config.json"), Tiny.Save(Path.Combine(_folder.Path, "model")),
            Path.Combine(_folder.Path, "bin"), Path.Combine(_folder.Path, "loop"));
        Refused<FileNotFoundException>(Path.Combine(_folder.Path, "gone"), ": no such folder; an adapter is a folder that holds adapter_config.json " +
            "and adapter_model.safetensors, or a .gguf file");
        Refused<FileNotFoundException>(Path.Combine(_folder.Path, "gone.gguf"), ": no such file");
        Refused<InvalidDataException>(Weights, ": is a file, but an adapter is a folder that holds adapter_config.json and adapter_model.safetensors, " +
            "or a .gguf file; name its folder");
        Refused<InvalidDataException>("/dev/null", ": is a pipe, a device or a socket");
        Refused<FileNotFoundException>(model, "/adapter_config.json: no such file; an adapter folder holds adapter_config.json and " +
            "adapter_model.safetensors; this is the folder of a model: it goes to model_name_or_path");
        Directory.CreateDirectory(bin);
        File.Copy(config, Path.Combine(bin, "adapter_config.json"));
        File.WriteAllText(Path.Combine(bin, "adapter_model.bin"), "");
        Refused<FileNotFoundException>(bin, "/adapter_model.safetensors: no such file; an adapter folder holds adapter_config.json and " +
            "adapter_model.safetensors; adapter_model.bin is Python's pickle");
        Directory.CreateDirectory(Path.Combine(bin, "adapter_model.safetensors"));
        Refused<InvalidDataException>(bin, "/adapter_model.safetensors: is a folder, but a file of tensors is wanted there");
        Directory.CreateDirectory(loop);
        File.CreateSymbolicLink(Path.Combine(loop, "adapter_config.json"), "gone.json");
        Refused<FileNotFoundException>(loop, "/adapter_config.json: is a link to gone.json, which is not there");
    }

    /// <summary>What a prediction run notes of its adapter: whatever it consists of, links followed, settings included.</summary>
    [Fact]
    public void The_hash_is_of_all_files()
    {
        Save(_ => { });
        var (fused, linked, gguf) = (Path.Combine(_folder.Path, "fused"), Path.Combine(_folder.Path, "linked"), Path.Combine(_folder.Path, "a.gguf"));
        using (var source = AdapterSource.Open(Adapter)) source.Save(fused, ExpertForm.KTransformers);
        Directory.CreateDirectory(linked);
        foreach (var file in Directory.GetFiles(Adapter)) File.CreateSymbolicLink(Path.Combine(linked, Path.GetFileName(file)), file);
        File.WriteAllText(gguf, "abc");
        string Of(string path) => AdapterFiles.Find(path).Hash();
        var plain = Of(Adapter);
        Assert.Equal(plain, Of(linked));
        Assert.Equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", Of(gguf)); // FIPS 180's own example
        var before = Of(fused);
        Assert.NotEqual(plain, before);
        File.AppendAllText(Path.Combine(fused, "fused_expert_lora.safetensors"), "x");
        Assert.NotEqual(before, Of(fused));
        File.WriteAllText(Path.Combine(Adapter, "adapter_config.json"),
            File.ReadAllText(Path.Combine(Adapter, "adapter_config.json")).Replace("\"lora_alpha\": 6", "\"lora_alpha\": 7", StringComparison.Ordinal));
        Assert.NotEqual(plain, Of(Adapter));
    }

    private static void Refused<T>(string path, string message)
        where T : Exception => Assert.StartsWith(path + message, Assert.Throws<T>(() => AdapterSource.Open(path)).Message, StringComparison.Ordinal);

    private void Save(Action<Dictionary<string, Tensor>> change)
    {
        using var model = Tiny.WithAdapter();
        AdapterFolder.Save(model, new LoraSettings(3, Experts: true), Adapter, null);
        Dictionary<string, Tensor> tensors;
        using (var file = new SafetensorsFile(Weights)) tensors = file.Entries.Keys.ToDictionary(k => k, k => file.Get(k));
        Tensor[] own = [.. tensors.Values];
        change(tensors);
        SafetensorsWriter.Write(Weights, [.. tensors.Select(t => (t.Key, t.Value))]);
        foreach (var tensor in own) tensor.Dispose();
    }
}
