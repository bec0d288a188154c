using KtNotebooks.Lora;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Files;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>What a user gets wrong is one clear line and exit code 2, and nothing is written.</summary>
public class BadInputTests(Workplace place) : IClassFixture<Workplace>
{
    [Fact]
    public void A_missing_config() => Assert.Equal("nowhere.yaml: no such file", Kt.Refuses("train", "nowhere.yaml"));

    /// <summary>Of files that no code of ours has put into words.</summary>
    [Fact]
    public void What_dotnet_says_of_a_path_is_said_in_our_words()
    {
        static string Said(Action act) => KtNotebooks.Cli.Failures.OfFile(Record.Exception(act)!)!;
        Assert.Equal("/nowhere/x: no such file or folder", Said(() => File.ReadAllText("/nowhere/x")));
        Assert.Equal("/nowhere: no such file or folder", Said(() => File.ReadAllText("/nowhere")));
        Assert.Equal("/: this user may not read or write there", Said(() => File.WriteAllText("/", "")));
        Assert.Equal("/dev/full: No space left on device", Said(() => File.WriteAllText("/dev/full", "x")));
        Assert.Null(KtNotebooks.Cli.Failures.OfFile(new IOException("x.yaml:3: 'a' must be one of 'b', 'c'")));
    }

    [Fact]
    public void An_unknown_key_with_its_line_and_the_nearest_known_one()
    {
        var file = place.Write("wrong.yaml", $"model_name_or_path: {place.Model}\ndataset: good\noutput_dir: {place.Output}\nlerning_rate: 1e-4\n");
        Assert.StartsWith($"{file}:4: unknown key 'lerning_rate'.", RefusesToTrain("train", file), StringComparison.Ordinal);
        Assert.Contains("learning_rate", Kt.Refuses("train", file), StringComparison.Ordinal);
    }

    [Fact]
    public void An_unknown_key_of_a_config_whose_data_is_checked()
    {
        var file = place.Write("check.yaml",
            $"model_name_or_path: {place.Model}\ndataset: good\ndataset_dir: {Path.Combine(place.Root, "data")}\ncutof_len: 40\nlearning_rate: 1e-4\n");
        Assert.Equal($"{file}:4: unknown key 'cutof_len'. Did you mean 'cutoff_len'?", Kt.Refuses("data", "check", file));
        // keys of training are known; output_dir need not be there
        Assert.Equal(0, Kt.Run("data", "check",
            place.Write("right.yaml", File.ReadAllText(file).Replace("cutof_len", "cutoff_len", StringComparison.Ordinal))).Exit);
    }

    [Theory]
    [InlineData("file_nam", 4, "'odd': unknown key 'file_nam'. Did you mean 'file_name'?")]
    [InlineData("promt", 6, "'odd', 'columns': unknown key 'promt'. Did you mean 'prompt'?")]
    [InlineData("role_tga", 9, "'odd', 'tags': unknown key 'role_tga'. Did you mean 'role_tag'?")]
    public void An_unknown_key_of_a_data_set_s_entry(string key, int line, string message)
    {
        var right = key switch { "file_nam" => "file_name", "promt" => "prompt", _ => "role_tag" };
        var info = """
            {
              "other": { "file_name": "good.json", "columns": { "prompt": "instruction", "response": "output" } },
              "odd": {
                "file_name": "good.json",
                "columns": {
                  "prompt": "instruction", "response": "output"
                },
                "tags": {
                  "role_tag": "from"
                }
              }
            }
            """;
        var at = info.LastIndexOf($"\"{right}\"", StringComparison.Ordinal);
        var file = place.Write($"odd-{key}/dataset_info.json", info[..at] + $"\"{key}\"" + info[(at + right.Length + 2)..]);
        Assert.Equal($"{file}:{line}, {message}",
            Kt.Refuses("data", "check", $"model_name_or_path={place.Model}", $"dataset_dir={Path.GetDirectoryName(file)}", "dataset=odd"));
    }

