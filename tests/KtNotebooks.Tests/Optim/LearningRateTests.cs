using KtNotebooks.Data;
using KtNotebooks.Optim;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>Schedules and step counts as LLaMA-Factory with Hugging Face's trainer has them.</summary>
public class LearningRateTests
{
    /// <summary>36 steps, ratio 0.1, base 1e-4: the rate that is logged after step s, which is that of the next update.</summary>
    [Theory]
    [InlineData("cosine", 1, 2.5e-5)]
    [InlineData("cosine", 4, 1e-4)]
    [InlineData("cosine", 10, 9.1573e-5)]
    [InlineData("cosine", 20, 5e-5)]
    [InlineData("cosine", 35, 2.41e-7)]
    [InlineData("cosine", 36, 0)]
    [InlineData("linear", 1, 2.5e-5)]
    [InlineData("linear", 4, 1e-4)]
    [InlineData("linear", 20, 5e-5)]
    [InlineData("linear", 36, 0)]
    [InlineData("constant", 1, 1e-4)]
    [InlineData("constant_with_warmup", 1, 2.5e-5)]
    [InlineData("constant_with_warmup", 30, 1e-4)]
    public void Rates_are_the_known_ones(string schedule, int step, double expected)
    {
        var settings = new TrainSettings { OutputDir = "", WarmupRatio = 0.1 };
        var rate = new LearningRate(schedule, 1e-4, settings.WarmupOf(36), 36).At(step);
        Assert.InRange(rate, expected - 5e-10, expected + 5e-10);
    }

    /// <summary>The schedules with settings of their own: values of the formulas of transformers' optimization.py, base 1e-3, 4 of 36 steps warm-up.</summary>
    private static readonly (string Type, ScheduleSettings Settings, (int Step, double Rate)[] Rates)[] Others =
    [
        ("cosine_with_restarts", new ScheduleSettings(Cycles: 3), [(2, 0.0005), (4, 0.001), (10, 0.000402454839), (20, 0.0005),
            (33, 0.000182803358), (36, 0)]),
        ("cosine_with_min_lr", new ScheduleSettings(MinRate: 1e-4), [(2, 0.0005), (4, 0.001), (10, 0.000924161326), (20, 0.00055),
            (33, 0.000119376849), (36, 0.0001)]),
        ("cosine_with_min_lr", new ScheduleSettings(MinShare: 0.25), [(2, 0.0005), (4, 0.001), (10, 0.000936801105), (20, 0.000625),
            (33, 0.000266147374), (36, 0.00025)]),
        ("polynomial", new ScheduleSettings(EndRate: 1e-5, Power: 2), [(2, 0.0005), (4, 0.001), (10, 0.000663554687), (20, 0.0002575),
            (33, 1.87011719e-05), (36, 1e-05)]),
        ("inverse_sqrt", new ScheduleSettings(), [(2, 0.0005), (4, 0.001), (10, 0.000632455532), (20, 0.000447213595),
            (33, 0.000348155312), (36, 0.000333333333)]),
        ("inverse_sqrt", new ScheduleSettings(TimeScale: 9), [(2, 0.0005), (4, 0.001), (10, 0.000774596669), (20, 0.0006),
            (33, 0.000486664263), (36, 0.000468521286)]),
        ("warmup_stable_decay", new ScheduleSettings(MinShare: 0.1, DecaySteps: 8), [(2, 0.00055), (4, 0.001), (10, 0.001), (20, 0.001),
            (33, 0.000377792455), (36, 0.0001)]),
        ("warmup_stable_decay", new ScheduleSettings(DecaySteps: 8, DecayType: "1-sqrt"), [(2, 0.0005), (4, 0.001), (10, 0.001),
            (20, 0.001), (33, 0.000209430585), (36, 0)]),
        ("cosine_warmup_with_min_lr", new ScheduleSettings(MinShare: 0.25), [(0, 0.00025), (2, 0.00075), (4, 0.000998194273), (10, 0.00091487892),
            (20, 0.000588243572), (33, 0.00025720552), (35, 0.00025)]),
        ("cosine_warmup_with_min_lr", new ScheduleSettings(MinRate: 1e-4, WarmupShare: 0.05), [(0, 5e-05), (2, 0.000683333333), (4, 0.000997833127),
            (10, 0.000897854704), (20, 0.000505892287), (33, 0.000108646624), (35, 0.0001)])
    ];

