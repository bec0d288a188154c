using KtNotebooks.Configuration;
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
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>`dense_weights`: matrices of layers that wait in pinned host memory compute what they compute on the card, in less of it.</summary>
[Collection(Alone.Name)] // memory of cards is counted
public sealed class DenseWeightsTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public DenseWeightsTests() => Tiny.Save(Path.Combine(_folder.Path, "model"),
        change: config => config.Replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 6", StringComparison.Ordinal));

    private static CancellationToken Stop => TestContext.Current.CancellationToken;

    public void Dispose() => _folder.Dispose();

    /// <summary>DeepSeek-V3 has 34 GB of weights that are no experts: more than a card of 24 GB, a third of four of them.</summary>
    [Theory]
    [InlineData(1, null, true)]
    [InlineData(1, WeightHome.Host, true)]
    [InlineData(1, WeightHome.Device, false)]
    [InlineData(4, null, false)]
    [InlineData(4, WeightHome.Host, true)]
    public void Matrices_of_layers_wait_in_host_memory_where_that_is_said_or_a_card_has_no_room(int cards, WeightHome? asked, bool areOnHost)
    {
        using var shape = ModelFolder.Shape(ModelShapes.File("deepseek-v3"));
        var settings = new PlacementSettings { Device = cards == 1 ? "cuda:0" : "auto", Gpus = cards == 1 ? null : cards, DenseWeights = asked };
        var plan = ResidencyPlan.Resolve(shape, DType.BF16, ModelPlacement.Resolve(shape, "deepseek_v3", settings), _ => StorageFormat.Fp8,
            new GpuMemory(23_500_000_000, _ => null));
        foreach (var name in (string[])["self_attn.q_b_proj", "mlp.shared_experts.up_proj", "mlp.gate"])
        {
            Assert.Equal(areOnHost, plan.Visits($"model.layers.9.{name}.weight"));
            Assert.Equal(areOnHost ? WeightHome.Host : WeightHome.Device, plan.HomeOf($"model.layers.9.{name}.weight"));
        }
        foreach (var name in (string[])["lm_head.weight", "model.norm.weight", "model.layers.9.input_layernorm.weight"])
            Assert.Equal((false, WeightHome.Device), (plan.Visits(name), plan.HomeOf(name)));
        foreach (var card in plan.Gpus)
        {
            // The slots take the largest half of a layer: a dense feed-forward part on the first three cards, attention on the fourth.
            var most = card.Gpu.Index == 3 ? 7168L * (1536 + 576 + 16384) + (24576L * 1536) + (32768L * 512) : 3L * 7168 * 18432;
            Assert.Equal(areOnHost ? 3 * 2 * most : 0, card.Visits);
            Assert.Equal(card.Bytes, card.Left + card.Weights + card.Experts + card.Ring + card.Visits);
        }
        Assert.Equal(asked is null && areOnHost, plan.Notes.Any(n => n.StartsWith("dense_weights: host: all weights but", StringComparison.Ordinal)));
    }

    [Fact]
    public void The_plan_counts_them_in_host_memory_and_what_brings_them_on_the_card()
    {
        MemoryPlan Plan(string home) => MemoryPlan.Open("deepseek-v3", "device=cuda:0", "gpu_memory_limit=23.5GB", "dense_weights=" + home);
        var (there, here) = (Plan("host"), Plan("card"));
        var moved = there.Bytes("cpu", MemoryPlan.Weights) - here.Bytes("cpu", MemoryPlan.Weights);
        Assert.InRange(moved, 30e9, 31e9);
        Assert.Equal(moved, here.Bytes("cuda:0", MemoryPlan.Weights) - there.Bytes("cuda:0", MemoryPlan.Weights));
        Assert.Equal((3 * 2 * 3L * 7168 * 18432, 0), (there.Bytes("cuda:0", MemoryPlan.Visits), here.Bytes("cuda:0", MemoryPlan.Visits)));
        Assert.Contains(there.Rows, r => r is { Modules: "model.layers.0-60.self_attn", Weights: "host", Format: "bf16" });
    }

    [Fact]
    public void A_rule_may_say_it_of_some_modules()
    {
        var rules = _folder.Write("rules.yaml", "- match: { name: 'layers\\.[12]\\.' }\n  place: { weights: host }\n");
        var plan = MemoryPlan.Open("deepseek-v2-lite", "device=cuda:0", "dense_weights=auto", "kt_optimize_rule=" + rules);
        Assert.Equal(["model.layers.1-2.mlp.gate", "model.layers.1-2.mlp.shared_experts", "model.layers.1-2.self_attn"],
            plan.Rows.Where(r => r is { Weights: "host", Executor: "" }).Select(r => r.Modules).Order(StringComparer.Ordinal));
    }

    [Theory]
    [InlineData("'dense_weights' must be one of auto, card, host, but is 'disk'", "dense_weights=disk")]
    [InlineData("command line: model.layers.0.self_attn.q_proj.weight is to be trained itself, and cannot wait in host memory then; write dense_weights: card",
        "dense_weights=host", "finetuning_type=full", "tokens_per_step=64")]
    public void What_cannot_be_is_refused_by_name(string message, params string[] keys)
    {
        var error = Assert.ThrowsAny<Exception>(() => MemoryPlan.Open([Path.Combine(_folder.Path, "model"), "device=cuda:0", .. keys]));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [Trait("card", "cuda")]
    [InlineData("device=cuda:0", "experts=streamed")]
    [InlineData("device=cuda:0", "experts=streamed", "by a kernel")]
    [InlineData("device=cuda:0", "experts=cpu")]
    [InlineData("cards=2", "experts=streamed")]
    [InlineData("device=cuda:0", "experts=resident", "use_dora=true", "lora_experts=false")]
    [InlineData("device=cuda:0", "experts=resident", "pissa_init=true", "lora_experts=false")]
    public void A_run_learns_the_same_in_less_of_the_card(params string[] keys)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (keys.Contains("cards=2") && CudaDevice.Count < 2) Assert.Skip($"there are {CudaDevice.Count} cards of 2");
        var path = Path.Combine(_folder.Path, "model");
        var ahead = keys.Contains("by a kernel") ? 1L << 40 : 0; // as if so much were queued before everything that a layer waits for
        keys = [.. keys.Where(k => k.Contains('=', StringComparison.Ordinal))];
        (float[] Losses, long Held) Learn(string home)
        {
            CudaDevice.Get(0).BytesAhead += home == "host" ? ahead : 0;
            var c = Settings.Read(["model_name_or_path=" + path, "lora_rank=4", "lora_experts=true", "dense_weights=" + home, .. keys]);
            var held = CudaDevice.Get(0).Pool.UsedBytes;
            using var model = ModelFolder.Load(path, DType.BF16, ModelFolder.Plan(path, PlacementSettings.Read(c)));
            held = CudaDevice.Get(0).Pool.UsedBytes - held;
            Assert.Equal(home == "host", model.Visits is not null);
            LoraAdapter.Attach(model, FineTuneKeys.ReadLora(c), 1);
            using var optimizer = new AdamW(model.AllTrainable, new AdamWSettings());
            var batch = Tiny.Batch(1, [5, 11, 1, 30, 8, 2]);
            List<float> losses = [];
            for (var s = 0; s < 3; s++)
            {
                losses.Add((float)new LayerMajorStep(model, 16).Run(batch, cancel: Stop));
                optimizer.Step(1e-2, 1);
            }
            losses.Add((float)new LayerMajorStep(model).Loss(batch, Stop)); // a pass without gradients
            using var logits = model.Logits(batch);
            return ([.. losses, .. logits.ToFloats()], held);
        }
        var (expected, all) = Learn("card");
        Assert.NotEqual(expected[0], expected[2]);
        var (actual, few) = Learn("host");
        CudaDevice.Get(0).BytesAhead -= ahead;
        Assert.Equal(expected, actual);
        Assert.True(few < all, $"{few:N0} bytes of the card with matrices in host memory, {all:N0} with them on it");
    }

    /// <summary>Outside its layer's work a matrix has no address on the card, but whoever wants its values gets them.</summary>
    [Fact]
    [Trait("card", "cuda")]
    public void Values_are_there_at_any_time_and_an_address_is_not()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var path = Path.Combine(_folder.Path, "model");
        using var mapped = ModelFolder.Load(path);
        var settings = new PlacementSettings { Device = "cuda:0", DenseWeights = WeightHome.Host };
        using var model = ModelFolder.Load(path, DType.BF16, ModelFolder.Plan(path, settings));
        var stored = mapped.AllWeights.ToDictionary(w => w.Name, w => w.Tensor);
        Parameter[] visitors = [.. model.AllWeights.Where(w => w.Tensor.Visiting is not null)];
        Assert.NotEmpty(visitors);
        foreach (var (name, tensor) in visitors)
        {
            Assert.Equal(stored[name].ToFloats(), tensor.ToFloats());
            var error = Assert.Throws<InvalidOperationException>(() => _ = tensor.Pointer);
            Assert.Contains("while its layer is at work", error.Message, StringComparison.Ordinal);
        }
    }

    /// <summary>Lengths around what a thread, a round and all threads copy; what stands behind stays as it is.</summary>
    [Theory]
    [Trait("card", "cuda")]
    [InlineData(1)]
    [InlineData(16)]
    [InlineData(37)]
    [InlineData(8 * 512 * 64)]
    [InlineData((8 * 512 * 64) + (8 * 512 * 16) + 5)]
    [InlineData(1_000_003)]
    public void A_kernel_fetches_every_byte_and_no_more(int bytes)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var card = CudaDevice.Get(0);
        card.BytesAhead += 1L << 40;
        try
        {
            var values = Enumerable.Range(0, bytes + 64).Select(i => (byte)(i * 31)).ToArray();
            using var pinned = new Tensor(PinnedBuffer.Allocate(Device.Cuda(), bytes + 64), 0, DType.U8, [bytes + 64]);
            values.CopyTo(pinned.Span<byte>());
            using var target = Tensor.Zeros(DType.U8, Device.Cuda(), bytes + 64);
            card.Compute.Synchronize();
            card.Restore(target.Pointer, pinned.Pointer, bytes);
            card.Saves.Synchronize();
            using var host = target.ToHost();
            Assert.True(host.Span<byte>()[..bytes].SequenceEqual(values.AsSpan(0, bytes)));
            Assert.True(host.Span<byte>()[bytes..].IndexOfAnyExcept((byte)0) < 0);
        }
        finally
        {
            card.BytesAhead -= 1L << 40;
        }
    }
}
