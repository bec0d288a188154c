using System.Text.Json.Nodes;

using KtNotebooks.Files;

using Xunit;

namespace KtNotebooks.Tests.Cli;

/// <summary>`kt train` as a user meets it: run through, killed, stopped by Ctrl-C, started again.</summary>
public class TrainingRunTests
{
    [Fact]
    public void A_run_leaves_an_adapter_a_log_and_a_picture()
    {
        using var place = new Workplace();
        var (exit, output, errors) = Kt.Run(place.Train("save_steps=5"));
        Assert.Equal((0, ""), (exit, errors));
        Assert.Contains("done: 12 steps", output, StringComparison.Ordinal);
        Assert.Single(System.Text.RegularExpressions.Regex.Matches(output, @"(?m)^loaded model: [\d.]+ kB read or mapped in \d+\.\d s, \d+\.\d\d GB/s$"));
        Assert.Contains("tokens/s", output, StringComparison.Ordinal);
        Assert.Contains("ETA", output, StringComparison.Ordinal);
        Assert.Equal(
            ["README.md", "adapter_config.json", "adapter_model.safetensors", "all_results.json", "checkpoint-10", "checkpoint-12", "checkpoint-5",
                "tokenizer.json",
                "tokenizer_config.json", "train_results.json", "trainer_log.jsonl",
                "trainer_state.json", "training_args.yaml", "training_loss.png"],
            Directory.GetFileSystemEntries(place.Output).Select(Path.GetFileName).Order(StringComparer.Ordinal));
        var losses = Steps(place.Output).Select(l => l["loss"]!.GetValue<double>()).ToArray();
        Assert.Equal(12, losses.Length);
        Assert.True(losses[^3..].Average() < losses[..3].Average(), "the loss must fall");
    }

    [Fact]
    public void A_killed_run_goes_on_from_its_checkpoint_to_the_same_adapter()
    {
        using var place = new Workplace();
        string[] pairs = ["num_train_epochs=8", "save_steps=4", "lora_dropout=0.1"];
        Assert.Equal(0, Kt.Run(place.Train([.. pairs, $"output_dir={place.Output}-straight"])).Exit);
        using (var kt = Kt.Start(place.Train(pairs)))
        {
            kt.Until(() => Directory.Exists(Path.Combine(place.Output, "checkpoint-4")));
            kt.Kill();
            kt.End();
        }
        Directory.CreateDirectory(OwnTemporary.In(place.Output)); // had it been writing a checkpoint just then
        var (exit, output, errors) = Kt.Run(place.Train(pairs));
        Assert.Equal((0, ""), (exit, errors));
        Assert.Contains("resumed from " + Path.Combine(place.Output, "checkpoint-"), output, StringComparison.Ordinal);
        Assert.Equal(Enumerable.Range(1, 96), Steps(place.Output).Select(l => l["current_steps"]!.GetValue<int>()));
        Assert.Empty(Directory.GetFileSystemEntries(place.Output, "*.tmp", SearchOption.AllDirectories));
        Assert.Equal(File.ReadAllBytes(Path.Combine(place.Output + "-straight", "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(place.Output, "adapter_model.safetensors")));
    }

    [Fact]
    public void Ctrl_C_saves_and_the_same_command_goes_on()
    {
        using var place = new Workplace();
        var arguments = place.Train("max_steps=100000", "save_steps=0");
        var reached = 0;
        for (var round = 0; round < 2; round++)
        {
            using var kt = Kt.Start(arguments);
            kt.Until(() => Steps(place.Output).LastOrDefault()?["current_steps"]!.GetValue<int>() >= reached + 3);
            kt.Interrupt();
            var (exit, output, errors) = kt.End();
            Assert.Equal((130, ""), (exit, errors));
            if (round > 0) Assert.Contains($"resumed from {Path.Combine(place.Output, $"checkpoint-{reached}")} at step {reached} of 100000", output,
                StringComparison.Ordinal);
            reached = JsonNode.Parse(File.ReadAllText(Path.Combine(place.Output, "trainer_state.json")))!["global_step"]!.GetValue<int>();
            Assert.Contains($"stopped after step {reached} of 100000; saved in {place.Output}", output, StringComparison.Ordinal);
            Assert.True(File.Exists(Path.Combine(place.Output, $"checkpoint-{reached}", "optimizer.safetensors")));
        }
    }

    /// <summary>The log's lines with a loss, as far as they are whole.</summary>
    private static List<JsonNode> Steps(string folder)
    {
        var path = Path.Combine(folder, "trainer_log.jsonl");
        if (!File.Exists(path)) return [];
        using var reader = new StreamReader(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete));
        return [.. reader.ReadToEnd().Split('\n')[..^1].Select(l => JsonNode.Parse(l)!).Where(l => l["loss"] is not null)];
    }
}
