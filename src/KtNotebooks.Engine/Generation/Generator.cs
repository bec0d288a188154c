using KtNotebooks.Autograd;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Nn;

namespace KtNotebooks.Generation;

/// <summary>Token by token generation with a cache of keys and values: the prompt runs once, then one row a token.</summary>
/// <param name="model">Shared by as many generators as one likes.</param>
/// <param name="adapter">One of <see cref="NamedAdapters.Of"/>, or `base`; null: the attached one.</param>
/// <param name="vocabulary">Tokens from this number on are never drawn: models pad their vocabulary beyond what the tokenizer has text for. Null: all may
/// be.</param>
public sealed class Generator(CausalLm model, string? adapter = null, int? vocabulary = null)
{
    /// <summary>
    /// Yields new tokens as they are drawn, without the stop token. Ends at a stop token, max_new_tokens, or cancellation (OperationCanceledException).
    /// </summary>
    /// <exception cref="ArgumentException">An empty prompt, one longer than the model's positions, or an unknown adapter.</exception>
    public IEnumerable<int> Generate(IReadOnlyList<int> prompt, Sampling sampling, IReadOnlySet<int> stops, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        ArgumentNullException.ThrowIfNull(sampling);
        ArgumentNullException.ThrowIfNull(stops);
        if (prompt.Count == 0) throw new ArgumentException("the prompt has no tokens");
        if (prompt.Count >= model.Info.MaxPositions)
            throw new ArgumentException($"the prompt has {prompt.Count} tokens; the model was made for {model.Info.MaxPositions} positions");
        NamedAdapters.Check(model, adapter);
        return Loop(prompt, sampling, stops, cancel);
    }

    public IEnumerable<int> Generate(IReadOnlyList<int> prompt, Sampling sampling, IEnumerable<int> stops, CancellationToken cancel = default) =>
        Generate(prompt, sampling, stops.ToHashSet(), cancel);

    private IEnumerable<int> Loop(IReadOnlyList<int> prompt, Sampling sampling, IReadOnlySet<int> stops, CancellationToken cancel)
    {
        var sampler = new Sampler(sampling);
        using var cache = new KvCache();
        var ids = prompt.ToList();
        int[] next = [.. prompt];
        var room = Math.Min(sampling.MaxNewTokens, model.Info.MaxPositions - prompt.Count);
        for (var n = 0; n < room; n++)
        {
            cancel.ThrowIfCancellationRequested();
            var logits = LastLogits(next, ids.Count - next.Length, cache);
            var token = sampler.Next(logits.AsSpan(0, Math.Min(logits.Length, vocabulary ?? logits.Length)), ids);
            if (stops.Contains(token)) yield break;
            ids.Add(token);
            yield return token;
            next = [token];
        }
    }

    /// <summary>Runs new rows through the model and returns the logits of the last, [V].</summary>
    private float[] LastLogits(int[] ids, int firstPosition, KvCache cache)
    {
        using var tape = Tape.Scratch();
        var batch = TokenBatch.ForInference([ids], [firstPosition]);
        var pass = Pass.Inference(batch, cache, adapter);
        var hidden = model.Hidden(batch, pass);
        using var last = hidden.Slice(ids.Length - 1, 1);
        return model.Logits(last, pass).ToFloats();
    }
}
