using KtNotebooks.Cli;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>What a wrong command line is answered, and LLaMA-Factory's form of options.</summary>
public class CommandLineTests
{
    [Theory]
    [InlineData("kt has no command 'trian'. Did you mean 'train'? `kt help` lists the commands", "trian", "x.yaml")]
    [InlineData("kt has no command 'zzz'. `kt help` lists the commands", "zzz")]
    [InlineData("kt model has no command 'mak'. Did you mean 'make'? `kt model --help` shows what there is", "model", "mak")]
    [InlineData("kt data make has no command 'neco'. Did you mean 'neko'? `kt data make --help` shows what there is", "data", "make", "neco")]
    [InlineData("kt convert wants one of fp8-to-bf16; `kt convert --help` shows what there is", "convert")]
    [InlineData("what should be done with my.yaml? `kt train my.yaml`, for example. `kt help` lists the commands", "my.yaml")]
    [InlineData("kt tour has no option '--ot'. Did you mean '--out'? `kt tour --help` shows what there is", "tour", "--ot", "x")]
    [InlineData("kt verify has no use for 'b'. `kt verify --help` shows what there is", "verify", "a", "b")]
    [InlineData("kt train wants CONFIG: a YAML file and key=value pairs over it, or key=value pairs alone; `kt train --help` shows what there is", "train")]
    [InlineData("kt report wants --out: the folder for report.md, report.html and the charts; `kt report --help` shows what there is", "report", "a/b=c")]
    [InlineData("--layers wants a value: all, or the first so many; `kt bench train --help` shows what there is", "bench", "train", "--layers")]
    [InlineData("--steps must be a whole number up to 2147483647, but is 'x'; `kt bench train --help` shows what there is", "bench", "train", "--steps", "x")]
    [InlineData("--steps is given 2 times, and is wanted once; `kt bench train --help` shows what there is", "bench", "train", "--steps", "1", "--steps", "2")]
    [InlineData("--experts must be one of cpu, resident, split, streamed, but is 'gpu'; `kt bench train --help` shows what there is", "bench", "train",
        "--experts", "gpu")]
    [InlineData("--dtype must be one of bf16, both, f32, but is 'f16'; `kt verify --help` shows what there is", "verify", "x", "--dtype", "f16")]
    public void Says_the_word_and_what_is_meant_to_stand_there(string message, params string[] arguments) =>
        Assert.Equal(message, CommandLineErrors.Describe(Commands.Parse(Commands.Create(), arguments)));

    [Theory]
    [InlineData("webui", "the notebooks show and steer a run in the browser")]
    public void Names_what_does_the_work_of_LLaMA_Factory_s_other_commands(string command, string instead) =>
        Assert.StartsWith($"there is no command '{command}': {instead}", CommandLineErrors.Describe(Commands.Parse(Commands.Create(), [command, "x.yaml"])),
            StringComparison.Ordinal);

    [Theory]
    [InlineData("train --stage sft --lora_rank=8 --do_train", "train stage=sft lora_rank=8 do_train=true")]
    [InlineData("train a.yaml --learning-rate -1e-4 max_steps=3", "train a.yaml learning_rate=-1e-4 max_steps=3")]
    [InlineData("train --do_train stage=sft", "train do_train=true stage=sft")]
    [InlineData("train --kt_config {kt_backend:FP8} --lora_target [q_proj,v_proj]", "train kt_config={kt_backend:FP8} lora_target=[q_proj,v_proj]")]
    [InlineData("data check --template deepseek", "data check template=deepseek")]
    [InlineData("eval --predictions f.jsonl --json", "eval --predictions f.jsonl --json")]
    [InlineData("plan deepseek-v3 --json --tokens_per_step 8192", "plan deepseek-v3 --json tokens_per_step=8192")]
    [InlineData("model make --shape deepseek-v3", "model make --shape deepseek-v3")]
    [InlineData("train --help", "train --help")]
    [InlineData("export a.yaml --export_dir out", "export a.yaml export_dir=out")]
    [InlineData("chat --bf16 null", "chat bf16=null")]
    public void Keys_may_stand_as_options(string line, string pairs) => Assert.Equal(pairs.Split(' '), KeyOptions.ToPairs(Commands.Create(), line.Split(' ')));

