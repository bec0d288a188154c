using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Experts;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Evaluation;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Training.Objectives;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Stages and adaptations against torch's numbers: Golden/make_stages.py says which, and from which papers.</summary>
[Collection("cpu variant")]
public class GoldenStageTests
{
    private const int Not = -100;

    /// <summary>DESIGN section 12 for F32, as GoldenCheck; a norm is over all gradients and sees the sum of their errors.</summary>
    private const double Limit = 2e-4, NormLimit = 1e-3;

    private static readonly string Folder = GoldenTests.Of("stages");

    private static readonly JsonObject Expected = JsonNode.Parse(File.ReadAllText(Path.Combine(Folder, "expected.json")))!.AsObject();

    [Theory]
    [InlineData("dpo_sigmoid")]
    [InlineData("dpo_orpo")]
    [InlineData("dpo_simpo")]
    [InlineData("kto")]
    [InlineData("rm")]
    [InlineData("full")]
    [InlineData("freeze")]
    [InlineData("dora")]
    [InlineData("modules")]
    public void Losses_gradients_and_six_steps_are_torch_s(string name)
    {
        var expected = Expected["cases"]![name]!.AsObject();
        double Number(string key) => expected[key]!.GetValue<double>();
        using var numbers = new SafetensorsFile(Path.Combine(Folder, name + ".safetensors"));
        var folder = Path.Combine(GoldenTests.Lite, "model");
        var plan = ModelFolder.Plan(folder, new PlacementSettings { Device = "cpu" }, DType.F32, name is "full" or "freeze" ? Parts(name).Of
            : name == "modules" ? _ => weight => weight == "lm_head.weight" : null);
        using var model = ModelFolder.Load(folder, DType.F32, plan);
        var (objective, batch) = name switch
        {
            "dpo_sigmoid" or "dpo_orpo" or "dpo_simpo" =>
                Of(new DpoObjective(new PreferenceSettings(name[4..], Number("beta"), Gamma: Number("gamma"))), Pairs()),
            "kto" => Of(new KtoObjective(Number("beta"), Number("wanted"), Number("unwanted")), Rows(expected)),
            "rm" => Of(new RewardObjective(), Pairs()),
            _ => ((ITrainingObjective?)null, Whole()),
        };
        Attach(model, name, numbers);
        if (numbers.Entries.ContainsKey("logits")) Logits(model, numbers);
        var step = new LayerMajorStep(model) { Objective = objective };
        var (loss, names) = (step.Run(batch, cancel: TestContext.Current.CancellationToken), Texts(expected, "names"));
        Assert.Equal(expected["losses"]![0]!.GetValue<double>(), loss, Limit * Math.Abs(loss));
        var gradients = Named(model, gradients: true);
        Assert.Equal(names.Select(Short).Order(StringComparer.Ordinal), gradients.Keys.Order(StringComparer.Ordinal));
        Compare("gradient", names, gradients, numbers, "grads");
        using (var norms = numbers.Get("norms"))
            foreach (var (of, norm) in names.Zip(norms.ToFloats()))
                Assert.Equal(norm, Math.Sqrt(gradients[Short(of)].Sum(v => (double)v * v)), (NormLimit * norm) + 1e-9);
        Tiny.DropGradients(model);

        var parameters = model.AllTrainable;
        using var optimizer = new AdamW(parameters, new AdamWSettings(WeightDecay: Number("weight_decay")), decays: OptimizerSettings.IsDecayed);
        for (var s = 0; s < 6; s++)
        {
            loss = step.Run(batch, cancel: TestContext.Current.CancellationToken);
            var norm = Gradients.Norm(parameters);
            Assert.Equal(expected["losses"]![s]!.GetValue<double>(), loss, 2 * Limit * Math.Abs(loss));
            Assert.Equal(expected["grad_norms"]![s]!.GetValue<double>(), norm, NormLimit * norm);
            optimizer.Step(expected["lrs"]![s]!.GetValue<double>(), Gradients.ClipScale(norm, 1));
        }
        Compare("after six steps", names, Named(model, gradients: false), numbers, "after6", expected["lrs"]!.AsArray().Sum(r => r!.GetValue<double>()),
            gradients);
    }

