
namespace KtNotebooks.Nn;

/// <summary>
/// Sequences laid end to end, without padding: ids, positions and labels [T], seqStarts [N+1]. labels[t] is the token that position t should predict, or −100:
/// the shift to the next token has been done. weights[t] is the share of row t in the loss (0 where there is no target).
/// </summary>
public sealed class TokenBatch
{
    /// <param name="tags">[N]; null: all 0.</param>
    public TokenBatch(int[] ids, int[] positions, int[] labels, float[] weights, int[] seqStarts, int[]? tags = null)
    {
        if (positions.Length != ids.Length || labels.Length != ids.Length || weights.Length != ids.Length)
            throw new ArgumentException($"[TokenBatch] ids, positions, labels and weights must have one length, but "
                + $"have {ids.Length}, {positions.Length}, {labels.Length} and {weights.Length}");
        if (seqStarts.Length == 0 || seqStarts[0] != 0 || seqStarts[^1] != ids.Length)
            throw new ArgumentException($"[TokenBatch] sequence starts must run from 0 to {ids.Length}");
        (Ids, Positions, Labels, Weights, SeqStarts, Tags) = (ids, positions, labels, weights, seqStarts, tags ?? new int[seqStarts.Length - 1]);
    }

    public int[] Ids { get; }

    public int[] Positions { get; }

    public int[] Labels { get; }

    public float[] Weights { get; }

    public int[] SeqStarts { get; }

    /// <summary>[N]: what the stage must know of a sequence beside its ids, as whether an answer is wanted.</summary>
    public int[] Tags { get; }

    /// <summary>[T]: log p of every row's target by the reference of preferences, where it was computed ahead; empty: it was not.</summary>
    public float[] Reference { get; private init; } = [];

    /// <summary>Where these rows begin in the window of which they are a share: masks and noise go by the rows of the window.</summary>
    public int FirstRow { get; private init; }

    /// <summary>Targets of the window before them.</summary>
    public int FirstTarget { get; private init; }

    /// <summary>T.</summary>
    public int Tokens => Ids.Length;

    public int Sequences => SeqStarts.Length - 1;

    /// <summary>Rows that have a target.</summary>
    public int Targets => Labels.Count(label => label >= 0);

    /// <summary>Sequences without labels, each starting at its own position (0, or what a cache holds already).</summary>
    public static TokenBatch ForInference(IReadOnlyList<int[]> sequences, int[]? firstPositions = null)
    {
        ArgumentNullException.ThrowIfNull(sequences);
        var builder = new Builder();
        for (var s = 0; s < sequences.Count; s++) builder.Add(sequences[s], [], 0, firstPositions?[s] ?? 0);
        return builder.Build();
    }

    /// <summary>Sequences [first, last) as a batch of their own.</summary>
    public TokenBatch Sequence(int first, int last)
    {
        var (from, to) = (SeqStarts[first], SeqStarts[last]);
        return new TokenBatch(Ids[from..to], Positions[from..to], Labels[from..to], Weights[from..to],
            [.. SeqStarts[first..(last + 1)].Select(start => start - from)], Tags[first..last])
        {
            Reference = Reference.Length > 0 ? Reference[from..to] : [],
        };
    }

    /// <summary>Sequences [first, last) that stay a share of this batch.</summary>
    public TokenBatch Stretch(int first, int last)
    {
        var part = Sequence(first, last);
        return new TokenBatch(part.Ids, part.Positions, part.Labels, part.Weights, part.SeqStarts, part.Tags)
        {
            Reference = part.Reference,
            FirstRow = FirstRow + SeqStarts[first],
            FirstTarget = FirstTarget + Labels.Take(SeqStarts[first]).Count(label => label >= 0),
        };
    }

    /// <summary>Collects sequences.</summary>
    public sealed class Builder
    {
        private readonly List<int> _ids = [];
        private readonly List<int> _positions = [];
        private readonly List<int> _labels = [];
        private readonly List<float> _weights = [];
        private readonly List<int> _starts = [0];
        private readonly List<int> _tags = [];
        private readonly List<float> _reference = [];

        /// <summary>
        /// Adds one sequence. labels: aligned with ids as data sets store them (labels[t] is ids[t] where trained, else −100), shifted here; empty: none.
        /// Each target gets weight. Positions begin anew at restarts, where rows were packed into the sequence. reference: of every row, of all sequences
        /// or of none.
        /// </summary>
        public Builder Add(ReadOnlySpan<int> ids, ReadOnlySpan<int> labels, float weight, int firstPosition = 0, ReadOnlySpan<int> restarts = default,
            int tag = 0, ReadOnlySpan<float> reference = default)
        {
            var (begin, next) = (0, 0);
            for (var t = 0; t < ids.Length; t++)
            {
                var label = t + 1 < labels.Length ? labels[t + 1] : -100;
                if (next < restarts.Length && restarts[next] == t) (begin, next) = (t, next + 1);
                _ids.Add(ids[t]);
                _positions.Add(firstPosition + t - begin);
                _labels.Add(label);
                _weights.Add(label >= 0 ? weight : 0);
            }
            _starts.Add(_ids.Count);
            _tags.Add(tag);
            _reference.AddRange(reference);
            return this;
        }

        public TokenBatch Build() => new([.. _ids], [.. _positions], [.. _labels], [.. _weights], [.. _starts], [.. _tags])
        {
            Reference = _reference.Count == 0 || _reference.Count == _ids.Count ? [.. _reference]
                : throw new ArgumentException($"[TokenBatch] the reference is known of {_reference.Count} of {_ids.Count} rows"),
        };
    }
}
