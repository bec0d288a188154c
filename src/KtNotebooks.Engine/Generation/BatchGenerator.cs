using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;

namespace KtNotebooks.Generation;

/// <summary>One prompt of many. The row decides the seed of its draws.</summary>
public sealed record GenerationRequest(int Row, int[] Prompt);

/// <summary>What came out: the new tokens without the stop token.</summary>
public sealed record GeneratedTokens(int Row, int[] Ids);

/// <summary>
/// Many sequences decode at once (continuous batching): each pass runs the whole prompt of every sequence that joins and one token of every other, end to
/// end without padding; a finished sequence leaves at once and the next prompt takes its place. What a row becomes depends on its prompt, the seed and its
/// number alone, not on <paramref name="slots"/>: draws are seeded by row, prompts run whole, and on the CPU the kernels are held to row-invariant sums (a
/// GPU's GEMM may sum otherwise for other sizes).
/// </summary>
/// <param name="model">What generates.</param>
/// <param name="sampling">How; max_new_tokens bounds every row.</param>
/// <param name="stops">Tokens that end a row.</param>
/// <param name="slots">Sequences at once.</param>
/// <param name="vocabulary">Tokens from this number on are never drawn: models pad their vocabulary beyond what the tokenizer has text for. Null: all may
/// be.</param>
/// <param name="prefillRows">Rows of prompts that join in one pass; a longer prompt joins alone.</param>
public sealed class BatchGenerator(CausalLm model, Sampling sampling, IReadOnlySet<int> stops, int slots, int? vocabulary = null, int prefillRows = 4096)
{
    /// <summary>Tokens generated so far, finished rows or not.</summary>
    public long Tokens { get; private set; }

    /// <summary>Yields rows as they finish. Cancelling ends between two passes (OperationCanceledException); rows in work are lost.</summary>
    /// <exception cref="ArgumentException">A prompt is empty or leaves the model no position.</exception>
    public IEnumerable<GeneratedTokens> Run(IReadOnlyList<GenerationRequest> requests, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(requests);
        ArgumentOutOfRangeException.ThrowIfLessThan(slots, 1);
        sampling.Checked();
        foreach (var (row, prompt) in requests)
        {
            if (prompt.Length == 0) throw new ArgumentException($"row {row + 1}: the prompt has no tokens");
            if (prompt.Length >= model.Info.MaxPositions)
                throw new ArgumentException($"row {row + 1}: the prompt has {prompt.Length} tokens; the model was made "
                    + $"for {model.Info.MaxPositions} positions, cutoff_len shortens prompts");
        }
        return Loop(requests, cancel);
    }

    private IEnumerable<GeneratedTokens> Loop(IReadOnlyList<GenerationRequest> requests, CancellationToken cancel)
    {
        using var invariant = Cpu.RowInvariant();
        using var cache = new KvCache();
        List<Running> running = [];
        List<GeneratedTokens> finished = [];
        for (var next = 0; next < requests.Count || running.Count > 0;)
        {
            cancel.ThrowIfCancellationRequested();
            for (var joined = 0; next < requests.Count && running.Count < slots
                && (joined == 0 || joined + requests[next].Prompt.Length <= prefillRows); next++)
            {
                running.Add(new Running(requests[next], sampling, Math.Min(sampling.MaxNewTokens, model.Info.MaxPositions - requests[next].Prompt.Length)));
                joined += requests[next].Prompt.Length;
            }
            Step(running, cache);
            for (var i = running.Count - 1; i >= 0; i--)
            {
                if (!running[i].Done) continue;
                finished.Add(running[i].Result());
                running.RemoveAt(i);
                cache.Remove(i);
            }
            for (var i = finished.Count - 1; i >= 0; i--) yield return finished[i];
            finished.Clear();
        }
    }

    /// <summary>One token for every running sequence.</summary>
    private void Step(List<Running> running, KvCache cache)
    {
        using var tape = Tape.Scratch();
        var batch = TokenBatch.ForInference([.. running.Select(r => r.Pending)], [.. running.Select(r => r.Held)]);
        var hidden = model.Hidden(batch, cache);
        var last = GatherRows.Apply(hidden, [.. batch.SeqStarts[1..].Select(end => end - 1)]);
        var logits = model.Logits(last, Pass.Inference(batch)).ToFloats();
        var width = logits.Length / running.Count;
        for (var i = 0; i < running.Count; i++)
            if (running[i].Take(logits.AsSpan(i * width, Math.Min(width, vocabulary ?? width)), stops)) Tokens++;
    }

    /// <summary>A sequence in work: what the cache holds of it, and what comes next.</summary>
    private sealed class Running
    {
        private readonly int _row;
        private readonly int _prompt;
        private readonly int _room;
        private readonly List<int> _ids;
        private readonly Sampler _sampler;

        public Running(GenerationRequest request, Sampling sampling, int room)
        {
            (_row, _prompt, _room, _ids, Pending) = (request.Row, request.Prompt.Length, room, [.. request.Prompt], request.Prompt);
            _sampler = new Sampler(sampling with { Seed = DropoutMask.Mix(sampling.Seed ^ ((ulong)request.Row << 32)) });
        }

        /// <summary>Tokens that the next pass runs: the prompt, later the token drawn last.</summary>
        public int[] Pending { get; private set; }

        /// <summary>Tokens in the cache.</summary>
        public int Held { get; private set; }

        public bool Done { get; private set; }

        /// <summary>Draws from the logits [V] of the last token; false for a stop token.</summary>
        public bool Take(Span<float> logits, IReadOnlySet<int> stops)
        {
            Held += Pending.Length;
            var token = _sampler.Next(logits, _ids);
            if (stops.Contains(token))
            {
                Done = true;
                return false;
            }
            _ids.Add(token);
            Pending = [token];
            Done = _ids.Count - _prompt >= _room;
            return true;
        }

        public GeneratedTokens Result() => new(_row, [.. _ids.Skip(_prompt)]);
    }
}
