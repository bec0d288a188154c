using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Losses, weights and moments that are no numbers: the last finite checkpoint is what remains, and it is what the line names.</summary>
[Collection("cpu variant")]
public sealed class DivergenceTests : IDisposable
{
    private const string Query = "model.layers.0.self_attn.q_proj";

    private readonly Samples.Folder _folder = new();

    private string Output => Path.Combine(_folder.Path, "out");

    private TrainSettings Settings => new() { OutputDir = Output, LearningRate = 1e-2, LoggingSteps = 1, SaveSteps = 0 };

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_loss_that_is_no_number_stops_the_run_and_keeps_the_weights()
    {
        using var model = TinyRun.Model(new LoraSettings(3));
        Assert.Equal("step 3: the loss is NaN and the gradient norm NaN; it begins in the forward pass, in the head; lower learning_rate, or look at "
            + "the rows of this window. Nothing is saved: start again with the change", Ends(model, Settings, atStep: 2, Break));
        Assert.All(model.AllTrainable, p => Assert.Null(p.Tensor.Grad));
        Assert.All(model.AllTrainable, p => Assert.All(p.Tensor.ToFloats(), v => Assert.True(float.IsFinite(v))));
        Assert.Empty(Directory.GetFiles(Output, "*.safetensors"));
        Assert.False(File.Exists(Path.Combine(Output, "train_results.json")));
    }

    [Fact]
    public void The_line_names_the_checkpoint_that_is_there()
    {
        using var model = TinyRun.Model(new LoraSettings(3));
        var newest = Path.Combine(Output, "checkpoint-2");
        Assert.Equal("step 4: the loss is NaN and the gradient norm NaN; it begins in the forward pass, in the head; lower learning_rate, or look at the "
            + $"rows of this window. The last weights that are saved are those of {newest}: start again in another output_dir with the change, from them with "
            + $"adapter_name_or_path={newest}", Ends(model, Settings with { SaveSteps = 2 }, atStep: 3, Break));
        Assert.Equal([newest], Checkpoints.All(Output));
    }

    [Theory]
    [InlineData(2)] // at a checkpoint
    [InlineData(6)] // at the end
    public void Weights_that_are_no_numbers_are_not_saved(int step)
    {
        using var model = TinyRun.Model(new LoraSettings(3));
        var message = Ends(model, Settings with { SaveSteps = 2 }, step, m =>
            m.AllTrainable[0].Tensor.Store([.. Enumerable.Repeat(float.PositiveInfinity, (int)m.AllTrainable[0].Tensor.Count)]));
        Assert.StartsWith($"after step {step} '{model.AllTrainable[0].Name}' holds NaN or infinities", message, StringComparison.Ordinal);
        Assert.DoesNotContain(Checkpoints.All(Output), c => Checkpoints.StepOf(c) >= step);
        Assert.Empty(Directory.GetFiles(Output, "*.safetensors"));
    }

    [Fact]
    public void A_loss_of_held_out_rows_that_is_no_number_is_said()
    {
        using var model = TinyRun.Model(new LoraSettings(3));
        Assert.StartsWith("after step 6: the loss of the held-out rows is NaN; ", Ends(model, Settings, 6, Break, evaluate: true), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("adapter_model.safetensors", "base_model.model." + Query + ".lora_B.weight")]
    [InlineData("optimizer.safetensors", "v.")]
    public void A_checkpoint_with_values_that_are_no_numbers_is_refused_by_name(string file, string name)
    {
        TinyRun.Die(Settings with { SaveSteps = 2 });
        var folder = Checkpoints.Newest(Output)!;
        var broken = Spoil(Path.Combine(folder, file), name);
        var message = Assert.Throws<InvalidDataException>(() => TinyRun.Train(Settings)).Message;
        // An adapter's own reader finds it first.
        var adapter = file.StartsWith("adapter", StringComparison.Ordinal);
        Assert.EndsWith(adapter ? "take an earlier checkpoint" : $" holds NaN or infinities; remove {folder} to go on from an earlier checkpoint", message,
            StringComparison.Ordinal);
        if (!adapter) Assert.Contains($"tensor '{broken}'", message, StringComparison.Ordinal);
        else Assert.Contains($"{Query}.", message, StringComparison.Ordinal);
        Directory.Delete(folder, recursive: true);
        Assert.Equal(6, TinyRun.Train(Settings).Result.Steps);
    }

    private static void Break(CausalLm model) => model.Norm.Weight.Store([.. Enumerable.Repeat(float.NaN, (int)model.Norm.Weight.Count)]);

    private static string Ends(CausalLm model, TrainSettings settings, int atStep, Action<CausalLm> spoil, bool evaluate = false)
    {
        var trainer = TinyRun.Trainer(model, settings, new LoraSettings(3), evaluate);
        trainer.OnStep += s =>
        {
            if (s.Step == atStep) spoil(model);
        };
        return Assert.Throws<InvalidOperationException>(() => trainer.Run(TestContext.Current.CancellationToken)).Message;
    }

    /// <summary>Puts one NaN into the first tensor whose name begins so; returns its name.</summary>
    private static string Spoil(string path, string name)
    {
        List<(string Name, Tensor Tensor)> tensors = [];
        Dictionary<string, string> metadata;
        using (var file = new SafetensorsFile(path))
        {
            metadata = file.Metadata.Where(m => m.Key != "format").ToDictionary();
            foreach (var entry in file.Entries.Values)
            {
                using var stored = file.Get(entry.Name);
                tensors.Add((entry.Name, Tensor.From(stored.ToFloats(), entry.Shape)));
            }
        }
        var chosen = tensors.First(t => t.Name.StartsWith(name, StringComparison.Ordinal));
        chosen.Tensor.Span<float>()[^1] = float.NaN;
        SafetensorsWriter.Write(path, tensors, metadata);
        foreach (var (_, tensor) in tensors) tensor.Dispose();
        return chosen.Name;
    }
}
