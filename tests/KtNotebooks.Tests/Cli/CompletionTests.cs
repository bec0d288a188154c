using System.Diagnostics;

using KtNotebooks.Cli;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>What TAB offers.</summary>
public class CompletionTests
{
    [Theory]
    [InlineData("tr|", "train")]
    [InlineData("model |", "make inspect load")]
    [InlineData("help model in|", "inspect")]
    [InlineData("completion |", "bash fish zsh")]
    [InlineData("train lora_r|", "lora_rank= :files")]
    [InlineData("train --lora_r|", "--lora_rank")]
    [InlineData("chat template=deepseekr|", "template=deepseekr1")]
    [InlineData("chat model_name_or_path=no|", ":files")]
    [InlineData("plan deepseek-v3|", "deepseek-v3 :files")]
    [InlineData("bench train --experts s|", "split streamed")]
    [InlineData("verify x --dtype |", "bf16 both f32")]
    [InlineData("eval --predictions |", ":files")]
    [InlineData("verify |", ":files")]
    [InlineData("kernel install --pre|", "--prefix")]
    public void Offers_what_may_stand_there(string line, string candidates)
    {
        var offered = Completions.Of(Commands.Create(), line.TrimEnd('|').Split(' ')).ToArray();
        Assert.All(candidates.Split(' '), c => Assert.Contains(c, offered));
        if (!line.Contains("lora", StringComparison.Ordinal))
            Assert.Equal(candidates.Split(' ').Order(StringComparer.Ordinal), offered.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Every_command_and_no_hidden_one_is_offered()
    {
        var offered = Completions.Of(Commands.Create(), [""]).ToArray();
        Assert.Contains("train", offered);
        Assert.Contains("test", offered);
        Assert.DoesNotContain("complete", offered);
    }

    [Fact]
    public void The_bash_script_completes_commands_keys_and_files()
    {
        var kt = Path.Combine(AppContext.BaseDirectory, "kt");
        var script = $$"""
            eval "$({{kt}} completion bash)"
            complete -p kt
            try() { COMP_LINE=$1; COMP_POINT=${#1}; _kt 2>/dev/null; printf '%s\n' "${COMPREPLY[*]}"; }
            try "{{kt}} trai"
            try "{{kt}} train lora_ran"
            try "{{kt}} chat template=deepseekr"
            try "{{kt}} train notebooks/con"
            try "{{kt}} train model_name_or_path=notebooks/mod"
            """;
        var start = new ProcessStartInfo("bash", ["--norc", "-c", script]) { RedirectStandardOutput = true, WorkingDirectory = Checkout.Root };
        using var bash = Process.Start(start)!;
        Assert.Equal(["complete -F _kt kt", "train", "lora_rank=", "deepseekr1", "notebooks/configs", "notebooks/models"], bash.StandardOutput.ReadToEnd()
            .Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    [Theory]
    [InlineData("zsh", "compdef _kt kt")]
    [InlineData("fish", "complete -c kt -f -a '(__kt_complete)'")]
    public void Other_shells_get_a_script(string shell, string line)
    {
        var (exit, output, errors) = Kt.Run("completion", shell);
        Assert.Equal((0, ""), (exit, errors));
        Assert.Contains(line, output.Split('\n'));
    }
}
