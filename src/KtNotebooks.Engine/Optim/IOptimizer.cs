using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>What turns gradients into changes of parameters.</summary>
public interface IOptimizer : IDisposable
{
    /// <summary>Steps taken.</summary>
    int Steps { get; }

    /// <summary>What it remembers, by name, for checkpoints.</summary>
    IReadOnlyList<(string Name, Tensor Tensor)> State { get; }

    /// <summary>Takes over what was saved.</summary>
    /// <exception cref="InvalidDataException">A tensor of another shape.</exception>
    void Restore(int steps, Func<string, Tensor> find);

    /// <summary>One update with gradients times <paramref name="gradientScale"/> (clipping), then gradients are freed.</summary>
    void Step(double learningRate, double gradientScale);
}

/// <summary>What the keys say of an optimizer.</summary>
/// <param name="Name">optim: adamw, lion, adafactor or muon.</param>
/// <param name="Adam">Betas, epsilon and decay, of which the others take what they have.</param>
/// <param name="RateOf">What a parameter's learning rate is multiplied with, by its name; null: 1 for all.</param>
public sealed record OptimizerSettings(string Name, AdamWSettings Adam, Func<string, double>? RateOf = null)
{
    /// <param name="momentsOnHost">See <see cref="AdamW"/>; the others keep what they remember on the host.</param>
    public IOptimizer Make(IReadOnlyList<Parameter> parameters, Func<Device, bool>? momentsOnHost) => Name switch
    {
        "lion" => new Lion(parameters, Adam, RateOf),
        "adafactor" => new Adafactor(parameters, Adam, RateOf),
        "muon" => new Muon(parameters, Adam, RateOf),
        _ => new AdamW(parameters, Adam, momentsOnHost, RateOf),
    };
}
