using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Training;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Lora;

/// <summary>
/// use_dora and pissa_init: the start changes nothing, gradients are those of central differences, an adapter is read, merged and answered with as it was
/// trained, and a run goes on to the same bytes.
/// </summary>
[Collection("cpu variant")]
public sealed class DoraTests : IDisposable
{
    private readonly Workplace _place = new();

    public void Dispose() => _place.Dispose();

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_fresh_one_changes_nothing(bool dora)
    {
        using var model = Tiny.Build();
        using var plain = Tiny.Build();
        LoraAdapter.Attach(model, new LoraSettings(3, Dora: dora, Pissa: dora ? null : 4));
        var expected = Logits(plain);
        // One rounding of a product of width K each; PiSSA adds and takes away the largest part of every matrix.
        Assert.All(Logits(model).Zip(expected), v => Assert.Equal(v.Second, v.First, 1e-3 * expected.Max(Math.Abs)));
        Assert.Equal(dora, model.AllTrainable.Any(p => p.Name.EndsWith("lora_magnitude_vector", StringComparison.Ordinal)));
    }

    /// <summary>In the definition the lengths of rows are the constants that they are at this place.</summary>
    [Fact]
    public void Gradients_of_magnitudes_and_pairs_are_those_of_central_differences()
    {
        using var model = Moved(new LoraSettings(3, Dora: true));
        var batch = Tiny.Batch(3, [5, 11, 1, 13, 8, 2]);
        var step = new LayerMajorStep(model, 9, 4);
        step.Run(batch, cancel: Stop);
        var gradients = Tiny.TakeGradients(model);
        var length = Math.Sqrt(gradients.Values.Sum(g => g.Sum(v => (double)v * v)));
        Assert.Contains(gradients, g => g.Key.EndsWith("lora_magnitude_vector", StringComparison.Ordinal) && g.Value.Any(v => v != 0));
        double At(double way)
        {
            DpoTests.Move(model, gradients, way / length); // tensors are set, and no version of the weights changes: lengths stay
            var loss = step.Loss(batch, Stop);
            DpoTests.Move(model, gradients, -way / length);
            return loss;
        }
        DpoTests.Near(length, (At(2e-3) - At(-2e-3)) / 4e-3, 0.01);
    }

    [Fact]
    public void The_lengths_are_those_of_the_rows_of_the_sum()
    {
        using var model = Moved(new LoraSettings(3, Dora: true));
        foreach (var linear in model.All().OfType<Linear>().Where(l => l.Adapter is not null))
        {
            var (w, a, b, lora) = (linear.Weight.ToFloats(), linear.Adapter!.A.ToFloats(), linear.Adapter.B.ToFloats(), linear.Adapter);
            var lengths = lora.Dora!.Lengths(linear.Weight, lora).ToFloats();
            for (var n = 0; n < linear.Outputs; n++)
            {
                double square = 0;
                for (var k = 0; k < linear.Inputs; k++)
                {
                    double v = w[(n * linear.Inputs) + k];
                    for (var j = 0; j < 3; j++) v += (double)lora.Scale * b[(n * 3) + j] * a[(j * linear.Inputs) + k];
                    square += v * v;
                }
                Assert.Equal(Math.Sqrt(square), lengths[n], 1e-4 * Math.Sqrt(square));
            }
        }
    }

    [Theory]
    [InlineData("use_dora=true")]
    [InlineData("pissa_init=true", "pissa_iter=3")]
    [InlineData("pissa_init=true", "pissa_iter=-1", "use_rslora=true")]
    [InlineData("additional_target=lm_head,embed_tokens,norm")]
    public void A_run_leaves_an_adapter_that_answers_merges_and_goes_on_to_the_same_bytes(params string[] keys)
    {
        List<double> losses = [];
        float[] trained;
        using (var run = Open(_place.Output, keys))
        {
            run.Trainer.OnStep += step => losses.Add(step.Loss);
            run.Run(Stop);
            trained = Logits(run.Model);
        }
        Assert.True(losses[^1] < losses[0] - 0.05, string.Join(' ', losses));
        var scale = trained.Max(Math.Abs);
        using (var model = Loaded())
        {
            Assert.All(Logits(model).Zip(trained), v => Assert.Equal(v.Second, v.First, 1e-3 * scale));
            // Token by token through the cache, where MLA reads the weights of its up-projection beside the layer.
            Assert.All(Cached(model).Zip(Logits(model)[^Tiny.Vocabulary..]), v => Assert.Equal(v.Second, v.First, 2e-3 * scale));
        }
        var merged = Path.Combine(_place.Root, "merged");
        using (var export = new AdapterExport(new ExportSettings(_place.Model, [_place.Output], merged))) export.Run(cancel: Stop);
        using (var model = ModelFolder.Load(merged, DType.F32)) Assert.All(Logits(model).Zip(trained), v => Assert.Equal(v.Second, v.First, 1e-3 * scale));

        var stopped = _place.Output + "-stopped";
        foreach (var at in (int[])[2, 0])
        {
            using var run = Open(stopped, keys);
            using var stop = CancellationTokenSource.CreateLinkedTokenSource(Stop);
            run.Trainer.OnStep += step =>
            {
                if (step.Step == at) stop.Cancel();
            };
            run.Run(stop.Token);
        }
        Assert.Equal(File.ReadAllBytes(Path.Combine(_place.Output, "adapter_model.safetensors")),
            File.ReadAllBytes(Path.Combine(stopped, "adapter_model.safetensors")));
    }

