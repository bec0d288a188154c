using System.Text.Json.Nodes;

using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>Each field of adapter_config.json acts as in PEFT, has no effect, or is refused by its name.</summary>
[Collection("cpu variant")] // bits are compared: nobody may change the kernels meanwhile
public sealed class PeftFieldsTests : IDisposable
{
    private const string Query = "model.layers.1.self_attn.q_proj";

    private readonly Samples.Folder _folder = new();
    private readonly CausalLm _base = Tiny.Build();

    public PeftFieldsTests()
    {
        using var model = Tiny.WithAdapter();
        AdapterFolder.Save(model, new LoraSettings(3, 6), _folder.Path, "base");
    }

    private string Config => Path.Combine(_folder.Path, "adapter_config.json");

    public void Dispose()
    {
        _base.Dispose();
        _folder.Dispose();
    }

    [Fact]
    public void Every_field_has_one_line_in_the_table()
    {
        string[] fields = // of PEFT 0.21's LoraConfig and PeftConfig
        [
            "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
            "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
            "inference_mode", "init_lora_weights", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
            "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config",
            "megatron_core", "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
            "runtime_config", "target_modules", "target_parameters", "task_type",
            "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config",
        ];
        Assert.Empty(fields.Except(PeftFields.All.Select(f => f.Name)));
        Assert.Equal(PeftFields.All.Count, PeftFields.All.DistinctBy(f => f.Name).Count());
        Assert.All(PeftFields.All, f => Assert.NotEmpty(f.Why));
    }

    /// <summary>Scales by what PEFT computes: rank 3, and B·A times the scale is all that an adapter adds.</summary>
    [Theory]
    [InlineData("lora_alpha", "0", 0f)]
    [InlineData("lora_alpha", "-6", -2f)]
    [InlineData("lora_alpha", "1.5", 0.5f)]
    [InlineData("use_rslora", "true", 3.4641016f)] // 6 / √3
    [InlineData("use_rslora", "null", 2f)]
    [InlineData("alpha_pattern", "{\"layers.1.self_attn.q_proj\": 9}", 3f)]
    [InlineData("alpha_pattern", "{\"^q_proj\": 9}", 2f)]
    public void The_scale_is_PEFT_s(string key, string value, float scale)
    {
        Load((key, value));
        Assert.Equal(scale, PairOf(Query).Scale);
    }

    [Fact]
    public void At_alpha_0_the_model_is_the_base()
    {
        var before = AdapterFormsTests.Logits(_base);
        Load(("lora_alpha", "0"));
        Assert.Equal(before, AdapterFormsTests.Logits(_base));
    }

    [Fact]
    public void What_changes_no_stored_adapter_is_passed_over()
    {
        var plain = Logits();
        foreach (var (key, value) in ((string, string)[])
                 [
                     ("init_lora_weights", "false"), ("init_lora_weights", "\"gaussian\""), ("init_lora_weights", "\"eva\""),
                     ("init_lora_weights", "\"orthogonal\""), ("init_lora_weights", "null"), ("fan_in_fan_out", "true"),
                     ("task_type", "\"SEQ_CLS\""), ("auto_mapping", "{\"base_model_class\": \"X\", \"unsloth_fixed\": true}"), ("revision", "\"main\""),
                     ("inference_mode", "false"), ("megatron_config", "{\"a\": 1}"),
                     ("loftq_config", "{\"loftq_bits\": 4}"), ("eva_config", "{\"rho\": 2.0}"), ("corda_config", "{\"x\": 1}"),
                     ("lora_ga_config", "{\"x\": 1}"), ("qalora_group_size", "32"), ("velora_config", "{\"x\": 1}"),
                     ("ensure_weight_tying", "true"), ("target_modules", "null"), ("target_modules", "\"all-linear\""), ("target_modules", "\".*_proj.*\""),
                     ("exclude_modules", "[\"lm_head\"]"),
                     ("layers_to_transform", "[0, 1, 2, 3]"), ("use_dora", "null"), ("bias", "null"), ("modules_to_save", "[]"), ("rank_pattern", "null"),
                     ("lorap_emb_lr", "1e-6"),
                 ])
        {
            Assert.Equal(plain, Logits((key, value)));
            Assert.Empty(_base.Notes);
        }
    }

