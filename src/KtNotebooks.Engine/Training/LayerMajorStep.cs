using KtNotebooks.Autograd;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// Loss and gradients of a whole accumulation window, layer-major (DESIGN section 2): every stage sees all T rows once forward and once backward, so a layer's weights are read twice a step whatever
/// the window. Forward keeps only each stage's input [T, D]; backward recomputes a stage from it under a tape and walks straight back. Inside a stage the rows go in chunks.
/// </summary>
public sealed class LayerMajorStep(CausalLm model, int chunkRows = 8192, int headRows = 1024)
{
    /// <summary>Forward, loss and backward; gradients are added to the parameters' Grad. Returns Σ weight · cross-entropy. Stops between chunks when cancelled, leaving the gradients to be dropped.</summary>
    public double Run(TokenBatch batch, ulong dropoutKey = 0, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(batch);
        var inputs = new List<Tensor>();
        Tensor? d = null, losses = null;
        try
        {
            inputs.Add(Embed(batch));
            foreach (var stage in model.Stages) inputs.Add(Forward(stage, inputs[^1], batch, dropoutKey, cancel));
            d = Tensor.Zeros(inputs[^1].Type, inputs[^1].Device, inputs[^1].Shape);
            losses = Tensor.Zeros(DType.F32, d.Device, (batch.Tokens + headRows - 1) / headRows);
            Head(inputs[^1], batch, d, losses, dropoutKey, cancel);
            Drop(inputs);
            for (var i = model.Stages.Count - 1; i >= 0 && NeedsBackward(i); i--)
            {
                var below = Backward(model.Stages[i], inputs[^1], d, batch, dropoutKey, cancel);
                d.Dispose();
                d = below;
                Drop(inputs);
            }
            if (model.Embedding.Weight.RequiresGrad) EmbedBackward(batch, d);
            return losses.ToFloats().Sum(part => (double)part); // read last: a card has worked on behind our back until here
        }
        finally
        {
            d?.Dispose();
            losses?.Dispose();
            while (inputs.Count > 0) Drop(inputs);
        }
    }

    /// <summary>Σ weight · cross-entropy of a batch, without gradients or dropout.</summary>
    public double Loss(TokenBatch batch, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(batch);
        double loss = 0;
        foreach (var (from, to) in Chunks(batch, wholeSequences: true))
        {
            cancel.ThrowIfCancellationRequested();
            var part = batch.Sequence(SequenceAt(batch, from), SequenceAt(batch, to));
            using var tape = Tape.Scratch();
            var hidden = model.Hidden(part);
            // The logits of a long batch must be bounded here too.
            for (var first = 0; first < part.Tokens; first += headRows)
            {
                using var scratch = Tape.Scratch();
                using var rows = hidden.Slice(first, Math.Min(headRows, part.Tokens - first));
                if (HeadLoss(rows, part, first, first + rows.Rows) is { } total) loss += total.Item();
            }
        }
        return loss;
    }

    private static void Drop(List<Tensor> inputs)
    {
        inputs[^1].Dispose();
        inputs.RemoveAt(inputs.Count - 1);
    }

    /// <summary>Is anything trained in stage i or below?</summary>
    private bool NeedsBackward(int i) => model.Embedding.Weight.RequiresGrad || model.Stages.Take(i + 1).Any(s => s.All().Any(m => m.Trainable.Any()));

    private Tensor Embed(TokenBatch batch)
    {
        using var tape = Tape.Scratch();
        return tape.Keep(model.Embedding.Forward(batch.Ids));
    }

    private void EmbedBackward(TokenBatch batch, Tensor d)
    {
        using var tape = Tape.Record();
        tape.Backward(model.Embedding.Forward(batch.Ids), d);
    }

    /// <summary>x [T, D] → y [T, D], chunk by chunk.</summary>
    private Tensor Forward(Stage stage, Tensor x, TokenBatch batch, ulong key, CancellationToken cancel)
    {
        return ByChunks(stage, x, batch, (from, to, target) =>
        {
            using var tape = Tape.Scratch();
            using var rows = x.Slice(from, to - from);
            Memory.Copy(stage.Forward(rows, Pass.ForTraining(batch, from, to, key)), target);
        }, cancel);
    }

