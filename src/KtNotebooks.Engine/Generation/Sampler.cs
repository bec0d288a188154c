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
        Penalise(logits, [], seen, drawn ?? []);
        if (IsGreedy)
        {
            var likeliest = TensorPrimitives.IndexOfMax<float>(logits); // of the first NaN, where there is one
            return float.IsNaN(logits[likeliest]) ? throw NoNumber() : likeliest;
        }
        TensorPrimitives.Divide(logits, (float)_settings.Temperature, logits);
        return Draw(logits, _settings.TopK == 0 ? logits.Length : Math.Min(_settings.TopK, logits.Length));
    }

    /// <summary>
    /// The same token out of a row's likeliest alone, where they are enough: for a greedy draw and for top-k of fewer, when bias and penalties raise nothing
    /// and leave so many of the list above all that is not in it. False: nothing was drawn.
    /// </summary>
    /// <param name="list">Of logits as the model gave them.</param>
    /// <param name="bias">Added before the penalties.</param>
    /// <param name="seen">As above.</param>
    /// <param name="drawn">As above.</param>
    /// <param name="token">What was drawn.</param>
    internal bool TryNext(Shortlist list, IReadOnlyDictionary<int, float> bias, IEnumerable<int> seen, IEnumerable<int> drawn, out int token)
    {
        token = -1;
        var keep = IsGreedy ? 1 : _settings.TopK;
        if (keep == 0 || keep >= list.Count || !list.IsNumber || _settings is not { RepetitionPenalty: >= 1, PresencePenalty: >= 0, FrequencyPenalty: >= 0 }
            || bias.Any(b => b.Value > 0)) return false;
        Span<float> logits = stackalloc float[list.Count];
        Span<int> ids = stackalloc int[list.Count];
        list.CopyTo(logits, ids);
        var floor = IsGreedy ? logits[^1] : logits[^1] / (float)_settings.Temperature; // nothing outside is likelier than the last of the list was
        foreach (var (id, lower) in bias)
            if (ids.IndexOf(id) is >= 0 and var at) logits[at] += lower;
        Penalise(logits, ids, seen, drawn);
        if (!IsGreedy) TensorPrimitives.Divide(logits, (float)_settings.Temperature, logits);
        Sort(logits, ids);
        if (!(logits[keep - 1] > floor)) return false;
        token = ids[IsGreedy ? 0 : Draw(logits, keep)];
        return true;
    }

    private bool IsGreedy => !_settings.DoSample || _settings.Temperature == 0;

    /// <summary>The place of a token among logits that were divided by the temperature, of which the likeliest so many count.</summary>
    private int Draw(ReadOnlySpan<float> logits, int keep)
    {
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

    /// <summary>ids: the tokens that logits belong to; empty: all, in their order.</summary>
    private void Penalise(Span<float> logits, ReadOnlySpan<int> ids, IEnumerable<int> seen, IEnumerable<int> drawn)
    {
        if (_settings.RepetitionPenalty != 1)
        {
            var penalty = (float)_settings.RepetitionPenalty;
            foreach (var id in seen.Distinct())
                if (Place(ids, id) is >= 0 and var at) logits[at] = logits[at] > 0 ? logits[at] / penalty : logits[at] * penalty;
        }
        if (_settings.PresencePenalty == 0 && _settings.FrequencyPenalty == 0) return;
        foreach (var (id, count) in drawn.CountBy(id => id))
            if (Place(ids, id) is >= 0 and var at) logits[at] -= (float)(_settings.PresencePenalty + (count * _settings.FrequencyPenalty));
    }

    private static int Place(ReadOnlySpan<int> ids, int id) => ids.IsEmpty ? id : ids.IndexOf(id);

    /// <summary>From the likeliest on, equal ones by their number, in place: a list that was in order but for a few.</summary>
    private static void Sort(Span<float> logits, Span<int> ids)
    {
        for (var i = 1; i < logits.Length; i++)
        {
            var (logit, id, at) = (logits[i], ids[i], i);
            for (; at > 0 && (logits[at - 1] < logit || (logits[at - 1] == logit && ids[at - 1] > id)); at--)
                (logits[at], ids[at]) = (logits[at - 1], ids[at - 1]);
            (logits[at], ids[at]) = (logit, id);
        }
    }
}