    [Theory]
    [InlineData("lora_rank=many", "command line: 'lora_rank' must be a whole number, but is 'many'")]
    [InlineData("lora_rank=0", "lora_rank must be at least 1, but is 0")]
    [InlineData("lora_dropout=1", "lora_dropout must be in [0, 1), but is 1")]
    [InlineData("learning_rate=nan", "command line: 'learning_rate' must be a number, but is 'nan'")]
    [InlineData("lr_scheduler_type=sine", "command line: 'lr_scheduler_type' must be one of cosine, linear, constant")]
    [InlineData("stage=ppo", "command line: 'stage' is ppo, which is not to be had here: ppo needs four models at once; "
        + "dpo and kto learn the same preferences")]
    [InlineData("optim=adamw_bnb_8bit", "command line: 'optim' is adamw_bnb_8bit, which is not to be had here: moments are F32; write adamw_torch, with ")]
    [InlineData("optim=paged_adamw_8bit", "command line: 'optim' is paged_adamw_8bit, which is not to be had here: moments are F32; write adamw_torch, with ")]
    [InlineData("optim=adagrad", "command line: 'optim' is adagrad, which is not to be had here: write adamw_torch, adafactor, lion, muon or sgd")]
    [InlineData("optim=adamw_torsh", "command line: 'optim' must be one of adamw_torch, adamw_torch_fused")]
    [InlineData("lr_scheduler_type=reduce_lr_on_plateau", "command line: 'lr_scheduler_type' is reduce_lr_on_plateau, which is not to be had here: a rate here "
        + "depends on the step alone")]
    [InlineData("lr_scheduler_kwargs={warmup_lr_rate: 0.1}", "command line: 'lr_scheduler_kwargs.warmup_lr_rate' must be left out with lr_scheduler_type: ")]
    [InlineData("infer_backend=vllm", "command line: 'infer_backend' is vllm, which is not to be had here: this engine runs the model")]
    [InlineData("callbacks=[{name: x, args: {y: 1}}]", "command line: unknown key 'callbacks'")]
    [InlineData("dataset_dir=REMOTE:someone/rows", "dataset_dir is REMOTE:someone/rows: nothing is downloaded here. Get the files with `hf download ")]
    [InlineData("template=llama3", "Unknown template 'llama3'. Known: ")]
    [InlineData("stage=sleep", "command line: 'stage' must be one of sft, pt, dpo, kto, rm, but is 'sleep'")]
    [InlineData("lora_target=qproj", "lora_target 'qproj' is no linear layer of this model; known are all, ")]
    [InlineData("dataset=godo", "Unknown dataset 'godo'")]
    [InlineData("template=qwen3_5", "Unknown template 'qwen3_5': a template is made for one family of models, and this one's is not here. Known: ")]
    [InlineData("template=qwen3_nothnk", "Unknown template 'qwen3_nothnk'. Did you mean 'qwen3_nothink'")]
    [InlineData("template=deepsek", "Unknown template 'deepsek'. Did you mean 'deepseek'")]
    [InlineData("per_device_train_batch_size=0", "per_device_train_batch_size must be at least 1, but is 0")]
    [InlineData("num_train_epochs=0", "num_train_epochs must be positive, but is 0")]
    [InlineData("rubbish", "'rubbish' is neither a YAML file in first place nor key=value")]
    public void A_wrong_value_by_its_key(string pair, string message) => AssertSame(message, RefusesToTrain(place.Train(pair)));

    [Fact]
    public void A_wrong_row_by_file_and_number() => AssertSame($"{Path.Combine(place.Root, "data", "bad.json")}:2", RefusesToTrain(place.Train("dataset=bad")));

    [Fact]
    public void A_data_file_that_is_not_there() =>
        Assert.Contains(Path.Combine(place.Root, "data", "gone.json"), RefusesToTrain(place.Train("dataset=gone")), StringComparison.Ordinal);

    [Fact]
    public void A_model_folder_that_is_not_there() =>
        Assert.Contains(Path.Combine(place.Root, "nowhere"), RefusesToTrain(place.Train($"model_name_or_path={Path.Combine(place.Root, "nowhere")}")),
            StringComparison.Ordinal);

    [Fact]
    public void A_checkpoint_without_one_of_its_tensors()
    {
        const string Name = "model.layers.2.mlp.experts.3.up_proj.weight";
        var damaged = Damage(tensors => tensors.Remove(Name));
        Assert.Equal($"{damaged}: tensor '{Name}' is missing from the checkpoint (expected by config.json)",
            RefusesToTrain(place.Train($"model_name_or_path={damaged}")));
        Assert.Equal($"{damaged}: tensor '{Name}' is missing from the checkpoint (expected by config.json)",
            Kt.Refuses("chat", $"model_name_or_path={damaged}", "template=deepseek"));
    }

