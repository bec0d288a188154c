using System.Text.Json.Nodes;

using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>
/// What is wrong with a model folder is said with file, tensor, expected and found. The golden model (six shards and an index) is damaged in every way.
/// </summary>
public sealed class CheckpointTests : IDisposable
{
    private const string Norm = "model.layers.1.input_layernorm.weight";
    private readonly Samples.Folder _folder = new();

    public CheckpointTests() => Checkout.Copy(Path.Combine(GoldenTests.Lite, "model"), _folder.Path);

    private string Index => Path.Combine(_folder.Path, "model.safetensors.index.json");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_missing_shard_is_named_with_a_tensor_of_it()
    {
        File.Delete(Path.Combine(_folder.Path, "model-00003-of-00006.safetensors"));
        Assert.Matches($"^{_folder.Path}: shard model-00003-of-00006.safetensors is missing; model.safetensors.index.json names it for 'model.",
            Load<FileNotFoundException>());
    }

    [Fact]
    public void An_index_that_names_a_tensor_which_is_not_there_is_wrong()
    {
        EditIndex(map => map["model.ghost.weight"] = "model-00001-of-00006.safetensors");
        Assert.Equal($"{Index}: says 'model.ghost.weight' is in model-00001-of-00006.safetensors, but it is not there", Load<InvalidDataException>());
    }

    [Fact]
    public void A_tensor_that_the_config_wants_and_the_index_lacks_is_missing()
    {
        EditIndex(map => map.Remove(Norm));
        Assert.Equal($"{_folder.Path}: tensor '{Norm}' is missing from the checkpoint (expected by config.json)", Load<InvalidDataException>());
    }