    /// <summary>Pairs on parameters of experts as PEFT saved them: gate and up share A there, whose gradient is the sum of those of our two.</summary>
    [Fact]
    public void PEFT_s_pairs_on_parameters_are_read()
    {
        using var numbers = new SafetensorsFile(Path.Combine(Folder, "parameters.safetensors"));
        using var model = ModelFolder.Load(Path.Combine(GoldenTests.Lite, "model"), DType.F32);
        AdapterFolder.Load(model, Path.Combine(Folder, "parameters"));
        Logits(model, numbers);
        var loss = new LayerMajorStep(model).Run(Whole(), cancel: TestContext.Current.CancellationToken);
        Assert.Equal(Expected["cases"]!["parameters"]!["losses"]![0]!.GetValue<double>(), loss, Limit * loss);

        // Put together again they are PEFT's file: its names, and what each of them holds.
        using var source = AdapterSource.Open(Path.Combine(Folder, "parameters"));
        using var folder = new Samples.Folder();
        source.Save(Path.Combine(folder.Path, "again"), ExpertForm.Parameters);
        using var theirs = new SafetensorsFile(Path.Combine(Folder, "parameters", "adapter_model.safetensors"));
        using var ours = new SafetensorsFile(Path.Combine(folder.Path, "again", "adapter_model.safetensors"));
        Assert.Equal(theirs.Entries.Keys.Order(StringComparer.Ordinal), ours.Entries.Keys.Order(StringComparer.Ordinal));
        foreach (var name in theirs.Entries.Keys)
        {
            using var a = theirs.Get(name);
            using var b = ours.Get(name);
            Assert.Equal(a.Shape.ToArray(), b.Shape.ToArray());
            Assert.Equal(a.ToFloats(), b.ToFloats());
        }
    }

    [Fact]
    public void The_principal_part_is_PEFT_s()
    {
        var expected = Expected["cases"]!["pissa"]!.AsObject();
        using var numbers = new SafetensorsFile(Path.Combine(Folder, "pissa.safetensors"));
        using var model = ModelFolder.Load(Path.Combine(GoldenTests.Lite, "model"), DType.F32);
        LoraAdapter.Attach(model, new LoraSettings(4, 16, Pissa: -1));
        using var stored = numbers.Get("products");
        using var lengths = numbers.Get("rows");
        var (products, rows, at, row) = (stored.ToFloats(), lengths.ToFloats(), 0, 0);
        foreach (var name in Texts(expected, "names"))
        {
            var lora = model.All().OfType<Linear>().Single(l => l.Path == name).Adapter!;
            var (a, b, K) = (lora.A.ToFloats(), lora.B.ToFloats(), lora.A.Width);
            var largest = 0.0;
            List<(double Ours, double Theirs)> all = [];
            for (var i = 0; i < b.Length / 4 * K; i += Stride)
            {
                double sum = 0;
                for (var j = 0; j < 4; j++) sum += (double)lora.Scale * b[(i / K * 4) + j] * a[(j * K) + (i % K)];
                all.Add((sum, products[at++]));
                largest = Math.Max(largest, Math.Abs(all[^1].Theirs));
            }
            Assert.All(all, v => Assert.Equal(v.Theirs, v.Ours, 1e-3 * largest));
            for (var j = 0; j < 4; j++, row++) Assert.Equal(rows[row], Math.Sqrt(a.AsSpan(j * K, K).ToArray().Sum(v => (double)v * v)), 1e-3 * rows[row]);
        }
        Assert.Equal(products.Length, at);
    }

    private static int Stride => Expected["stride"]!.GetValue<int>();

    private static TrainedParts Parts(string name) => name == "full" ? new TrainedParts(true) : new TrainedParts(false, 1, Extra: ["norm"]);

    private static void Attach(CausalLm model, string name, SafetensorsFile numbers)
    {
        if (name is "full" or "freeze")
        {
            model.Unfreeze(Parts(name).Of(model));
        }
        else if (name == "modules") new LoraAdaptation(new LoraSettings(4), "base", Path.Combine(Folder, name), 1, null).Attach(model);
        else if (name == "dora") AdapterFolder.Load(model, Path.Combine(Folder, name));
        else
        {
            using var init = new SafetensorsFile(Path.Combine(GoldenTests.Lite, "adapter_init.safetensors"));
            AdapterFolder.LoadTensors(model, new LoraSettings(4, 16), init);
        }
        if (name != "rm") return;
        model.ValueHead = ValueHead.Fresh(model.Info.Width, Device.Cpu, seed: 1);
        foreach (var (tensor, key) in ((Tensor, string)[])[(model.ValueHead.Weight, "v_head_weight"), (model.ValueHead.Bias, "v_head_bias")])
        {
            using var stored = numbers.Get(key);
            tensor.Store(stored.ToFloats());
        }
    }

    private static void Logits(CausalLm model, SafetensorsFile numbers)
    {
        using var stored = numbers.Get("logits"); // [2, 8, V]: every fifth position
        using var logits = model.Logits(Whole());
        var (expected, actual, V) = (stored.ToFloats(), logits.ToFloats(), logits.Width);
        var scale = expected.Max(Math.Abs);
        for (var i = 0; i < expected.Length; i++) Assert.Equal(expected[i], actual[(i / V * 5 * V) + (i % V)], Limit * scale);
    }

