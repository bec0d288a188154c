using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>Draws tokens from logits: repetition penalty, temperature, top-k, then top-p, in Hugging Face's order. Deterministic by seed.</summary>
public sealed class Sampler
{
    private readonly Sampling _settings;
    private readonly NormalRandom _random;

    public Sampler(Sampling settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        _settings = settings.Checked();
        _random = new NormalRandom(settings.Seed, "sampler");
    }

    /// <summary>logits [V] are changed in place. seen: ids so far, for the repetition penalty.</summary>
    public int Next(Span<float> logits, IEnumerable<int> seen)
    {
        Penalise(logits, seen);
        if (!_settings.DoSample || _settings.Temperature == 0) return TensorPrimitives.IndexOfMax<float>(logits);
        TensorPrimitives.Divide(logits, (float)_settings.Temperature, logits);
        var keep = _settings.TopK == 0 ? logits.Length : Math.Min(_settings.TopK, logits.Length);
        var order = new int[logits.Length];
        var values = logits.ToArray();
        for (var i = 0; i < order.Length; i++) order[i] = i;
        TensorPrimitives.Negate<float>(values, values);
        Array.Sort(values, order); // ascending in −logit: most likely first
        var probabilities = new double[keep];
        double sum = 0;
        for (var i = 0; i < keep; i++) sum += probabilities[i] = Math.Exp(values[0] - values[i]);
        // Nucleus: the shortest prefix whose mass reaches top_p; the first token always stays.
        double mass = 0;
        var nucleus = keep;
        for (var i = 0; i < keep; i++)
        {
            mass += probabilities[i];
            if (mass >= _settings.TopP * sum)
            {
                nucleus = i + 1;
                break;
            }
        }
        var draw = _random.Uniform() * Math.Min(mass, sum);
        for (var i = 0; i < nucleus; i++)
        {
            draw -= probabilities[i];
            if (draw < 0) return order[i];
        }
        return order[nucleus - 1];
    }

    private void Penalise(Span<float> logits, IEnumerable<int> seen)
    {
        if (_settings.RepetitionPenalty == 1) return;
        var penalty = (float)_settings.RepetitionPenalty;
        foreach (var id in seen.Distinct()) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
    }
}