    /// <summary>Against the definition: the product of the pair is the best of its rank, whose error is the length of the singular values left out.</summary>
    [Theory]
    [InlineData(24, 40)]
    [InlineData(40, 24)]
    [InlineData(5, 5)]
    public void The_principal_pair_is_the_best_of_its_rank(int n, int k)
    {
        const int R = 3;
        var random = new Random(4);
        float[] w = [.. Enumerable.Range(0, n * k).Select(_ => (float)(random.NextDouble() - 0.5))];
        var (values, left, right) = PrincipalPair.Largest(w, n, k, R, -1, new NormalRandom(1, "x"));
        var (all, _, _) = PrincipalPair.Largest(w, n, k, Math.Min(n, k), -1, new NormalRandom(2, "y"));
        double error = 0;
        for (var i = 0; i < n; i++)
            for (var c = 0; c < k; c++)
                error += Math.Pow(w[(i * k) + c] - Enumerable.Range(0, R).Sum(j => values[j] * left[(i * R) + j] * right[(c * R) + j]), 2);
        Assert.Equal(w.Sum(v => (double)v * v), all.Sum(v => v * v), 1e-6); // all of them together are the whole
        Assert.Equal(Math.Sqrt(all.Skip(R).Sum(v => v * v)), Math.Sqrt(error), 1e-5);
    }

    [Theory]
    [InlineData("use_dora=true", "lora_experts=true", "use_dora is for dense layers")]
    [InlineData("pissa_init=true", "lora_experts=true", "pissa_init is for dense layers")]
    [InlineData("pissa_init=true", "use_dora=true", "give one of them")]
    [InlineData("pissa_init=true", "pissa_iter=0", "pissa_iter must be above 0")]
    [InlineData("additional_target=top", "lora_rank=2", "additional_target 'top' is the end of no module")]
    [InlineData("additional_target=lm_head", "lora_target=lm_head", "additional_target and lora_target both name lm_head")]
    public void What_does_not_go_together_is_named(string first, string second, string message) =>
        Assert.Contains(message, Assert.Throws<ArgumentException>(() => Open(_place.Output, [first, second])).Message, StringComparison.Ordinal);

    [Trait("card", "cuda")]
    [Fact]
    public void A_card_gives_the_CPU_s_gradients()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        Dictionary<string, float[]> Of(string device)
        {
            using var model = ModelFolder.Load(_place.Model, DType.F32, ModelFolder.Plan(_place.Model, new PlacementSettings { Device = device }, DType.F32));
            Move(model, new LoraSettings(3, Dora: true));
            new LayerMajorStep(model).Run(Tiny.Batch(3, [5, 11, 1, 13, 8, 2]), cancel: Stop);
            return Tiny.TakeGradients(model);
        }
        var (expected, actual) = (Of("cpu"), Of("cuda:0"));
        foreach (var (name, values) in expected)
        {
            var scale = values.Max(Math.Abs);
            Assert.All(values.Zip(actual[name]), v => Assert.Equal(v.First, v.Second, 1e-3 * scale));
        }
    }

    private static CausalLm Moved(LoraSettings settings)
    {
        var model = Tiny.Build(chosen: Tiny.Experts);
        Move(model, settings);
        return model;
    }

    private static void Move(CausalLm model, LoraSettings settings)
    {
        LoraAdapter.Attach(model, settings);
        var random = new Random(5);
        foreach (var (name, tensor) in model.AllTrainable)
        {
            using var moved = Tensor.From([.. tensor.ToFloats().Select(v => name.EndsWith("vector", StringComparison.Ordinal)
                ? v * (0.8f + (0.4f * random.NextSingle())) : v + ((random.NextSingle() - 0.5f) * 0.3f))], tensor.Shape);
            Memory.Copy(moved, tensor);
        }
        WeightVersion.Change();
    }

    private static readonly int[] Ids = [.. Enumerable.Range(0, 12).Select(i => i * 37 % Tiny.Vocabulary)];

    private static float[] Logits(CausalLm model)
    {
        using var logits = model.Logits(TokenBatch.ForInference([Ids]));
        return logits.ToFloats();
    }

    /// <summary>The last row's logits with the cache: four tokens at once, then one by one.</summary>
    private static float[] Cached(CausalLm model)
    {
        using var cache = new KvCache();
        var sequence = cache.Add();
        float[] last = [];
        for (var at = 0; at < Ids.Length;)
        {
            var count = at == 0 ? 4 : 1;
            using var tape = KtNotebooks.Autograd.Tape.Scratch();
            var batch = TokenBatch.ForInference([Ids[at..(at + count)]], [at]);
            using var held = cache.Batch([sequence], [count]);
            var pass = Pass.Inference(batch, held);
            using var hidden = model.Hidden(batch, pass).Slice(count - 1, 1);
            held.Commit();
            last = model.Logits(hidden, pass).ToFloats();
            at += count;
        }
        return last;
    }

    /// <summary>As chat loads a model with an adapter.</summary>
    private CausalLm Loaded() => KtNotebooks.Generation.ModelKeys.Read(KtNotebooks.Configuration.Settings.Read([$"model_name_or_path={_place.Model}",
        $"adapter_name_or_path={_place.Output}", "template=deepseek", "infer_dtype=float32"])).Load().Model;

    private FineTuneRun Open(string output, string[] keys) => FineTuneRun.Open([.. _place.Train($"output_dir={output}", "plot_loss=false",
        "infer_dtype=float32", "max_steps=5").Skip(1), .. keys]);
}