    [Fact]
    public void Schedules_with_settings_are_those_of_transformers()
    {
        foreach (var (type, settings, rates) in Others)
            foreach (var (step, rate) in rates)
                Assert.True(Math.Abs(rate - new LearningRate(type, 1e-3, 4, 36) { Settings = settings }.At(step)) < 1e-11, $"{type} {settings} at {step}");
        Assert.Equal(LearningRate.Known.Except(["cosine", "linear", "constant", "constant_with_warmup"]).Order(),
            Others.Select(o => o.Type).Distinct().Order());
    }

    [Fact]
    public void The_first_update_of_a_warm_up_has_rate_zero() => Assert.Equal(0, new LearningRate("cosine", 1e-4, 4, 36).At(0));

    [Theory]
    [InlineData(36, 0.1, 0, 4)]
    [InlineData(411, 0.1, 0, 42)]
    [InlineData(411, 0.1, 7, 7)]
    [InlineData(411, 0, 0, 0)]
    public void Warm_up_steps_are_rounded_up(int total, double ratio, int steps, int expected) => Assert.Equal(expected, new TrainSettings
    {
        OutputDir = "",
        WarmupRatio = ratio,
        WarmupSteps = steps,
    }.WarmupOf(total));

    [Theory]
    [InlineData(91, 1, 8, 3, -1, 36)]
    [InlineData(1090, 1, 8, 3, -1, 411)]
    [InlineData(9477, 8, 8, 1, -1, 149)]
    [InlineData(91, 1, 8, 0.5, -1, 6)]
    [InlineData(91, 1, 8, 3, 5, 5)]
    public void Steps_count_the_short_last_window(int rows, int batch, int accumulation, double epochs, int maxSteps, int expected)
    {
        var examples = Enumerable.Repeat(new EncodedExample([1, 2], [1, 2], "x:1"), rows).ToArray();
        Assert.Equal(expected, new ExampleWindows(examples, batch, accumulation, epochs, maxSteps, LossReduction.Token, 1).TotalSteps);
    }

    [Fact]
    public void An_unknown_schedule_names_the_known_ones() =>
        Assert.Equal("lr_scheduler_type 'sine' is not known; known are cosine, linear, constant, constant_with_warmup, cosine_with_restarts, "
            + "cosine_with_min_lr, cosine_warmup_with_min_lr, polynomial, inverse_sqrt, warmup_stable_decay",
            Assert.Throws<ArgumentException>(() => new LearningRate("sine", 1, 0, 10).At(1)).Message);

    /// <summary>As the published LoRA+ groups them: "lora_B" in the name, or one dimension.</summary>
    [Theory]
    [InlineData("model.layers.0.self_attn.o_proj.lora_A.weight", 1)]
    [InlineData("model.layers.0.self_attn.o_proj.lora_B.weight", 4)]
    [InlineData("model.layers.3.mlp.experts.gate_proj.lora_B", 4)]
    [InlineData("model.layers.3.mlp.experts.gate_proj.lora_A", 1)]
    [InlineData("model.layers.0.self_attn.o_proj.lora_magnitude_vector", 4)]
    [InlineData("model.layers.0.input_layernorm.weight", 4)]
    [InlineData("model.layers.0.self_attn.q_proj.bias", 4)]
    [InlineData("lm_head.weight", 1)]
    public void LoraPlus_raises_the_rate_of_B_and_of_what_has_one_dimension(string name, double expected)
    {
        Assert.Equal(expected, new TrainSettings { OutputDir = "", LoraPlus = 4 }.Optimizing.RateOf!(name));
        Assert.Null(new TrainSettings { OutputDir = "" }.Optimizing.RateOf);
    }
}
