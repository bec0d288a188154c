using KtNotebooks.Configuration;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Configuration;

public sealed class SettingsTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Pairs_win_over_the_file_and_are_read_as_YAML()
    {
        var file = _folder.Write("a.yaml", "rank: 8\nrate: 1e-4\nname: 'null'\ntargets: [q_proj, o_proj]\nflag: yes\n");
        var s = Settings.Read([file, "rank=16", "targets=a,b", "empty=", "nothing=null", "list=[x, y]", "text=a=b"]);
        Assert.Equal(16, s.Int("rank", 0));
        Assert.Equal(1e-4, s.Number("rate", 0));
        Assert.Equal("null", s.Text("name"));
        Assert.Equal(["a", "b"], s.List("targets"));
        Assert.Equal(["x", "y"], s.List("list"));
        Assert.True(s.Flag("flag"));
        Assert.False(s.Has("empty"));
        Assert.Equal(3, s.Int("nothing", 3));
        Assert.Equal("a=b", s.Text("text"));
        Assert.Empty(s.Unread);
    }

    [Fact]
    public void A_tilde_is_the_home_folder_and_a_star_needs_no_second_quotes()
    {
        var s = Settings.Read([_folder.Write("a.yaml", "a: ~/x/y\nb: '~/x'\nc: a~/x\nd: ~\n"), "api_cors=*"]);
        Assert.Equal(Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), "x/y"), s.Text("a"));
        Assert.Equal("~/x", s.Text("b"));
        Assert.Equal("a~/x", s.Text("c"));
        Assert.False(s.Has("d"));
        Assert.Equal("*", s.Text("api_cors"));
    }

    [Fact]
    public void The_environment_is_asked_as_OmegaConf_asks_it()
    {
        var s = Settings.Read([_folder.Write("a.yaml", "a: ${oc.env:HOME}/x\nb: '${oc.env:KT_NOT_THERE, none}'\nc: 5 ${x}\n")]);
        Assert.Equal(Environment.GetEnvironmentVariable("HOME") + "/x", s.Text("a"));
        Assert.Equal("none", s.Text("b"));
        Assert.Equal("5 ${x}", s.Text("c"));
        var file = _folder.Write("b.yaml", "x: 1\na: ${oc.env:KT_NOT_THERE}\n");
        Assert.Equal($"{file}:2: the environment has no KT_NOT_THERE, which ${{oc.env:KT_NOT_THERE}} asks for",
            Assert.Throws<ArgumentException>(() => Settings.Read([file])).Message);
    }

    [Fact]
    public void An_unknown_key_is_named_with_its_place_and_the_nearest_known_one()
    {
        var file = _folder.Write("a.yaml", "# a comment\n\nlora_rnak: 8\n");
        var s = Settings.Read([file]);
        s.Int("lora_rank", 8);
        s.Int("lora_alpha", 8);
        var error = Assert.Throws<ArgumentException>(() => s.Finish("kt train"));
        Assert.StartsWith($"{file}:3: unknown key 'lora_rnak'.", error.Message, StringComparison.Ordinal);
        Assert.Contains("lora_rank", error.Message, StringComparison.Ordinal);

        s = Settings.Read([_folder.Write("b.yaml", ""), "zzz=1"]);
        Assert.StartsWith("command line: unknown key 'zzz'.", Assert.Throws<ArgumentException>(() => s.Finish("kt train")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a whole number", "x: 1.5")]
    [InlineData("a whole number", "x: many")]
    [InlineData("a whole number", "x: [1, 2]")]
    [InlineData("a number", "x: 1,5")]
    [InlineData("a number", "x: nan")]
    [InlineData("a number", "x: Infinity")]
    [InlineData("true or false", "x: maybe")]
    [InlineData("one of a, b", "x: c")]
    public void A_wrong_type_is_named_with_file_and_line(string wanted, string line)
    {
        var file = _folder.Write("a.yaml", "y: 1\n" + line + "\n");
        var s = Settings.Read([file]);
        Action read = wanted switch
        {
            "a whole number" => () => s.MaybeInt("x"),
            "a number" => () => s.MaybeNumber("x"),
            "true or false" => () => s.Flag("x"),
            _ => () => s.OneOf("x", "a", "a", "b"),
        };
        Assert.StartsWith($"{file}:2: 'x' must be {wanted}, but is '", Assert.Throws<ArgumentException>(read).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("x: 1\nx: 2\n", "{0}:2: not valid YAML")]
    [InlineData("x: 1\n---\ny: 2\n", "{0}:3: a second YAML document begins here")]
    [InlineData("x: [1\n", "{0}:2: not valid YAML")]
    [InlineData("x: 1\n\ty: 2\n", "{0}:2: not valid YAML: a tab stands where the line is indented; YAML takes blanks alone")]
    [InlineData("x:\n  y: 1\n \tz: 2\n", "{0}:3: not valid YAML: a tab stands where the line is indented; YAML takes blanks alone")]
    [InlineData("- x\n- y\n", "{0}:1: a config is a list of `key: value` lines")]
    [InlineData("just text\n", "{0}:1: a config is a list of `key: value` lines")]
    [InlineData("a: 1\nx: {y: [1, [2]]}\n", "{0}:2: 'x.y' must be a value or a list of values")]
    [InlineData("a: 1\nx: [1, [2]]\n", "{0}:2: 'x' must be a value or a list of values")]
    [InlineData("a: 1\n[1, 2]: 3\n", "{0}:2: a key must be a word")]
    public void A_file_that_is_no_flat_mapping_is_named_with_its_line(string text, string message)
    {
        var file = _folder.Write("a.yaml", text);
        Assert.StartsWith(string.Format(message, file), Assert.Throws<InvalidDataException>(() => Settings.Read([file])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_block_reads_as_keys_with_a_dot_that_know_their_lines()
    {
        var file = _folder.Write("a.yaml", "a: 1\nkt_config:\n  kt_backend: INT8\n  kt_policy: {cpu: retain, gpu: recompute}\n");
        var s = Settings.Read([file, "kt_config.kt_backend=FP8"]);
        Assert.Equal("FP8", s.Text("kt_config.kt_backend"));
        Assert.Equal("recompute", s.Text("kt_config.kt_policy.gpu"));
        Assert.Equal("command line", s.Where("kt_config.kt_backend"));
        Assert.Equal(["a", "kt_config.kt_policy.cpu"], s.Unread);
        s.MaybeInt("a");
        Assert.StartsWith($"{file}:4: unknown key 'kt_config.kt_policy.cpu'.", Assert.Throws<ArgumentException>(() => s.Finish("kt train")).Message,
            StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_missing_is_named()
    {
        Assert.Equal("nowhere.yaml: no such file", Assert.Throws<FileNotFoundException>(() => Settings.Read(["nowhere.yaml"])).Message);
        Assert.Equal("'second.yaml' is neither a YAML file in first place nor key=value",
            Assert.Throws<ArgumentException>(() => Settings.Read(["a=1", "second.yaml"])).Message);
        Assert.Equal("command line: 'x' is required: it has no default", Assert.Throws<ArgumentException>(() => Settings.Read(["a=1"]).Required("x")).Message);
    }

    [Fact]
    public void Merge_keys_bring_what_is_not_there()
    {
        var file = _folder.Write("a.yaml", "base: &base {lora_rank: 4, seed: 7}\n<<: *base\nseed: 8\nkt_config:\n  <<: [*base]\n  kt_backend: BF16\n");
        var s = Settings.Read([file]);
        Assert.Equal((4, 8), (s.Int("lora_rank"), s.Int("seed")));
        Assert.Equal("7", s.Text("kt_config.seed"));
        Assert.Contains(":2: << takes a mapping",
            Assert.Throws<InvalidDataException>(() => Settings.Read([_folder.Write("b.yaml", "a: &a 1\n<<: *a\n")])).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("x: 1e5", 100_000)]
    [InlineData("x: 8.0", 8)]
    [InlineData("x: -3", -3)]
    public void A_whole_number_has_YAML_s_spellings(string line, int value) =>
        Assert.Equal(value, Settings.Read([_folder.Write("n.yaml", line)]).MaybeInt("x"));

    [Theory]
    [InlineData("x: 2147483648")]
    [InlineData("x: 1e300")]
    public void A_number_beyond_the_type_is_refused(string line) =>
        Assert.Contains("'x' must be a whole number",
            Assert.Throws<ArgumentException>(() => Settings.Read([_folder.Write("n.yaml", line)]).MaybeInt("x")).Message, StringComparison.Ordinal);

    [Fact]
    public void Files_that_grow_when_they_are_read_are_refused_at_once()
    {
        string Refused(string text) => Assert.Throws<InvalidDataException>(() => Settings.Read([_folder.Write("bomb.yaml", text)])).Message;
        var laughs = "a0: &a0 {x: 1}\n" + string.Concat(Enumerable.Range(1, 30).Select(i => $"a{i}: &a{i} {{l: *a{i - 1}, r: *a{i - 1}}}\n"));
        Assert.Contains("bomb.yaml:", Refused(laughs), StringComparison.Ordinal);
        Assert.Contains("nested more than", Refused("a: " + new string('[', 200_000)), StringComparison.Ordinal);
        Assert.Contains("nested more than", Refused(string.Concat(Enumerable.Range(0, 1000).Select(i => new string(' ', i) + "a:\n"))),
            StringComparison.Ordinal);
        Assert.Contains("values", Refused("a: [" + string.Concat(Enumerable.Repeat("1,", 300_000)) + "1]"), StringComparison.Ordinal);
    }

    [Fact]
    public void Every_key_that_nobody_reads_has_its_answer()
    {
        var file = _folder.Write("a.yaml", """
            ddp_timeout: 7200
            local_rank: 3
            fp16: false
            deepspeed: null
            learning_rate: 1e-4
            fsdp_config: {fsdp_version: 2}
            """);
        var notes = Settings.Read([file]).Finish("kt chat");
        Assert.Equal(
            ["no effect here: ddp_timeout, local_rank (the ranks that mpirun, srun or torchrun start share every step; nothing of it is set here)",
                "no effect here: learning_rate (`kt chat` does not use it)", "no effect here: fsdp_config.fsdp_version (goes with fsdp)"], notes);
        Assert.Equal("command line: 'fp16' is true, which is not to be had here: write bf16: true; F16 has too small a range to train in without loss scaling",
            Assert.Throws<ArgumentException>(() => Settings.Read([file, "fp16=true"]).Finish("kt train")).Message);
        Assert.Contains("Did you mean 'eval_strategy'?", Assert.Throws<ArgumentException>(() => Settings.Read(["eval_stratgy=no"]).Finish("kt train")).Message,
            StringComparison.Ordinal);
    }
}