    [Theory]
    [InlineData("use_qalora", "true", "'use_qalora' is true, which")]
    [InlineData("use_bdlora", "{\"target_modules_bd_a\": [\"q_proj\"]}", "'use_bdlora' is {\"target_modules_bd_a\": [\"q_proj\"]}, which")]
    [InlineData("lora_bias", "true", "'lora_bias' is true, which")]
    [InlineData("bias", "\"all\"", "'bias' is \"all\", which")]
    [InlineData("bias", "\"lora_only\"", "'bias' is \"lora_only\", which")]
    [InlineData("trainable_token_indices", "[1, 2]", "'trainable_token_indices' is [1, 2], which")]
    [InlineData("target_parameters", "[\"experts.gate_up_proj\"]", "'target_parameters' names experts.gate_up_proj, but the file holds no pair")]
    [InlineData("layer_replication", "[[0, 2], [1, 3]]", "'layer_replication' is [[0, 2], [1, 3]], which")]
    [InlineData("alora_invocation_tokens", "[5, 6]", "'alora_invocation_tokens' is [5, 6], which is not supported: the adapter acts only from these " +
        "tokens on (aLoRA)")]
    [InlineData("arrow_config", "{\"top_k\": 3}", "'arrow_config' is {\"top_k\": 3}, which")]
    [InlineData("monteclora_config", "{\"n\": 8}", "'monteclora_config' is {\"n\": 8}, which")]
    [InlineData("kasa_config", "{\"beta\": 0.1}", "'kasa_config' is {\"beta\": 0.1}, which")]
    [InlineData("init_lora_weights", "\"pissa\"", "'init_lora_weights' is \"pissa\": PEFT takes the first pair off the base's weights, so this pair " +
        "does not belong to the base as it is stored; convert it with PEFT: save_pretrained(")]
    [InlineData("init_lora_weights", "\"pissa_niter_16\"", "'init_lora_weights' is \"pissa_niter_16\": PEFT takes")]
    [InlineData("init_lora_weights", "\"OLoRA\"", "'init_lora_weights' is \"OLoRA\": PEFT takes")]
    [InlineData("init_lora_weights", "\"corda\"", "'init_lora_weights' is \"corda\": PEFT takes")]
    [InlineData("init_lora_weights", "\"lora_ga\"", "'init_lora_weights' is \"lora_ga\": PEFT takes")]
    [InlineData("init_lora_weights", "\"loftq\"", "'init_lora_weights' is \"loftq\": PEFT quantises the base's weights")]
    [InlineData("init_lora_weights", "\"magic\"", "'init_lora_weights' is \"magic\"; known are true, false, gaussian, eva and orthogonal")]
    [InlineData("init_lora_weights", "7", "'init_lora_weights' is 7; known are")]
    [InlineData("peft_type", "\"IA3\"", "'peft_type' is \"IA3\", which is not supported; only LORA is")]
    [InlineData("use_next_variant", "true", "'use_next_variant' is true, but is no field of LoraConfig in PEFT 0.21")]
    [InlineData("next_config", "{\"a\": 1}", "'next_config' is {\"a\": 1}, but is no field of LoraConfig in PEFT 0.21")]
    public void What_changes_the_meaning_is_refused_by_name(string key, string value, string message) => Refused(message, (key, value));

    [Theory]
    [InlineData("r", null, "'r' is missing; it must be a number, as PEFT writes it")]
    [InlineData("lora_alpha", null, "'lora_alpha' is missing; it must be a number, as PEFT writes it")]
    [InlineData("r", "null", "'r' is missing")]
    [InlineData("r", "4.5", "'r' must be a whole number, but is 4.5")]
    [InlineData("r", "\"4\"", "'r' must be a whole number, but is \"4\"")]
    [InlineData("r", "9999999999", "'r' must be a whole number, but is 9999999999")]
    [InlineData("lora_alpha", "\"8\"", "'lora_alpha' must be a number, but is \"8\"")]
    [InlineData("lora_alpha", "[8]", "'lora_alpha' must be a number, but is [8]")]
    [InlineData("lora_dropout", "\"0\"", "'lora_dropout' must be a number, but is \"0\"")]
    [InlineData("use_rslora", "\"true\"", "'use_rslora' must be true or false, but is \"true\"")]
    [InlineData("rank_pattern", "[1]", "'rank_pattern' must be a block of patterns and numbers, but is [1]")]
    [InlineData("rank_pattern", "{\"q_proj\": \"4\"}", "'rank_pattern.q_proj' must be a whole number, but is \"4\"")]
    [InlineData("alpha_pattern", "{\"q_proj\": null}", "'alpha_pattern.q_proj' must be a number, but is null")]
    [InlineData("target_modules", "7", "'target_modules' must be a text or a list of texts, but is 7")]
    [InlineData("target_modules", "[7]", "'target_modules' must be a text or a list of texts, but holds 7")]
    [InlineData("layers_to_transform", "\"1\"", "'layers_to_transform' must be a whole number or a list of them, but holds \"1\"")]
    public void A_field_that_is_missing_or_of_another_type_is_named(string key, string? value, string message) => Refused(message, (key, value));