    [Fact]
    public void A_checkpoint_with_a_wrong_shape()
    {
        const string Name = "model.layers.2.mlp.experts.3.up_proj.weight";
        var damaged = Damage(tensors => tensors[Name] = Tensor.Zeros(DType.F32, 40, 18));
        Assert.Equal($"{Path.Combine(damaged, "model.safetensors")}: tensor '{Name}' must be [18, 40] by config.json, but is F32[40, 18]",
            RefusesToTrain(place.Train($"model_name_or_path={damaged}")));
    }

    [Fact]
    public void The_adapter_of_another_base()
    {
        using var folder = new Samples.Folder();
        using (var other = Tiny.Build(seed: 5))
        {
            LoraAdapter.Attach(other, new LoraSettings(2));
            AdapterFolder.Save(other, new LoraSettings(2), folder.Path, "other");
        }
        var message = $"{Path.Combine(folder.Path, "adapter_model.safetensors")}: was trained on another base model";
        AssertSame(message, RefusesToTrain(place.Train($"adapter_name_or_path={folder.Path}")));
        AssertSame(message, Kt.Refuses("chat", $"model_name_or_path={place.Model}", $"adapter_name_or_path={folder.Path}", "template=deepseek"));
    }

    [Fact]
    public void A_disk_without_room()
    {
        using var disk = new SmallDisk(1);
        File.WriteAllBytes(Path.Combine(disk.Path, "full"), new byte[(1 << 20) - 8192]);
        // Before the first step, not at the first checkpoint.
        var output = Path.Combine(disk.Path, "out");
        AssertSame($"{output}: not enough disk: ", RefusesToTrain(place.Train($"output_dir={output}", "save_steps=2")));
        Assert.False(Directory.Exists(output));
    }

    [Fact]
    public void A_folder_to_verify_that_is_none() => AssertSame($"{Path.Combine(place.Root, "expected.json")}: no such file", Kt.Refuses("verify", place.Root));

    [Fact]
    public void A_tokenizer_of_another_model()
    {
        var damaged = Damage(_ => { });
        var path = Path.Combine(damaged, "config.json");
        File.WriteAllText(path, File.ReadAllText(path).Replace("\"vocab_size\": 512", "\"vocab_size\": 300", StringComparison.Ordinal));
        var weights = Path.Combine(damaged, "model.safetensors");
        using (var whole = new SafetensorsFile(weights))
        {
            List<(string, Tensor)> tensors =
                [.. whole.Entries.Values.Select(e => (e.Name, e.Shape[0] == 512 ? whole.Get(e.Name).Slice(0, 300) : whole.Get(e.Name)))];
            SafetensorsWriter.Write(weights, tensors);
        }
        Assert.Matches(
            $@"^{Path.Combine(place.Root, "data", "good.json")}:1: has token \d+, but the model's vocabulary ends at 299; "
                + $@"tokenizer.json in {damaged} belongs to another model$", RefusesToTrain(place.Train($"model_name_or_path={damaged}")));
    }

    [Fact]
    public void A_command_line_that_is_none() =>
        Assert.Equal("kt has no command 'trian'. Did you mean 'train'? `kt help` lists the commands", Kt.Refuses("trian"));

    [Fact]
    public void Help_is_no_error()
    {
        var (exit, output, errors) = Kt.Run("--help");
        Assert.Equal((0, ""), (exit, errors));
        Assert.All(new[]
        {
            "train", "pretrain", "chat", "verify", "kernel", "notebook"
        }, command => Assert.Contains(command, output, StringComparison.Ordinal));
    }

    private string RefusesToTrain(params string[] arguments)
    {
        var message = Kt.Refuses(arguments);
        Assert.False(Directory.Exists(place.Output), "a refused run has written something");
        return message;
    }

    private static void AssertSame(string beginning, string message) => Assert.StartsWith(beginning, message, StringComparison.Ordinal);

    private string Damage(Action<Dictionary<string, Tensor>> change)
    {
        var folder = Path.Combine(place.Root, "damaged-" + Guid.NewGuid().ToString("n"));
        Checkout.Copy(place.Model, folder);
        var path = Path.Combine(folder, "model.safetensors");
        Dictionary<string, Tensor> tensors;
        using (var file = new SafetensorsFile(path)) tensors = file.Entries.Keys.ToDictionary(k => k, k => file.Get(k));
        change(tensors);
        SafetensorsWriter.Write(path, [.. tensors.Select(t => (t.Key, t.Value))]);
        foreach (var tensor in tensors.Values) tensor.Dispose();
        return folder;
    }
}
