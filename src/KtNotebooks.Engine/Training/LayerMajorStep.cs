using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// Loss and gradients of a whole accumulation window, layer-major (DESIGN section 2): every stage sees all T rows once forward and once backward, so a layer's weights are read twice a step whatever
/// the window. Forward keeps only each stage's input [T, D]; backward recomputes a stage from it under a tape and walks straight back. Inside a stage the rows go in chunks; only a bank of experts that has to cross
/// the bus sees all rows at once, group of experts by group.
/// </summary>
/// <param name="chunkRows">Rows that a stage works on at a time.</param>
/// <param name="headRows">Rows of logits at a time.</param>
/// <param name="savedBytes">Bytes of stage inputs that may stay on a card; the others wait in pinned host memory.</param>
public sealed class LayerMajorStep(CausalLm model, int chunkRows = 8192, int headRows = 1024, long savedBytes = long.MaxValue)
{
    private readonly ExpertBank[] _banks = [.. model.All().OfType<ExpertBank>()];
    private readonly Device[] _devices = [.. model.Stages.Select(s => s.Device)];

    /// <summary>Called before each part of the work is queued, with its name: embedding, attention, experts, dense, head; and with an empty name at the end.</summary>
    internal Action<string>? OnPart { get; set; }

    /// <summary>Forward, loss and backward; gradients are added to the parameters' Grad. Returns Σ weight · cross-entropy. Stops between chunks when cancelled, leaving the gradients to be dropped.</summary>
    public double Run(TokenBatch batch, ulong dropoutKey = 0, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(batch);
        using var inputs = new SavedInputs(savedBytes);
        Tensor? d = null, losses = null;
        ExpertStreams.Plan(_banks, batch.Tokens, backward: true);
        try
        {
            OnPart?.Invoke("embedding");
            inputs.Push(Embed(batch));
            for (var i = 0; i < model.Stages.Count; i++) inputs.Push(Forward(i, inputs.Top, batch, dropoutKey, cancel));
            d = Tensor.Zeros(inputs.Top.Type, inputs.Top.Device, inputs.Top.Shape);
            losses = Tensor.Zeros(DType.F32, d.Device, (batch.Tokens + headRows - 1) / headRows);
            OnPart?.Invoke("head");
            Head(inputs.Top, batch, d, losses, dropoutKey, cancel);
            inputs.Pop();
            for (var i = model.Stages.Count - 1; i >= 0 && NeedsBackward(i); i--)
            {
                var below = Backward(i, inputs.Top, d, batch, dropoutKey, cancel);
                d.Dispose();
                d = below;
                inputs.Pop();
            }
            if (model.Embedding.Weight.RequiresGrad) EmbedBackward(batch, d);
            OnPart?.Invoke("");
            return losses.ToFloats().Sum(part => (double)part); // read last: a card has worked on behind our back until here
        }
        finally
        {
            d?.Dispose();
            losses?.Dispose();
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

    /// <summary>Is anything trained in stage i or below?</summary>
    private bool NeedsBackward(int i) => model.Embedding.Weight.RequiresGrad || model.Stages.Take(i + 1).Any(s => s.All().Any(m => m.Trainable.Any()));

    private Tensor Embed(TokenBatch batch)
    {
        using var tape = Tape.Scratch();
        return tape.Keep(Transfer.Apply(model.Embedding.Forward(batch.Ids), _devices[0]));
    }

    private void EmbedBackward(TokenBatch batch, Tensor d)
    {
        using var tape = Tape.Record();
        tape.Backward(model.Embedding.Forward(batch.Ids), d);
    }

    /// <summary>x [T, D] → y [T, D] of stage i, chunk by chunk.</summary>
    private Tensor Forward(int i, Tensor x, TokenBatch batch, ulong key, CancellationToken cancel)
    {
        var stage = model.Stages[i];
        OnPart?.Invoke(PartOf(stage));
        using var here = x.To(_devices[i]);
        return ByChunks(stage, here, batch, (from, to, target) =>
        {
            using var tape = Tape.Scratch();
            using var rows = here.Slice(from, to - from);
            Memory.Copy(stage.Forward(rows, Pass.ForTraining(batch, from, to, key)), target);
        }, cancel);
    }

    /// <summary>dy [T, D] → dx [T, D] of stage i; parameter gradients are added on the way.</summary>
    private Tensor Backward(int i, Tensor x, Tensor dy, TokenBatch batch, ulong key, CancellationToken cancel)
    {
        var stage = model.Stages[i];
        OnPart?.Invoke(PartOf(stage));
        using var here = x.To(_devices[i]);
        using var dHere = dy.To(_devices[i]);
        return ByChunks(stage, here, batch, (from, to, target) =>
        {
            using var tape = Tape.Record();
            using var rows = here.Slice(from, to - from);
            using var dRows = dHere.Slice(from, to - from);
            rows.RequiresGrad = true;
            tape.Backward(stage.Forward(rows, Pass.ForTraining(batch, from, to, key) with { ValueUnused = true }), dRows);
            Memory.Copy(rows.Grad!, target);
        }, cancel);
    }

    private static string PartOf(Stage stage) => stage.NeedsWholeSequences ? "attention" : stage.All().Any(m => m is ExpertBank) ? "experts" : "dense";

    /// <summary>A tensor like x, filled chunk by chunk; freed again when that is cut short.</summary>
    private Tensor ByChunks(Stage stage, Tensor x, TokenBatch batch, Action<int, int, Tensor> fill, CancellationToken cancel)
    {
        var result = Tensor.Empty(x.Type, x.Device, x.Shape);
        try
        {
            foreach (var (from, to) in stage.All().Any(m => m is ExpertBank { IsStreamed: true }) ? [(0, batch.Tokens)] : Chunks(batch, stage.NeedsWholeSequences))
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
