using KtNotebooks.Autograd;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Training;

namespace KtNotebooks.Evaluation;

/// <summary>
/// LLaMA-Factory's compute_accuracy, with the loss from the same pass. eval_accuracy: per row the share of trained tokens that are the argmax after the
/// tokens before them, then the mean over rows (short rows weigh as much as long ones). eval_loss: the mean of −ln p over all trained tokens.
/// </summary>
/// <param name="chunkRows">Rows of a pass; <paramref name="headRows"/> of them have logits at a time.</param>
public sealed class TokenAccuracy(CausalLm model, int chunkRows = 8192, int headRows = LayerMajorStep.HeadRows)
{
    public (double Accuracy, double Loss) Of(IReadOnlyList<EncodedExample> examples, CancellationToken cancel = default) =>
        Of(examples, SingleRank.Instance, cancel);

    /// <summary>The same of rows of which each rank computes a part; all of them get it.</summary>
    public (double Accuracy, double Loss) Of(IReadOnlyList<EncodedExample> examples, ICollective ranks, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(examples);
        ArgumentNullException.ThrowIfNull(ranks);
        double accuracies = 0, loss = 0;
        var (rows, targets) = (0, 0);
        var (from, to) = ranks.PartOf(examples.Count);
        for (var first = from; first < to;)
        {
            cancel.ThrowIfCancellationRequested();
            var builder = new TokenBatch.Builder();
            var last = first;
            for (var length = 0; last < to && (last == first || length + examples[last].Ids.Length <= chunkRows); last++)
            {
                builder.Add(examples[last].Ids, examples[last].Labels, 1);
                length += examples[last].Ids.Length;
            }
            var batch = builder.Build();
            var right = Right(batch, ref loss);
            for (var s = 0; s < batch.Sequences; s++)
            {
                var trained = Enumerable.Range(batch.SeqStarts[s], batch.SeqStarts[s + 1] - batch.SeqStarts[s]).Where(t => batch.Labels[t] >= 0).ToArray();
                if (trained.Length == 0) continue; // cut before its answer began
                accuracies += (double)trained.Count(t => right[t]) / trained.Length;
                targets += trained.Length;
                rows++;
            }
            first = last;
        }
        var all = ranks.AllGather([accuracies, loss, rows, targets]);
        double Sum(int of) => all.Sum(rank => rank[of]);
        if (Sum(2) == 0) throw new ArgumentException("no row has a token to predict; cutoff_len may leave only prompts");
        return (Sum(0) / Sum(2), Sum(1) / Sum(3));
    }

    private bool[] Right(TokenBatch batch, ref double loss)
    {
        using var tape = Tape.Scratch();
        var hidden = model.Hidden(batch);
        var right = new bool[batch.Tokens];
        foreach (var part in Enumerable.Range(0, batch.Tokens).Where(t => batch.Labels[t] >= 0).Chunk(headRows))
        {
            using var scratch = Tape.Scratch();
            var logits = model.Logits(GatherRows.Apply(hidden, part), new Pass([], [0]));
            loss += CrossEntropy.Apply(logits, [.. part.Select(t => batch.Labels[t])], [.. part.Select(_ => 1f)]).Item();
            var values = logits.ToFloats();
            var width = values.Length / part.Length;
            for (var i = 0; i < part.Length; i++)
                right[part[i]] = System.Numerics.Tensors.TensorPrimitives.IndexOfMax<float>(values.AsSpan(i * width, width)) == batch.Labels[part[i]];
        }
        return right;
    }
}
