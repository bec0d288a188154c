using KtNotebooks.Course;
using KtNotebooks.Data;
using KtNotebooks.Evaluation;

using Xunit;

namespace KtNotebooks.Tests.Course;

/// <summary>The recipe of the built-in model runs, and the model says plain sentences.</summary>
public sealed class TinyModelTests : IDisposable
{
    private static readonly string Folder = Path.Combine(Checkout.Root, "notebooks/models/kt-tiny");
    private readonly DirectoryInfo _output = Directory.CreateTempSubdirectory("kt-tiny-tests-");

    public void Dispose() => _output.Delete(recursive: true);

    /// <summary>A step by the shipped recipe, from the corpus to a folder with a model; how the recipe is given is how a reader would.</summary>
    [Fact]
    public void Its_recipe_runs_as_it_stands_and_learns_no_key_of_a_table()
    {
        using var run = PretrainRun.Open(Path.Combine(Folder, "pretrain.yaml"), $"model_config={Path.Combine(Folder, "config.json")}",
            $"dataset_dir={Path.Combine(Checkout.Root, "datasets")}", $"source={Path.Combine(Checkout.Root, "datasets/source")}",
            $"output_dir={Path.Combine(_output.FullName, "run")}", "max_steps=1", "warmup_steps=0", "tokens_per_step=64", "tokenizer_rows=6000",
            "save_steps=0");
        Assert.True(run.Run(TestContext.Current.CancellationToken) is { Steps: 1, Interrupted: false } result && double.IsFinite(result.LastLoss));
        Assert.DoesNotContain("smalltalk", File.ReadAllText(Path.Combine(_output.FullName, "run", "tokenizer.json")), StringComparison.Ordinal);
        Assert.True(File.Exists(Path.Combine(_output.FullName, "run", "model.safetensors")));
        // What transformers tells it: the chat template that it was trained with.
        Assert.Equal(["deepseek"], ChatTemplate.Likely(ChatTemplate.Find(Path.Combine(_output.FullName, "run"))!));
        var asked = ChatForm.Load(Path.Combine(_output.FullName, "run"), null).Render([new Message(Role.User, "What is a cat?")], prompt: true);
        Assert.Equal(Templates.Get("deepseek").EncodePrompt(run.Tokenizer, [new Message(Role.User, "What is a cat?")]), run.Tokenizer.Encode(asked));
    }

    [Fact]
    public void It_answers_in_whole_sentences_many_of_which_are_right()
    {
        const int Rows = 160, FewestRight = 50;
        using var run = PredictRun.Open($"model_name_or_path={Folder}", "template=deepseek", "infer_dtype=float32", "do_sample=false", "max_new_tokens=80",
            $"dataset_dir={Path.Combine(Checkout.Root, "datasets")}", "eval_dataset=translationese_test", $"output_dir={_output.FullName}");
        var result = run.Run(TestContext.Current.CancellationToken);
        Assert.Equal((Rows, Rows), (result.Done, result.Generated));
        var said = Predictions.Read(Path.Combine(_output.FullName, Predictions.FileName));
        Assert.All(said, row => Assert.DoesNotContain('/', row.Predict));
        Assert.True(said.Count(row => row.Predict.Length > 1 && "。！？”.!?".Contains(row.Predict[^1])) >= Rows * 9 / 10);
        // The set's answers hold the plain ones word for word.
        var right = said.Count(row => row.Predict.Length > 1 && row.Label.Contains(row.Predict.TrimEnd('。', '！'), StringComparison.Ordinal));
        Assert.True(right >= FewestRight, $"only {right} of {Rows} answers are the taught ones");
    }
}
