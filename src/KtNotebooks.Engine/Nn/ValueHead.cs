using KtNotebooks.Tensors;

namespace KtNotebooks.Nn;

/// <summary>
/// value = h · w + b on normed hidden states: the head of a reward model, in F32, under the names of TRL's AutoModelForCausalLMWithValueHead. It is no
/// weight of the checkpoint: it has a file of its own. TRL drops a tenth of its inputs in training; here none.
/// </summary>
public sealed class ValueHead : Module
{
    public const string WeightName = "v_head.summary.weight", BiasName = "v_head.summary.bias";

    /// <summary>Weight [1, D] and bias [1], F32; taken over.</summary>
    public ValueHead(Tensor weight, Tensor bias)
        : base("v_head.summary")
    {
        (Weight, Bias) = (weight, bias);
        Weight.RequiresGrad = Bias.RequiresGrad = true;
    }

    public Tensor Weight { get; }

    public Tensor Bias { get; }

    public override IEnumerable<Parameter> Trainable => [new(WeightName, Weight), new(BiasName, Bias)];

    public override Device Device => Weight.Device;

    /// <summary>A new one, both uniform in ±1/√D, as torch's linear begins.</summary>
    public static ValueHead Fresh(int width, Device device, ulong seed)
    {
        Tensor Uniform(string name, params ReadOnlySpan<long> shape)
        {
            var random = new NormalRandom(seed, name);
            using var host = Tensor.Empty(DType.F32, shape);
            foreach (ref var value in host.Span<float>()) value = (float)(((2 * random.Uniform()) - 1) / Math.Sqrt(width));
            return host.To(device);
        }
        return new ValueHead(Uniform(WeightName, 1, width), Uniform(BiasName, 1));
    }

    /// <summary>h [N, D] → F32 [N, 1].</summary>
    public Tensor Forward(Tensor h) => Ops.AddBias.Apply(Ops.Linear.Apply(h, Weight, DType.F32), Bias);

    protected override void DisposeOwn()
    {
        Weight.Dispose();
        Bias.Dispose();
    }
}
