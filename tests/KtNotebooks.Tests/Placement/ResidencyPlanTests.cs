using KtNotebooks.Configuration;
using KtNotebooks.Formats;
using KtNotebooks.Interop;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Training;
using Xunit;

namespace KtNotebooks.Tests.Placement;

/// <summary>The plan alone: what loading does with it, the executor tests and the measured memory tests ask.</summary>
public sealed class ResidencyPlanTests
{
    private const long Small = 10_000_000_000, Large = 80_000_000_000;

    /// <summary>Each card gets what it can hold: experts, slots, moments and layer inputs are decided card by card.</summary>
    [Fact]
    public void Unequal_cards_are_used_unequally()
    {
        using var model = ModelFolder.Shape(ModelShapes.File("deepseek-v2-lite"));
        var plan = Resolve(model, card => card.Index == 0 ? Small : Large, "cards=2", "experts=auto");
        var (small, large) = (plan.Gpu(Device.Cuda(0)), plan.Gpu(Device.Cuda(1)));
        Assert.All(plan.Banks, b => Assert.Equal(b.Place.Compute.Index == 0 ? ExecutorKind.Split : ExecutorKind.Resident, b.Place.Executor));
        Assert.Equal((0, 0L), (large.Slots, large.Ring));
        Assert.Equal(plan.Banks.Where(b => b.Place.Compute.Index == 1).Sum(b => b.Layout.Bytes), large.Experts);
        Assert.InRange(small.Ring, 1, Small / 4);
        Assert.True(small.Left > 0 && small.Left + small.Ring + small.Weights == Small);
        Assert.Equal(["cuda:0 has ", "cuda:1 has "], plan.Notes.Select(n => System.Text.RegularExpressions.Regex.Match(n, @"cuda:\d has ").Value));
        List<string> notes = [];
        var memory = TrainingMemory.Choose(model, new LoraSettings(64, Experts: true), new TrainingMemoryKeys(), plan, 8192, notes);
        Assert.True(memory[Device.Cuda(0)].LoraOnHost && !memory[Device.Cuda(1)].LoraOnHost);
        Assert.True(memory[Device.Cuda(1)].SavedBytes > memory[Device.Cuda(0)].SavedBytes);
        Assert.Contains(notes, n => n.StartsWith("cuda:0: the LoRA of its experts", StringComparison.Ordinal));
        Assert.DoesNotContain(notes, n => n.StartsWith("cuda:1: the LoRA of its experts", StringComparison.Ordinal));
    }

    /// <summary>A rule's format, else the checkpoint's, else the type's own.</summary>
    [Theory]
    [InlineData("fp8", "experts=streamed")]
    [InlineData("int8", "experts=streamed", "kt_config.kt_backend=AMXINT8")]
    public void The_format_is_what_is_asked_for_else_as_stored(string format, params string[] keys)
    {
        using var model = ModelFolder.Shape(ModelShapes.File("deepseek-v2-lite"));
        var plan = Resolve(model, _ => Large, ["device=cuda:0", .. keys]);
        Assert.All(plan.Banks, b => Assert.Equal(format, b.Format.Name));
        Assert.All(plan.Banks, b => Assert.True(b.IsBroughtLater && b.GroupBytes > 0));
    }

    [Fact]
    public void A_tensor_is_mapped_read_or_sent()
    {
        using var model = ModelFolder.Shape(ModelShapes.File("deepseek-v2-lite"));
        var plan = Resolve(model, _ => Large, "device=cuda:0", "experts=cpu", "kt_config.kt_backend=AMXBF16");
        const string expert = "model.layers.3.mlp.experts.7.up_proj.weight", norm = "model.norm.weight";
        Assert.Equal("model.layers.3.mlp.experts", plan.Bank(expert)!.Path);
        Assert.Null(plan.Bank(norm));
        // Experts of the CPU are read, or laid out in tiles where its kernels multiply such: all of a projection, by the path of their bank.
        Assert.Equal((!Cpu.MultipliesTiles, (Device?)null), (plan.IsRead(expert), plan.SentTo(expert)));
        Assert.Equal(Cpu.MultipliesTiles, plan.IsTiled("model.layers.3.mlp.experts"));
        Assert.False(plan.IsTiled("model.layers.3.mlp.experts.down_proj_bias"), "a bias, which is taken alone, is no matrix");
        Assert.Equal((false, Device.Cuda(0)), (plan.IsRead(norm), plan.SentTo(norm)));
        var mapped = Resolve(model, _ => Large, "device=cpu");
        Assert.Equal((false, (Device?)null), (mapped.IsRead(expert), mapped.SentTo(norm)));
    }

    [Fact]
    public void A_device_that_the_rules_give_nothing_is_told()
    {
        using var model = ModelFolder.Shape(ModelShapes.File("deepseek-v2-lite"));
        var rules = $"kt_optimize_rule={Path.Combine(Checkout.Root, "rules/cpu.yaml")}";
        Assert.Contains(Resolve(model, _ => Large, "device=cuda:0", rules).Notes, n => n.EndsWith(
            "device: cuda:0 has no effect: the rules of kt_optimize_rule place every module on cpu", StringComparison.Ordinal));
        foreach (var other in (string[][])[["device=cpu", rules], [rules], ["device=cuda:0"]])
            Assert.DoesNotContain(Resolve(model, _ => Large, other).Notes, n => n.Contains("has no effect", StringComparison.Ordinal));
    }

    private static ResidencyPlan Resolve(CausalLm model, Func<Device, long?> free, params string[] keys)
    {
        var settings = PlacementSettings.Read(Settings.Read(["model_name_or_path=deepseek-v2-lite", .. keys]));
        return ResidencyPlan.Resolve(model, DType.BF16, ModelPlacement.Resolve(model, model.Info.ModelType, settings), _ => StorageFormat.Fp8,
            new GpuMemory(settings.GpuMemoryLimit, free));
    }
}
