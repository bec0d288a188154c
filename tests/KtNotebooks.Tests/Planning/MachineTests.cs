using KtNotebooks.Planning;
using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Planning;

/// <summary>Whether a plan fits a machine.</summary>
public class MachineTests
{
    private static readonly Machine Laptop = new(24_000_000_000, 20_000_000_000, [], 100_000_000_000);

    [Fact]
    public void Says_what_is_needed_and_what_is_there()
    {
        var (fits, line) = Laptop.Judge(Plan([("cpu", MemoryPlan.Weights, 3_000_000_000)]));
        Assert.Equal((true, "fits: needs 3.0 GB of 24.0 GB of host memory; no card is needed"), (fits, line));
    }

    [Fact]
    public void Says_all_that_is_lacking()
    {
        var plan = Plan([("cpu", MemoryPlan.Weights, 447_000_000_000), ("cuda:0", MemoryPlan.Weights, 25_000_000_000),
            ("cuda:1", MemoryPlan.Weights, 5_000_000_000)]) with
        { ToFetch = 690_000_000_000 };
        Assert.Equal(
            (false, "does not fit: needs 447 GB of host memory, this machine has 24.0 GB; needs 25.0 GB on cuda:0, 5.0 GB on cuda:1, "
                + "this machine has no card; "
                + "needs 690 GB of free disk for the model, this machine has 100 GB"), Laptop.Judge(plan));
        Assert.Equal((false, "does not fit: needs 25.0 GB of cuda:0, this machine has 24.0 GB; needs 5.0 GB on cuda:1, this machine has 1 card"),
            new Machine(512_000_000_000, 500_000_000_000, [24_000_000_000], 900_000_000_000).Judge(plan));
    }

    [Theory]
    [InlineData(23_500_000_000, true)]
    [InlineData(23_500_000_001, false)] // the program itself needs memory too
    public void The_program_needs_some_memory_beside_its_tensors(long bytes, bool fits) =>
        Assert.Equal(fits, (Laptop with { HostFree = 24_000_000_000 }).Judge(Plan([("cpu", MemoryPlan.Weights, bytes)])).Fits);

    [Fact]
    public void Other_programs_and_mapped_weights_are_remarks()
    {
        Assert.Equal("fits: needs 22.0 GB of 24.0 GB of host memory; no card is needed; only 20.0 GB of host memory are free now: end other programs first",
            Laptop.Judge(Plan([("cpu", MemoryPlan.Weights, 22_000_000_000)])).Line);
        Assert.EndsWith("31.0 GB of weights stay mapped in their files, more than this memory holds: they are read from disk again and again",
            Laptop.Judge(Plan([("cpu", MemoryPlan.Weights, 1_000_000_000), ("cpu", MemoryPlan.Mapped, 31_000_000_000)])).Line, StringComparison.Ordinal);
    }

    /// <summary>Each key does what is promised of it: with all of them the plan is smaller by that, and nothing more is advised.</summary>
    [Fact]
    public void What_would_help_is_said_and_helps()
    {
        string[] keys = ["deepseek-v3", "device=cuda:0", "gpu_memory_limit=23.5GB", "lora_rank=8", "lora_experts=true", "tokens_per_step=8192"];
        var plan = MemoryPlan.Open(keys);
        var advice = Laptop.Advice(plan);
        Assert.Collection(advice,
            line => Assert.StartsWith("expert_weights: disk leaves 654 GB of experts", line, StringComparison.Ordinal),
            line => Assert.StartsWith("expert_lora: disk leaves 52.5 GB of their adapters", line, StringComparison.Ordinal));
        var smaller = MemoryPlan.Open([.. keys, "expert_weights=disk", "expert_lora=disk"]);
        Assert.Equal(plan.Total("cpu") - 654e9 - 52.5e9, smaller.Total("cpu"), 2e9);
        Assert.Empty(Laptop.Advice(smaller));
        Assert.Empty(new Machine(900_000_000_000, 900_000_000_000, [24_000_000_000], 900_000_000_000).Advice(plan));
    }

    /// <summary>A key that means nothing but in training asks for a plan of training; what stands in files for chat too does not.</summary>
    [Theory]
    [InlineData(true, "finetuning_type=full")]
    [InlineData(true, "lora_rank=64")]
    [InlineData(true, "per_device_train_batch_size=4")]
    [InlineData(true, "stage=dpo")]
    [InlineData(false, "finetuning_type=lora", "template=qwen3")]
    public void Keys_of_training_plan_training(bool trains, params string[] keys)
    {
        var (plan, plain) = (MemoryPlan.Open(["qwen3-30b-a3b", "cutoff_len=512", .. keys]), MemoryPlan.Open("qwen3-30b-a3b"));
        Assert.Equal(trains, plan.Total("cpu") > plain.Total("cpu") + (plain.Total("cpu") / 100));
    }

    [Fact]
    public void A_shape_must_be_fetched_and_a_folder_with_weights_is_here()
    {
        // DeepSeek-V3 ships its linear layers in FP8 and the rest in BF16: 671 GB and a little.
        Assert.InRange(MemoryPlan.Open("deepseek-v3").ToFetch, 671_000_000_000, 690_000_000_000);
        var here = MemoryPlan.Open(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"), "tokens_per_step=256");
        Assert.Equal(0, here.ToFetch);
        Assert.Equal(new FileInfo(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny/model.safetensors")).Length, here.Stored, 200_000.0);
        Assert.Equal(16 * here.Trainable, here.Written);
    }

    [Fact]
    public void The_command_says_it_in_its_last_lines_and_in_JSON()
    {
        var (exit, output, errors) = Kt.Run("plan", "deepseek-v3", "device=cuda:0", "experts=resident", "gpu_memory_limit=900GB");
        Assert.True(exit == 0, errors);
        Assert.Matches("\n\ndoes not fit: .*\nthe notebooks need none of this: .*\n$", output); // no machine has 900 GB on a card
        Assert.Matches("\n\nfits: needs .* of host memory; no card is needed\n$", Kt.Run("plan", "notebooks/models/kt-tiny").Output);
        using var json = System.Text.Json.JsonDocument.Parse(Kt.Run("plan", "notebooks/models/kt-tiny", "--json").Output);
        Assert.True(json.RootElement.GetProperty("fits").GetBoolean());
        Assert.Matches("(?m)^notebooks +(fit|do not fit)", Kt.Run("doctor").Output);
    }

    private static MemoryPlan Plan((string Device, string What, long Bytes)[] items) => new()
    {
        Model = "m",
        ModelType = "t",
        Parameters = 0,
        Trainable = 0,
        Stored = 0,
        Tokens = 0,
        Rows = [],
        Notes = [],
        Items = [.. items.Select(i => new PlanItem(i.Device, i.What, i.Bytes))],
    };
}