    /// <summary>What is picked of all that is trained, by the script's names: stacked experts one by one, zeros where there is nothing.</summary>
    private static Dictionary<string, float[]> Named(CausalLm model, bool gradients)
    {
        var all = new Dictionary<string, float[]>();
        float[] Of(Tensor tensor) => !gradients ? tensor.ToFloats() : tensor.Grad?.ToFloats() ?? new float[tensor.Count];
        foreach (var module in model.All())
        {
            if (module is IAdaptable { Adapter: not null }) continue;
            foreach (var (name, tensor) in module.Trainable)
                if (module is not ExpertBank bank) all[name] = Of(tensor);
                else
                {
                    var (values, names) = (Of(tensor), bank.Names.All.Single(n => name.EndsWith(n.Name, StringComparison.Ordinal)));
                    var size = values.Length / bank.Count;
                    for (var e = 0; e < bank.Count; e++) all[names.Weight(e)] = values[(e * size)..((e + 1) * size)];
                }
        }
        IReadOnlyList<(string Name, Tensor? Tensor)> pairs = gradients ? AdapterTensors.GradientsOf(model)
            : [.. AdapterTensors.Of(model).Select(t => (t.Name, (Tensor?)t.Tensor))];
        var shapes = AdapterTensors.Of(model);
        foreach (var ((name, tensor), (_, like)) in pairs.Zip(shapes))
        {
            all[Short(name)] = tensor?.ToFloats() ?? new float[like.Count];
            tensor?.Dispose();
            like.Dispose();
        }
        return all;
    }

    private static string Short(string name)
    {
        const string Suffix = ".weight";
        name = name.StartsWith(AdapterTensors.Prefix, StringComparison.Ordinal) ? name[AdapterTensors.Prefix.Length..] : name;
        return name.Contains("lora_", StringComparison.Ordinal) && name.EndsWith(Suffix, StringComparison.Ordinal) ? name[..^Suffix.Length] : name;
    }

    /// <summary>
    /// Every stride-th element of each tensor. A step of AdamW has one size whatever the gradient's; where that is rounding noise its sign is arbitrary
    /// (GoldenCheck), and the element is not judged.
    /// </summary>
    private static void Compare(string what, string[] names, Dictionary<string, float[]> actual, SafetensorsFile numbers, string key, double rates = 0,
        Dictionary<string, float[]>? gradients = null)
    {
        using var stored = numbers.Get(key);
        var (expected, at, left, rows) = (stored.ToFloats(), 0, 0, 80 + 64);
        foreach (var name in names)
        {
            var values = actual[Short(name)];
            var count = (values.Length + Stride - 1) / Stride;
            var scale = Math.Max(expected.AsSpan(at, count).ToArray().Max(v => Math.Abs((double)v)), values.Max(v => Math.Abs((double)v)));
            double largest = gradients?[Short(name)].Max(v => Math.Abs((double)v)) ?? 0;
            for (var i = 0; i < values.Length; i += Stride, at++)
            {
                var noise = rows * largest / (1 << 23);
                var gradient = gradients?[Short(name)][i] ?? 0; // that of a token which no row has is none at all, and its row does not move
                if (gradient != 0 && rates * noise > Limit * scale * Math.Abs(gradient)) left++;
                else Assert.True(Math.Abs(expected[at] - (double)values[i]) <= Limit * scale,
                    $"{what}: {name}[{i}]: {values[i]}, but torch has {expected[at]}");
            }
        }
        Assert.Equal(expected.Length, at);
        Assert.True(left <= 0.05 * at, $"{left} of {at} elements not judged");
    }

    private static (ITrainingObjective?, TokenBatch) Of(ITrainingObjective objective, IReadOnlyList<EncodedExample> rows) =>
        (objective, ExampleWindows.Batch(rows, objective));

    private static string[] Texts(JsonObject of, string key) => [.. of[key]!.AsArray().Select(n => n!.GetValue<string>())];

    private static int[] Ints(JsonNode? of) => [.. of!.AsArray().Select(n => n!.GetValue<int>())];

    private static EncodedExample Joined(int[] prompt, int[] first, int[] second, int tag = 0)
    {
        int[] none = [.. prompt.Select(_ => Not)];
        return new EncodedExample([.. prompt, .. first, .. prompt, .. second], [.. none, .. first, .. none, .. second], "golden")
        {
            Starts = [0, prompt.Length + first.Length],
            Apart = true,
            Tag = tag,
        };
    }

    private static EncodedExample[] Pairs() =>
        [.. Expected["pairs"]!.AsArray().Select(p => Joined(Ints(p!["prompt"]), Ints(p["chosen"]), Ints(p["rejected"])))];

    private static EncodedExample[] Rows(JsonObject of) => [.. of["rows"]!.AsArray().Select(r => Joined(Ints(r!["prompt"]), Ints(r["answer"]),
        Ints(r["mismatched"]), r["wanted"]!.GetValue<bool>() ? LikingEncoder.Wanted : LikingEncoder.Unwanted))];

    private static TokenBatch Whole()
    {
        var golden = JsonNode.Parse(File.ReadAllText(Path.Combine(GoldenTests.Lite, "expected.json")))!;
        var rows = golden["input_ids"]!.AsArray().Zip(golden["labels"]!.AsArray()).Select(r => (Ids: Ints(r.First), Labels: Ints(r.Second))).ToArray();
        var builder = new TokenBatch.Builder();
        var targets = rows.Sum(r => r.Labels.Skip(1).Count(l => l >= 0));
        foreach (var (ids, labels) in rows) builder.Add(ids, labels, 1f / targets);
        return builder.Build();
    }
}
