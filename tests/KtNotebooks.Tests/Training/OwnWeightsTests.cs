using KtNotebooks.Configuration;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Models;
using KtNotebooks.Training;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>finetuning_type: full and freeze: what is trained, its gradients by central differences, the folder that is left, resumed bytes, cards.</summary>
[Collection("cpu variant")]
public sealed class OwnWeightsTests : IDisposable
{
    private static readonly int[] Lengths = [5, 11, 1, 13, 8, 2];

    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public static TheoryData<int, string?, string?, bool, string[]> Selections => new()
    {
        { 1, null, null, true, ["model.layers.2."] },
        { 2, null, "norm", true, ["model.layers.1.", "model.layers.2.", "model.norm."] },
        { -1, null, null, true, ["model.layers.0."] },
        { 2, "self_attn", "embed_tokens,lm_head", true, ["model.layers.1.self_attn.", "model.layers.2.self_attn.", "model.embed_tokens.", "lm_head."] },
        { 1, "mlp.experts", null, true, ["model.layers.2.mlp.experts."] },
        { 0, null, "norm", true, ["model.norm."] },
        { 9, "mlp", null, false, ["model.layers.0.mlp.", "model.layers.1.mlp.experts", "model.layers.1.mlp.shared", "model.layers.2.mlp.experts",
            "model.layers.2.mlp.shared"] },
    };

    [Theory]
    [MemberData(nameof(Selections))]
    public void Freeze_trains_what_LLaMA_Factory_s_would(int layers, string? modules, string? extra, bool routers, string[] expected)
    {
        using var model = Tiny.Build();
        var trains = new TrainedParts(false, layers, modules?.Split(','), extra?.Split(','), routers).Of(model);
        model.Unfreeze(trains);
        var names = model.AllTrainable.Select(p => p.Name).ToArray();
        Assert.All(names, name => Assert.Contains(expected, e => name.StartsWith(e, StringComparison.Ordinal)));
        Assert.All(expected, e => Assert.Contains(names, name => name.StartsWith(e, StringComparison.Ordinal)));
        Assert.Equal(model.AllWeights.Where(w => trains(w.Name)).Sum(w => w.Count), model.AllTrainable.Sum(p => p.Tensor.Count));
    }

    [Fact]
    public void Full_trains_all_that_has_a_gradient_and_routers_by_key()
    {
        using var model = ModelFolder.Load(Path.Combine(GoldenTests.Of("deepseek_v3"), "model"), DType.F32);
        var all = new TrainedParts(true).Of(model);
        Assert.Equal(["e_score_correction_bias"], model.AllWeights.Where(w => !all(w.Name)).Select(w => w.Name.Split('.')[^1]).Distinct());
        var without = new TrainedParts(true, Routers: false).Of(model);
        Assert.Equal(["model.layers.1.mlp.gate.weight", "model.layers.2.mlp.gate.weight", "model.layers.3.mlp.gate.weight"],
            model.AllWeights.Where(w => all(w.Name) && !without(w.Name)).Select(w => w.Name));
    }

    /// <summary>The slope of the loss along the gradient is its length, of dense parts and of experts.</summary>
    [Theory]
    [InlineData(true, null)]
    [InlineData(false, "mlp.experts")]
    [InlineData(false, "self_attn")]
    public void Gradients_are_those_of_central_differences(bool all, string? module)
    {
        using var model = Tiny.Build(chosen: Tiny.Experts);
        model.Unfreeze(new TrainedParts(all, 2, module is null ? null : [module]).Of(model));
        var batch = Tiny.Batch(3, Lengths);
        var step = new LayerMajorStep(model, 9, 4);
        step.Run(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);
        var length = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        Assert.True(length > 1e-3);
        double At(double way)
        {
            DpoTests.Move(model, gradients, way / length);
            var loss = step.Loss(batch, Stop);
            DpoTests.Move(model, gradients, -way / length);
            return loss;
        }
        DpoTests.Near(length, (At(2e-3) - At(-2e-3)) / 4e-3, 0.01);
    }