    /// <summary>dy [T, D] → dx [T, D]; parameter gradients are added on the way.</summary>
    private Tensor Backward(Stage stage, Tensor x, Tensor dy, TokenBatch batch, ulong key, CancellationToken cancel)
    {
        return ByChunks(stage, x, batch, (from, to, target) =>
        {
            using var tape = Tape.Record();
            using var rows = x.Slice(from, to - from);
            using var dRows = dy.Slice(from, to - from);
            rows.RequiresGrad = true;
            tape.Backward(stage.Forward(rows, Pass.ForTraining(batch, from, to, key)), dRows);
            Memory.Copy(rows.Grad!, target);
        }, cancel);
    }

    /// <summary>A tensor like x, filled chunk by chunk; freed again when that is cut short.</summary>
    private Tensor ByChunks(Stage stage, Tensor x, TokenBatch batch, Action<int, int, Tensor> fill, CancellationToken cancel)
    {
        var result = Tensor.Empty(x.Type, x.Device, x.Shape);
        try
        {
            foreach (var (from, to) in Chunks(batch, stage.NeedsWholeSequences))
            {
                cancel.ThrowIfCancellationRequested();
                using var target = result.Slice(from, to - from);
                fill(from, to, target);
            }
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>Final norm, head and loss on the rows that have a target, headRows rows at a time: T × V logits never exist. Fills d [T, D] (given as zeros) and losses, one entry a part.</summary>
    private void Head(Tensor hidden, TokenBatch batch, Tensor d, Tensor losses, ulong key, CancellationToken cancel)
    {
        for (var from = 0; from < batch.Tokens; from += headRows)
        {
            cancel.ThrowIfCancellationRequested();
            var to = Math.Min(batch.Tokens, from + headRows);
            using var tape = Tape.Record();
            using var rows = hidden.Slice(from, to - from);
            rows.RequiresGrad = true;
            if (HeadLoss(rows, batch, from, to, key, training: true) is not { } total) continue;
            using var loss = losses.Slice(from / headRows, 1);
            Memory.Copy(total, loss);
            tape.Backward(total);
            using var target = d.Slice(from, to - from);
            Memory.Copy(rows.Grad!, target);
        }
    }

    /// <summary>Σ weight · cross-entropy of rows [from, to) of a batch, F32 [1] on the rows' device; null when none has a target.</summary>
    private Tensor? HeadLoss(Tensor rows, TokenBatch batch, int from, int to, ulong key = 0, bool training = false)
    {
        var at = Enumerable.Range(from, to - from).Where(t => batch.Labels[t] >= 0).ToArray();
        if (at.Length == 0) return null;
        // A row of the logits is a target, so the masks of an adapter on the head go by the number of the target.
        var pass = new Pass([], [0], FirstRow: batch.Labels.Take(from).Count(l => l >= 0), DropoutKey: key, Training: training);
        var logits = model.Logits(GatherRows.Apply(rows, [.. at.Select(t => t - from)]), pass);
        return CrossEntropy.Apply(logits, [.. at.Select(t => batch.Labels[t])], [.. at.Select(t => batch.Weights[t])]);
    }

    /// <summary>Row ranges of at most chunkRows rows; whole sequences where asked (a longer sequence is a chunk of its own).</summary>
    private IEnumerable<(int From, int To)> Chunks(TokenBatch batch, bool wholeSequences)
    {
        if (!wholeSequences)
        {
            for (var from = 0; from < batch.Tokens; from += chunkRows) yield return (from, Math.Min(batch.Tokens, from + chunkRows));
            yield break;
        }
        var start = 0;
        for (var s = 1; s <= batch.Sequences; s++)
        {
            if (batch.SeqStarts[s] - start > chunkRows && batch.SeqStarts[s - 1] > start)
            {
                yield return (start, batch.SeqStarts[s - 1]);
                start = batch.SeqStarts[s - 1];
            }
        }
        if (start < batch.Tokens) yield return (start, batch.Tokens);
    }

    private static int SequenceAt(TokenBatch batch, int row) => Array.IndexOf(batch.SeqStarts, row);
}
