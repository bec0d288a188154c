using KtNotebooks.Nn;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Optim;

/// <summary>Rounding by chance against what it is for: the mean of many roundings is the value, and a step below half a BF16 step is not lost.</summary>
public class StochasticTests
{
    [Theory]
    [InlineData(1.0f)]
    [InlineData(1.001f)]
    [InlineData(-3.1415927f)]
    [InlineData(1e-20f)]
    [InlineData(2.5e30f)]
    public void The_mean_is_the_value_and_each_is_a_neighbour(float value)
    {
        const int Count = 1 << 16;
        double sum = 0;
        HashSet<float> seen = [];
        for (var i = 0; i < Count; i++)
        {
            var rounded = Bf16.ToFloat(Stochastic.Round(value, Stochastic.Chance(12345, i)));
            seen.Add(rounded);
            sum += rounded;
        }
        var down = Bf16.ToFloat((ushort)(BitConverter.SingleToUInt32Bits(value) >> 16));
        var up = Bf16.ToFloat((ushort)((BitConverter.SingleToUInt32Bits(value) >> 16) + 1));
        Assert.All(seen, v => Assert.True(v == down || v == up));
        // Of a mean of n draws that are one of two: three deviations are 1.5 / √n of their distance.
        Assert.InRange(sum / Count, value - (Math.Abs(up - down) * 1.5 / Math.Sqrt(Count)), value + (Math.Abs(up - down) * 1.5 / Math.Sqrt(Count)));
    }

    [Fact]
    public void No_number_stays_none()
    {
        Assert.Equal(float.PositiveInfinity, Bf16.ToFloat(Stochastic.Round(float.PositiveInfinity, uint.MaxValue)));
        Assert.True(float.IsNaN(Bf16.ToFloat(Stochastic.Round(float.NaN, 0))));
        Assert.True(float.IsNaN(Bf16.ToFloat(Stochastic.Round(BitConverter.UInt32BitsToSingle(0x7F800001), 0))));
    }

    /// <summary>A thousand steps of 1e-5 on weights of 1, whose next BF16 value is 1/256 away: rounding to nearest would leave 1.</summary>
    [Theory]
    [InlineData("adamw")]
    [InlineData("lion")]
    public void Small_steps_add_up(string name)
    {
        const int N = 4096, Steps = 1000;
        using var w = Tensor.From([.. Enumerable.Repeat(1f, N)], DType.BF16, N);
        w.RequiresGrad = true;
        using var optimizer = new OptimizerSettings(name, new AdamWSettings()).Make([new Parameter("w", w)], null);
        for (var s = 0; s < Steps; s++)
        {
            w.Grad = Tensor.From([.. Enumerable.Repeat(1f, N)], N);
            optimizer.Step(1e-5, 1);
        }
        Assert.Equal(DType.BF16, w.Type);
        Assert.Equal(1 - (Steps * 1e-5), w.ToFloats().Average(v => (double)v), 1e-3);
    }

    [Theory]
    [InlineData("model.layers.0.self_attn.q_proj.weight", true)]
    [InlineData("model.layers.0.mlp.experts.gate_proj", true)]
    [InlineData("model.layers.0.mlp.gate.weight", true)]
    [InlineData("model.embed_tokens.weight", true)]
    [InlineData("model.layers.0.input_layernorm.weight", false)]
    [InlineData("model.layers.0.self_attn.kv_a_layernorm.weight", false)]
    [InlineData("model.layers.0.self_attn.q_norm.weight", false)]
    [InlineData("model.norm.weight", false)]
    [InlineData("model.layers.0.self_attn.q_proj.bias", false)]
    [InlineData("v_head.summary.bias", false)]
    [InlineData("model.layers.0.self_attn.q_proj.lora_A.weight", true)]
    public void Norms_and_biases_do_not_decay(string name, bool decays) => Assert.Equal(decays, OptimizerSettings.IsDecayed(name));
}