    [Theory]
    [InlineData("full", "F32")]
    [InlineData("full", "BF16")]
    [InlineData("freeze", "F32")]
    public void A_run_learns_leaves_a_model_and_goes_on_to_the_same_bytes(string type, string precision)
    {
        string[] keys = [$"finetuning_type={type}", "learning_rate=3e-3", "save_steps=3", "weight_decay=0.1", "max_steps=7",
            precision == "F32" ? "infer_dtype=float32" : "bf16=true",
            .. type == "freeze" ? ["freeze_trainable_layers=1", "freeze_extra_modules=norm,lm_head"] : Array.Empty<string>()];
        List<double> losses = [];
        Run(_place.Output, keys, losses: losses);
        Assert.True(losses[^1] < losses[0] - 0.1, string.Join(' ', losses));

        // What is left is a model: it loads, and what was not trained has the base's bytes.
        using (var made = new Checkpoint(_place.Output))
        using (var first = new Checkpoint(_place.Model))
        {
            Assert.Equal(first.Names.Order(), made.Names.Order());
            foreach (var name in made.Names)
            {
                using var now = made.Stored(name);
                using var before = first.Stored(name);
                Assert.Equal(before.Type, now.Type);
                var trained = type == "full" || name.StartsWith("model.layers.2.", StringComparison.Ordinal) || name is "model.norm.weight" or "lm_head.weight";
                Assert.Equal(!trained, before.ToFloats().SequenceEqual(now.ToFloats()));
            }
        }
        Assert.All((string[])["config.json", "tokenizer.json", "training_args.yaml", "README.md", "checkpoint-6/config.json"],
            file => Assert.True(File.Exists(Path.Combine(_place.Output, file)), file));
        using (var loaded = ModelFolder.Load(_place.Output, DType.F32)) Assert.Empty(loaded.Notes);

        var stopped = _place.Output + "-stopped";
        Run(stopped, keys, stopAt: 2);
        Run(stopped, keys, stopAt: 5);
        Run(stopped, keys);
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "model.safetensors")), File.ReadAllBytes(Path.Combine(stopped, "model.safetensors")));
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "checkpoint-6", "optimizer.safetensors")),
            File.ReadAllBytes(Path.Combine(stopped, "checkpoint-6", "optimizer.safetensors")));
    }

    [Theory]
    [InlineData("adapter_name_or_path=/nowhere", "'adapter_name_or_path' must be left out with finetuning_type: full")]
    [InlineData("finetuning_type=oft", "'finetuning_type' is oft, which is not to be had here: rotations of weights are not offered")]
    [InlineData("loraplus_lr_ratio=4", "'loraplus_lr_ratio' must be left out with finetuning_type: full")]
    public void What_cannot_go_together_is_named(string pair, string message) => Assert.Contains(message,
        Assert.ThrowsAny<Exception>(() => FineTuneKeys.Read(Settings.Read([.. Arguments(_place.Output, ["finetuning_type=full"]), pair]))).Message,
        StringComparison.Ordinal);

    [Theory]
    [InlineData("freeze_trainable_modules=attention", "'attention' is no module of this model's layers; known are all, input_layernorm")]
    [InlineData("freeze_extra_modules=head", "freeze_extra_modules 'head' is no module outside this model's layers; known are embed_tokens, lm_head, norm")]
    [InlineData("freeze_trainable_layers=0", "nothing is trained")]
    public void Parts_that_are_not_there_are_named(string pair, string message) => Assert.Contains(message,
        Assert.Throws<ArgumentException>(() => FineTuneRun.Open(Arguments(_place.Output, ["finetuning_type=freeze", pair]))).Message, StringComparison.Ordinal);

    [Fact]
    public void What_is_stored_in_few_bits_is_refused_by_name()
    {
        var message = Assert.Throws<NotSupportedException>(() => FineTuneRun.Open([.. Arguments(_place.Output, ["finetuning_type=full"]),
            $"model_name_or_path={Path.Combine(GoldenTests.Of("kimi_k25"), "model")}"])).Message;
        Assert.Contains("cannot be trained itself", message, StringComparison.Ordinal);
        Assert.Contains(".mlp.experts.0.", message, StringComparison.Ordinal);
        Assert.Contains("experts with biases are trained with LoRA alone", Assert.Throws<NotSupportedException>(() => FineTuneRun.Open([
            .. Arguments(_place.Output, ["finetuning_type=full"]), $"model_name_or_path={Path.Combine(GoldenTests.Of("gpt_oss"), "model")}"])).Message,
            StringComparison.Ordinal);
        var rules = _place.Write("rules.yaml", "- match:\n    name: \".*experts\"\n  place:\n    format: int8\n");
        Assert.Contains("experts in int8 cannot be trained themselves", Assert.Throws<NotSupportedException>(() =>
            FineTuneRun.Open([.. Arguments(_place.Output, ["finetuning_type=full", $"kt_optimize_rule={rules}"])])).Message, StringComparison.Ordinal);
    }

    /// <summary>Dense parts may be trained beside experts in few bits.</summary>
    [Fact]
    public void The_plan_says_what_it_costs()
    {
        string[] keys = ["tokens_per_step=64", $"model_name_or_path={_place.Model}", "infer_dtype=float32"];
        var full = MemoryPlan.Open([.. keys, "finetuning_type=full"]);
        Assert.Equal(full.Parameters, full.Trainable);
        Assert.Equal((4 * full.Trainable, 8 * full.Trainable, 0), (full.Bytes("cpu", MemoryPlan.Gradients), full.Bytes("cpu", MemoryPlan.Optimizer),
            full.Bytes("cpu", MemoryPlan.Adapter)));
        var freeze = MemoryPlan.Open([.. keys, "finetuning_type=freeze", "freeze_trainable_layers=1"]);
        Assert.InRange(freeze.Trainable, 1, full.Trainable / 2);
    }

    /// <summary>Wherever experts, gradients and moments are, three steps leave what they leave on the CPU.</summary>
    [Trait("card", "cuda")]
    [Theory]
    [InlineData(ExecutorKind.Resident, DType.F32)]
    [InlineData(ExecutorKind.Streamed, DType.F32)]
    [InlineData(ExecutorKind.Cpu, DType.F32)]
    [InlineData(ExecutorKind.Streamed, DType.BF16)]
    [InlineData(ExecutorKind.Resident, DType.BF16)]
    public void A_card_leaves_the_weights_that_the_CPU_leaves(ExecutorKind experts, DType type)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var expected = Steps(new PlacementSettings { Device = "cpu" }, type);
        var actual = Steps(new PlacementSettings { Device = "cuda:0", Experts = experts }, type);
        Assert.Equal(expected.Loss, actual.Loss, type == DType.F32 ? 1e-4 : 2e-2);
        foreach (var (name, values) in expected.Weights)
        {
            var norm = Math.Sqrt(values.Sum(v => (double)v * v));
            var distance = Math.Sqrt(values.Zip(actual.Weights[name], (a, b) => Math.Pow(a - b, 2)).Sum());
            Assert.True(distance < (type == DType.F32 ? 1e-3 : 3e-2) * norm, $"{name}: {distance / norm}");
        }
    }

    private (double Loss, Dictionary<string, float[]> Weights) Steps(PlacementSettings settings, DType type)
    {
        var parts = new TrainedParts(true);
        Func<string, bool>? trains = null;
        var plan = ModelFolder.Plan(_place.Model, settings, type, shape => trains = parts.Of(shape));
        using var model = ModelFolder.Load(_place.Model, type, plan);
        model.Unfreeze(trains);
        var parameters = model.AllTrainable;
        using var optimizer = new KtNotebooks.Optim.AdamW(parameters, new KtNotebooks.Optim.AdamWSettings());
        var step = new LayerMajorStep(model);
        double loss = 0;
        for (var s = 0; s < 3; s++)
        {
            loss = step.Run(Tiny.Batch(1, Lengths), cancel: Stop);
            optimizer.Step(0.003, KtNotebooks.Optim.Gradients.ClipScale(KtNotebooks.Optim.Gradients.Norm(parameters), 1));
        }
        return (loss, parameters.ToDictionary(p => p.Name, p => p.Tensor.ToFloats()));
    }

    private string[] Arguments(string output, string[] keys) => [.. _place.Train([$"output_dir={output}", "plot_loss=false", .. keys]).Skip(1)];

    private void Run(string output, string[] keys, int stopAt = 0, List<double>? losses = null)
    {
        using var run = FineTuneRun.Open(Arguments(output, keys));
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
        run.Trainer.OnStep += step =>
        {
            losses?.Add(step.Loss);
            if (step.Step == stopAt) stop.Cancel();
        };
        Assert.Equal(stopAt > 0, run.Run(stop.Token).Interrupted);
    }
}