    [Theory]
    [InlineData("{", ":1: not valid JSON: ")]
    [InlineData("[]", ": must be a JSON object, but is a list")]
    [InlineData("{\"weight_map\": []}", ": 'weight_map' must be an object, but is a list")]
    [InlineData("{\"weight_map\": {\"a\": 1}}", ": weight_map 'a' must be a text, but is a number")]
    [InlineData("{}", ": has no 'weight_map'")]
    [InlineData("{\"weight_map\": {\"a\": \"../stolen.safetensors\"}}",
        ": weight_map 'a': '../stolen.safetensors' must be the name of a file below FOLDER, without .. and without a leading /")]
    [InlineData("{\"weight_map\": {\"a\": \"/tmp/x.safetensors\"}}",
        ": weight_map 'a': '/tmp/x.safetensors' must be the name of a file below FOLDER, without .. and without a leading /")]
    [InlineData("{\"weight_map\": {\"a\": \"config.json\"}}", ": weight_map 'a': 'config.json' must be the name of a *.safetensors file")]
    public void A_damaged_index_is_named(string text, string message)
    {
        File.WriteAllText(Index, text);
        Assert.StartsWith(Index + message.Replace("FOLDER", _folder.Path, StringComparison.Ordinal), Load<InvalidDataException>(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_wrong_shape_is_named_with_expected_and_found()
    {
        var shard = Path.Combine(_folder.Path, ShardOf(Norm));
        Replace(shard, Norm, Tensor.Zeros(DType.F32, 63));
        Assert.Equal($"{shard}: tensor '{Norm}' must be [64] by config.json, but is F32[63]", Load<InvalidDataException>());
    }

    [Fact]
    public void A_type_that_cannot_be_used_is_named()
    {
        var shard = Path.Combine(_folder.Path, ShardOf(Norm));
        Replace(shard, Norm, Tensor.From(new int[64], 64));
        Assert.StartsWith($"{shard}: tensor '{Norm}' is stored as I32", Load<InvalidDataException>(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_truncated_shard_is_named()
    {
        var shard = Path.Combine(_folder.Path, "model-00004-of-00006.safetensors");
        using (var stream = File.OpenWrite(shard)) stream.SetLength(stream.Length - 100);
        Assert.StartsWith($"{shard} is truncated: tensor ", Load<InvalidDataException>(), StringComparison.Ordinal);
    }

    [Fact]
    public void A_folder_without_weights_and_no_folder_are_told_apart()
    {
        foreach (var file in Directory.GetFiles(_folder.Path, "*.safetensors*")) File.Delete(file);
        Assert.Equal($"{_folder.Path}: neither model.safetensors nor model.safetensors.index.json is there; the weights belong beside config.json, which "
            + "alone is enough for `kt plan` only", Load<FileNotFoundException>());
        var nowhere = Path.Combine(_folder.Path, "nowhere");
        Assert.StartsWith($"{Path.Combine(nowhere, "config.json")}: no such file",
            Assert.Throws<FileNotFoundException>(() => ModelFolder.Load(nowhere)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("hidden_size", "\"64\"", "'hidden_size' must be a whole number, but is 64")]
    [InlineData("hidden_size", "64.5", "'hidden_size' must be a whole number, but is 64.5")]
    [InlineData("hidden_size", "null", "'hidden_size' is missing")]
    [InlineData("rms_norm_eps", "\"tiny\"", "'rms_norm_eps' must be a number, but is tiny")]
    [InlineData("norm_topk_prob", "1", "'norm_topk_prob' must be true or false, but is 1")]
    [InlineData("model_type", "7", "'model_type' must be a text, but is 7")]
    [InlineData("rope_parameters", "7", "'rope_parameters' must be a block of settings, but is 7")]
    [InlineData("rope_parameters", "{\"rope_type\":\"yarn\"}", "the yarn block has no 'original_max_position_embeddings'")]
    [InlineData("rope_parameters", "{\"rope_type\":\"yarn\",\"rope_theta\":\"x\"}", "'rope_theta' must be a number, but is x")]
    [InlineData("num_experts_per_tok", "9", "'num_experts_per_tok' must be 1 to 8, the number of routed experts, but is 9")]
    public void A_wrong_field_of_the_config_is_named(string key, string value, string message)
    {
        var path = Path.Combine(_folder.Path, "config.json");
        var config = JsonNode.Parse(File.ReadAllText(path))!;
        config[key] = JsonNode.Parse(value);
        File.WriteAllText(path, config.ToJsonString());
        Assert.Equal($"{path}: {message}", Load<InvalidDataException>());
    }

    [Theory]
    [InlineData("{", ":1: not valid JSON: ")]
    [InlineData("[]", ": must be a JSON object, but is a list")]
    [InlineData("7", ": must be a JSON object, but is a number")]
    public void A_config_that_is_no_object_is_named(string text, string message)
    {
        var path = Path.Combine(_folder.Path, "config.json");
        File.WriteAllText(path, text);
        Assert.StartsWith(path + message, Load<InvalidDataException>(), StringComparison.Ordinal);
    }

    [Fact]
    public void An_unknown_architecture_names_the_known_ones()
    {
        var path = Path.Combine(_folder.Path, "config.json");
        File.WriteAllText(path, """{"model_type":"llama"}""");
        Assert.Equal($"{path}: model_type 'llama' is not known; known are {string.Join(", ", ModelFolder.KnownTypes)}", Load<NotSupportedException>());
    }

    [Fact]
    public void Pipes_links_to_nothing_and_files_in_the_place_of_folders_are_named()
    {
        var shard = Path.Combine(_folder.Path, "model-00004-of-00006.safetensors");
        File.Delete(shard);
        using (var made = System.Diagnostics.Process.Start("mkfifo", shard)) made.WaitForExit();
        Assert.StartsWith($"{shard}: is a pipe, a device or a socket; a safetensors file is read from regular files only", Load<InvalidDataException>(),
            StringComparison.Ordinal);
        File.Delete(shard);
        File.CreateSymbolicLink(shard, "gone");
        Assert.Equal($"{shard}: is a link to gone, which is not there", Load<FileNotFoundException>());
        var config = Path.Combine(_folder.Path, "config.json");
        File.Delete(config);
        File.CreateSymbolicLink(config, "/dev/zero");
        Assert.StartsWith($"{config}: is a pipe, a device or a socket; a model's config.json is read", Load<InvalidDataException>(), StringComparison.Ordinal);
        Assert.StartsWith($"{Index}: is no folder, but a model's folder", Assert.Throws<InvalidDataException>(() => ModelFolder.Load(Index)).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void A_file_that_is_cut_while_it_is_open_is_an_error_at_the_next_tensor()
    {
        using var checkpoint = new Checkpoint(_folder.Path);
        var shard = Path.Combine(_folder.Path, ShardOf(Norm));
        var length = new FileInfo(shard).Length;
        using (var stream = new FileStream(shard, FileMode.Open, FileAccess.Write, FileShare.ReadWrite)) stream.SetLength(length - 1);
        Assert.Equal($"{shard} has {length - 1} bytes, but had {length} when it was opened; leave a model's files alone while it is in use",
            Assert.Throws<InvalidDataException>(() => checkpoint.Stored(Norm)).Message);
    }

    [Fact]
    public void A_pass_over_a_model_whose_file_has_been_cut_is_an_error()
    {
        using var model = ModelFolder.Load(_folder.Path, DType.F32);
        var shard = Path.Combine(_folder.Path, ShardOf(Norm));
        using (var stream = new FileStream(shard, FileMode.Open, FileAccess.Write, FileShare.ReadWrite)) stream.SetLength(stream.Length - 1);
        var batch = KtNotebooks.Nn.TokenBatch.ForInference([[1, 2, 3]]);
        Assert.Contains("leave a model's files alone", Assert.Throws<InvalidDataException>(() => model.Logits(batch).Dispose()).Message,
            StringComparison.Ordinal);
        var step = new KtNotebooks.Training.LayerMajorStep(model);
        Assert.Contains("leave a model's files alone", Assert.Throws<InvalidDataException>(() =>
            step.Run(batch, cancel: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_model_that_is_disposed_gives_its_files_back()
    {
        using (var model = ModelFolder.Load(_folder.Path, DType.F32)) Assert.True(SafetensorsTests.IsMapped(_folder.Path));
        Assert.False(SafetensorsTests.IsMapped(_folder.Path));
    }

    [Fact]
    public void Fresh_weights_survive_saving_and_loading()
    {
        using var folder = new Samples.Folder();
        Tiny.Save(folder.Path);
        using var made = Tiny.Build();
        using var loaded = ModelFolder.Load(folder.Path, DType.F32);
        Assert.Equal(made.AllWeights.Select(p => p.Name), loaded.AllWeights.Select(p => p.Name));
        foreach (var (a, b) in made.AllWeights.Zip(loaded.AllWeights)) Assert.Equal(a.Tensor.ToFloats(), b.Tensor.ToFloats());
    }

    private string Load<T>()
        where T : Exception => Assert.Throws<T>(() => ModelFolder.Load(_folder.Path, DType.F32).Dispose()).Message;

    private string ShardOf(string name) => JsonNode.Parse(File.ReadAllText(Index))!["weight_map"]![name]!.GetValue<string>();

    private void EditIndex(Action<JsonObject> edit)
    {
        var index = JsonNode.Parse(File.ReadAllText(Index))!;
        edit(index["weight_map"]!.AsObject());
        File.WriteAllText(Index, index.ToJsonString());
    }

    private static void Replace(string shard, string name, Tensor tensor)
    {
        using var own = tensor;
        List<(string, Tensor)> tensors = [];
        using (var file = new SafetensorsFile(shard))
            foreach (var key in file.Entries.Keys) tensors.Add((key, key == name ? tensor.Alias() : file.Get(key).Clone()));
        SafetensorsWriter.Write(shard, tensors);
        foreach (var (_, t) in tensors) t.Dispose();
    }
}
