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
/// <param name="Name">optim: adamw, lion, adafactor, muon or sgd.</param>
/// <param name="Adam">Betas, epsilon and decay, of which the others take what they have.</param>
/// <param name="RateOf">What a parameter's learning rate is multiplied with, by its name; null: 1 for all.</param>
/// <param name="Decays">Whether a parameter decays, by its name; null: all do.</param>
public sealed record OptimizerSettings(string Name, AdamWSettings Adam, Func<string, double>? RateOf = null, Func<string, bool>? Decays = null)
{
    /// <summary>As transformers' trainer: everything decays but norms and biases (5.17, Trainer.get_decay_parameter_names).</summary>
    public static bool IsDecayed(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        var parts = name.ToLowerInvariant().Split('.');
        return !Array.Exists(parts, part => part is "norm" || part.EndsWith("_norm", StringComparison.Ordinal)
            || part.Contains("bias", StringComparison.Ordinal) || part.Contains("layernorm", StringComparison.Ordinal)
            || part.Contains("rmsnorm", StringComparison.Ordinal));
    }

    /// <param name="momentsOnHost">See <see cref="AdamW"/>; the others keep what they remember on the host.</param>
    public IOptimizer Make(IReadOnlyList<Parameter> parameters, Func<Device, bool>? momentsOnHost) => Name switch
    {
        "lion" => new Lion(parameters, Adam, RateOf, Decays),
        "adafactor" => new Adafactor(parameters, Adam, RateOf, Decays),
        "muon" => new Muon(parameters, Adam, RateOf, Decays),
        "sgd" => new Sgd(parameters, Adam, RateOf, Decays),
        _ => new AdamW(parameters, Adam, momentsOnHost, RateOf, Decays),
    };
}