    /// <summary>PEFT gives such a module no pair and passes over what is stored for it.</summary>
    [Theory]
    [InlineData("target_modules", "[\"q_proj\", \"o_proj\"]", "'target_modules' leaves out the module of tensor '")]
    [InlineData("target_modules", "\".*q_proj\"", "'target_modules' leaves out")]
    [InlineData("target_modules", "[]", "'target_modules' leaves out")]
    [InlineData("exclude_modules", "[\"o_proj\"]", "'exclude_modules' leaves out")]
    [InlineData("exclude_modules", "\".*layers\\\\.2\\\\..*\"", "'exclude_modules' leaves out")]
    [InlineData("layers_to_transform", "[0, 1]", "'layers_to_transform' leaves out the module of tensor '")]
    [InlineData("layers_to_transform", "0", "'layers_to_transform' leaves out")]
    public void A_pair_that_the_settings_leave_out_is_named(string key, string value, string message) => Refused(message, (key, value));

    [Fact]
    public void Layers_are_counted_as_PEFT_counts_them()
    {
        Refused("'layers_to_transform' leaves out", ("layers_to_transform", "[0, 1, 2]"), ("layers_pattern", "\"blocks\""));
        // without a pattern the last number counts
        Refused("'layers_to_transform' leaves out the module of tensor 'base_model.model.model.layers.1.mlp.experts.3.", ("layers_to_transform", "[0, 1, 2]"));
        Assert.Equal(Logits(), Logits(("layers_to_transform", "[0, 1, 2]"), ("layers_pattern", "[\"blocks\", \"layers\"]")));
        Refused("'layers_to_transform' needs a list of names as 'target_modules'", ("layers_to_transform", "[0, 1, 2]"), ("target_modules", "\".*\""));
    }

    [Fact]
    public void Patterns_take_bounded_time()
    {
        var brackets = new string('(', 1000);
        Load(("alpha_pattern", "{\"a*a*a*a*a*a*a*a*a*a*b\": 3}"));
        Load(("exclude_modules", "\"a*a*a*a*a*a*a*a*a*a*b\""));
        Refused("exclude_modules: the brackets of a pattern may stand 200 deep", ("exclude_modules", $"\"{brackets}\""));
        Refused("pattern '((((((", ("rank_pattern", $"{{\"{brackets}\": 3}}"));
        Refused("rank_pattern and alpha_pattern may have 1,024 patterns together, but have 2,000",
            ("rank_pattern", $"{{{string.Join(',', Enumerable.Range(0, 2000).Select(i => $"\"m{i}\": 3"))}}}"));
    }

    [Fact]
    public void A_number_of_a_later_version_is_passed_over_and_said()
    {
        var plain = Logits();
        Assert.Equal(plain, Logits(("next_group_size", "16")));
        Assert.Equal([$"{Config}: 'next_group_size' is no field of LoraConfig in PEFT 0.21: no effect"], _base.Notes);
    }

    private LinearLora PairOf(string path) => _base.All().OfType<KtNotebooks.Nn.Linear>().Single(l => l.Path == path).Adapter!;

    private float[] Logits(params (string Key, string? Value)[] fields)
    {
        Load(fields);
        return AdapterFormsTests.Logits(_base);
    }

    /// <summary>Loads the adapter with other fields; the file on disk stays as it was.</summary>
    private void Load(params (string Key, string? Value)[] fields)
    {
        var text = File.ReadAllText(Config);
        var config = JsonNode.Parse(text)!.AsObject().ToDictionary(f => f.Key, f => f.Value?.ToJsonString() ?? "null");
        foreach (var (key, value) in fields)
        {
            if (value is null) config.Remove(key);
            else config[key] = value;
        }
        File.WriteAllText(Config, $"{{{string.Join(", ", config.Select(f => $"\"{f.Key}\": {f.Value}"))}}}");
        try
        {
            AdapterFolder.Load(_base, _folder.Path);
        }
        finally
        {
            File.WriteAllText(Config, text);
        }
    }

    private void Refused(string message, params (string Key, string? Value)[] fields) =>
        Assert.StartsWith($"{Config}: {message}", Assert.ThrowsAny<Exception>(() => Load(fields)).Message, StringComparison.Ordinal);
}
