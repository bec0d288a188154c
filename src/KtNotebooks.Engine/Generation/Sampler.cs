using System.Numerics.Tensors;

using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// Draws tokens from logits: penalties, temperature, top-k, top-p, then min-p, in Hugging Face's order. Deterministic by seed. Candidates are walked from
/// the most likely on (equal ones by their number), and only as many are put in order as the draw asks for (<see cref="LikeliestFirst"/>).
/// </summary>
public sealed class Sampler
{
    private readonly Sampling _settings;
    private readonly NormalRandom _random;
    private readonly LikeliestFirst _candidates = new();

    public Sampler(Sampling settings)
    {
        ArgumentNullException.ThrowIfNull(settings);
        _settings = settings.Checked();
        _random = new NormalRandom(settings.Seed, "sampler");
    }

    /// <summary>
    /// logits [V] are changed in place. seen: ids so far, for the repetition penalty; drawn: those of them that were drawn, for the other two.
    /// </summary>
    public int Next(Span<float> logits, IEnumerable<int> seen, IEnumerable<int>? drawn = null)
    {
        Penalise(logits, seen, drawn ?? []);
        return Next(logits);
    }

    /// <summary>The same without penalties.</summary>
    private int Next(Span<float> logits)
    {
        if (!_settings.DoSample || _settings.Temperature == 0)
        {
            var likeliest = TensorPrimitives.IndexOfMax<float>(logits); // of the first NaN, where there is one
            return float.IsNaN(logits[likeliest]) ? throw NoNumber() : likeliest;
        }
        TensorPrimitives.Divide(logits, (float)_settings.Temperature, logits);
        var keep = _settings.TopK == 0 ? logits.Length : Math.Min(_settings.TopK, logits.Length);
        _candidates.Start(logits, keep);
        var sum = keep == logits.Length ? _candidates.Mass(logits) : 0.0;
        for (var i = 0; i < keep && keep < logits.Length; i++) sum += _candidates.Weight(logits, i);
        if (double.IsNaN(sum)) throw NoNumber(); // asked of the sum, for logits are read once a token already
        // Nucleus: the shortest prefix whose mass reaches top_p; the first token always stays.
        var (nucleus, mass) = (keep, sum);
        if (_settings.TopP < 1)
            for ((nucleus, mass) = (0, 0); nucleus < keep && (nucleus == 0 || mass < _settings.TopP * sum); nucleus++)
                mass += _candidates.Weight(logits, nucleus);
        if (_settings.MinP > 0)
        {
            // The weights are shares of the most likely one's.
            double likely = 0;
            var n = 0;
            for (; n < nucleus && (n == 0 || _candidates.Weight(logits, n) >= _settings.MinP); n++) likely += _candidates.Weight(logits, n);
            (nucleus, mass) = (n, likely);
        }
        var draw = _random.Uniform() * Math.Min(mass, sum);
        for (var i = 0; i < nucleus; i++)
        {
            draw -= _candidates.Weight(logits, i);
            if (draw < 0) return _candidates.Id(i);
        }
        return _candidates.Id(nucleus - 1);
    }

    private static InvalidDataException NoNumber() => new("the model's answer is not a number (NaN): a weight of the model or of its adapter is, or "
        + "activations are larger than their type holds; infer_dtype: float32 tells the second, and `kt train` on any row names the layer where it begins");

    private void Penalise(Span<float> logits, IEnumerable<int> seen, IEnumerable<int> drawn)
    {
        if (_settings.RepetitionPenalty != 1)
        {
            var penalty = (float)_settings.RepetitionPenalty;
            foreach (var id in seen.Distinct()) logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
        }
        if (_settings.PresencePenalty == 0 && _settings.FrequencyPenalty == 0) return;
        foreach (var (id, count) in drawn.CountBy(id => id)) logits[id] -= (float)(_settings.PresencePenalty + (count * _settings.FrequencyPenalty));
    }
}