    [Fact]
    public void An_option_s_text_is_no_YAML()
    {
        string[] pairs = KeyOptions.ToPairs(Commands.Create(), ["chat", "--default_system", "You are: a \"cat\" # 喵", "--template=deepseek"]);
        Assert.Equal("You are: a \"cat\" # 喵", KtNotebooks.Configuration.Settings.Read(pairs[1..]).Text("default_system"));
        Assert.Equal("template=deepseek", pairs[2]);
    }

    [Fact]
    public void A_slip_in_a_command_s_own_option_is_no_key() =>
        Assert.Equal("unknown option '--predictoins'. Did you mean '--predictions'?",
            Assert.Throws<ArgumentException>(() => KeyOptions.ToPairs(Commands.Create(), ["eval", "--predictoins", "f"])).Message);

    [Fact]
    public void An_empty_word_is_refused() =>
        Assert.StartsWith("an empty word stands in the command line",
            Assert.Throws<ArgumentException>(() => KeyOptions.ToPairs(Commands.Create(), ["train", ""])).Message, StringComparison.Ordinal);

    [Fact]
    public void A_word_with_an_at_sign_is_no_file_of_more_words() =>
        Assert.Equal("kt has no command '@/dev/zero'. `kt help` lists the commands",
            CommandLineErrors.Describe(Commands.Parse(Commands.Create(), ["@/dev/zero"])));

    [Fact]
    public void Keys_as_options_reach_a_run()
    {
        using var place = new Workplace();
        var (exit, output, errors) = Kt.Run("data", "check", "--model_name_or_path", place.Model, "--dataset_dir", Path.Combine(place.Root, "data"),
            "--dataset", "good", "--template=deepseek");
        Assert.True(exit == 0, output + errors);
        Assert.Contains("training: 24 rows", output, StringComparison.Ordinal);
    }

    [Fact]
    public void Help_version_and_env_answer()
    {
        var help = Kt.Run("help", "model", "make");
        Assert.Equal((0, ""), (help.Exit, help.Errors));
        Assert.Contains("--shape", help.Output, StringComparison.Ordinal);
        Assert.StartsWith("--finetuning full is for --experts resident or streamed in bf16", Kt.Refuses("bench", "train", "--finetuning", "full", "--format",
            "int4", "--device", "cpu"), StringComparison.Ordinal);
        Assert.Equal("--rank is of adapters, and --finetuning full makes none", Kt.Refuses("bench", "train", "--finetuning", "full", "--rank", "16"));
        Assert.Contains("adapters are written as a folder", Kt.Refuses("adapter", "nowhere", "out.gguf"), StringComparison.Ordinal);
        Assert.Equal("kt has no command 'trian'. Did you mean 'train'? `kt help` lists the commands", Kt.Refuses("help", "trian"));
        Assert.Contains("\nKeys (", Kt.Run("train", "--help").Output, StringComparison.Ordinal);
        Assert.DoesNotContain("\nKeys (", Kt.Run("bench", "train", "--help").Output, StringComparison.Ordinal); // it takes none
        var version = Kt.Run("version");
        Assert.Equal((0, ""), (version.Exit, version.Errors));
        Assert.Matches(@"^kt \d+\.\d+\.\d+\S*\n$", version.Output);
        var env = Kt.Run("env");
        Assert.Equal((0, ""), (env.Exit, env.Errors));
        Assert.All((string[])["kt version", "system", "CPU kernels", "memory", "disk"], what => Assert.Matches($"(?m)^- {what}: .+$", env.Output));
    }
}
