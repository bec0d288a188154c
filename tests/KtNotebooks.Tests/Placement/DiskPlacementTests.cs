using KtNotebooks.Configuration;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Placement;
using KtNotebooks.Planning;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tests.Weights;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>`weights: disk` in rules and `expert_weights: disk` in configs: what they give, and what they refuse.</summary>
[Collection("cpu variant")]
public class DiskPlacementTests
{
    private const string OnDisk = "rules.yaml:2: weights: disk reads routed experts from the checkpoint's shards to a card that computes them; ";

    [Theory]
    [InlineData("{ weights: disk }", "device=cuda:0")]
    [InlineData("{ compute: 'cuda:1', weights: disk, experts: streamed }", "chunk_size=512")]
    [InlineData("{ weights: host }", "device=cuda:0", "expert_weights=disk")]
    [InlineData(null, "device=cuda:0", "expert_weights=disk")]
    [InlineData(null, "device=cuda:0", "expert_weights=disk", "experts=auto")]
    [InlineData(null, "cards=4", "expert_weights=disk")]
    public void Experts_stay_on_the_disk_where_that_is_said(string? place, params string[] keys)
    {
        using var folder = new Samples.Folder();
        var plan = MemoryPlan.Open(["deepseek-v3", "dense_weights=card", .. Rules(folder, place), .. keys]);
        var row = Assert.Single(plan.Rows, r => r.Modules.EndsWith(".experts", StringComparison.Ordinal) && r.Compute != "cpu" && !keys.Contains("cards=4")
            || (keys.Contains("cards=4") && r.Compute == "cuda:3" && r.Executor.Length > 0));
        Assert.Equal(("disk", "streamed", "fp8"), (row.Weights, row.Executor, row.Format));
        Assert.True(plan.Bytes("cpu", MemoryPlan.OnDisk) > 600e9);
        Assert.Equal((keys.Contains("cards=4") ? 4 : 1) * DiskRing.Bytes, plan.Bytes("cpu", MemoryPlan.DiskRing));
        Assert.True(plan.Total("cpu") < 5e9, $"{plan.Total("cpu"):N0} bytes of host memory"); // the token table, at most
    }

    [Theory]
    [InlineData("{ compute: cpu, weights: disk }", OnDisk + "compute is cpu: write weights: mmap")]
    [InlineData("{ weights: disk, experts: split }", OnDisk + "experts is split")]
    [InlineData("{ weights: disk }", "but model.layers.3.mlp.experts computes on the CPU", "device=cpu")]
    [InlineData("{ weights: disk }", "but model.layers.3.mlp.experts has experts: resident", "device=cuda:0", "experts=resident")]
    [InlineData(null, "command line: weights: disk reads routed experts", "device=cuda:0", "experts=cpu", "expert_weights=disk")]
    [InlineData("{ weights: disk, format: int4 }",
        "model.layers.3.mlp.experts is fp8, and int4 is wanted; leave the format out, or write weights: host, or `kt convert", "device=cuda:0")]
    [InlineData(null, "'expert_weights' must be one of host, disk, but is 'mmap'", "device=cuda:0", "expert_weights=mmap")]
    public void What_cannot_come_from_the_disk_is_refused_by_name(string? place, string message, params string[] keys)
    {
        using var folder = new Samples.Folder();
        var error = Assert.ThrowsAny<Exception>(() => MemoryPlan.Open(["deepseek-v3", .. Rules(folder, place), .. keys]));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Matrices_that_do_not_lie_in_one_piece_are_refused_by_name()
    {
        var error = Assert.Throws<InvalidDataException>(() => MemoryPlan.Open("gpt-oss-20b", "device=cuda:0", "expert_weights=disk"));
        Assert.Contains("model.layers.0.mlp.experts.gate_up_proj holds those of all experts row by row in turn; write weights: host", error.Message,
            StringComparison.Ordinal);
    }

    /// <summary>DeepSeek-V3, rank 8 on all linears and experts, as it is stored: what of it must be in host memory beside one card.</summary>
    [Fact]
    public void The_plan_of_a_model_larger_than_memory_says_what_training_needs_of_it()
    {
        var plan = MemoryPlan.Open("deepseek-v3", "device=cuda:0", "expert_weights=disk", "lora_rank=8", "lora_experts=true", "tokens_per_step=8192",
            "saved_inputs_limit=0GB", "gpu_memory_limit=24GB");
        // 34 GB of other weights do not fit on such a card: the matrices of layers wait in host memory too.
        Assert.InRange(plan.Bytes("cpu", MemoryPlan.Weights), 30e9, 31e9);
        var training = plan.Bytes("cpu", MemoryPlan.Adapter) + plan.Bytes("cpu", MemoryPlan.Gradients) + plan.Bytes("cpu", MemoryPlan.Optimizer);
        Assert.InRange(training, 50e9, 54e9); // 16 bytes an element
        Assert.InRange(plan.Total("cpu") - plan.Bytes("cpu", MemoryPlan.Weights), training, 68e9);
    }

    [Theory]
    [Trait("card", "cuda")]
    [InlineData("fp8")]
    [InlineData("int4")]
    public void A_run_learns_the_same_whether_experts_come_from_memory_or_from_the_disk(string format)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        using var folder = new Samples.Folder();
        var path = LowBitFolder.Save(Path.Combine(folder.Path, "m"), StorageFormat.Parse(format));
        float[] Losses(string weights)
        {
            var settings = PlacementSettings.Read(Settings.Read(["model_name_or_path=" + path, "device=cuda:0", "experts=streamed",
                "expert_weights=" + weights]));
            using var model = ModelFolder.Load(path, DType.BF16, ModelFolder.Plan(path, settings));
            LoraAdapter.Attach(model, new LoraSettings(4, Experts: true), 1);
            using var optimizer = new AdamW(model.AllTrainable, new AdamWSettings());
            var builder = new TokenBatch.Builder();
            int[] ids = [.. Enumerable.Range(0, 48).Select(i => i * 7 % Tiny.Vocabulary)];
            builder.Add(ids, ids, 1f / 47);
            List<float> losses = [];
            for (var s = 0; s < 3; s++)
            {
                losses.Add((float)new LayerMajorStep(model).Run(builder.Build(), cancel: TestContext.Current.CancellationToken));
                optimizer.Step(1e-2, 1);
            }
            Assert.Equal(weights == "disk", model.Executors!.ReadBytes > 0);
            return [.. losses];
        }
        var expected = Losses("host");
        Assert.NotEqual(expected[0], expected[2]);
        Assert.Equal(expected, Losses("disk"));
    }

    private static string[] Rules(Samples.Folder folder, string? place) => place is null ? []
        : ["kt_optimize_rule=" + folder.Write("rules.yaml", $"- match: {{ class: experts }}\n  place: {place}\n")];
}
