using KtNotebooks.Autograd;
using KtNotebooks.Distributed;
using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>
/// What a step does at one place of a model with the rows of one part of the window: a stage forward or backward, the token table, the head. Rows go in
/// chunks; only a bank of experts that has to cross the bus sees all rows of the part at once, group of experts by group. Of different devices it may be
/// asked from a thread each.
/// </summary>
public sealed class StageWork(CausalLm model, int chunkRows, int headRows)
{
    private readonly Device[] _devices = [.. model.Stages.Select(s => s.Device)];

    /// <summary>The device of every stage.</summary>
    public IReadOnlyList<Device> Devices => _devices;

    /// <summary>neftune_noise_alpha; 0: none.</summary>
    public double Noise { get; set; }

    /// <summary>Of the window under way: what its routers choose; null: nobody asks.</summary>
    public RoutingStep? Routing { get; set; }

    /// <summary>Of the window under way: what experts on the CPU keep for the backward pass; null: it is computed again.</summary>
    public KeptStates? Kept { get; set; }

    /// <summary>Of the window under way, by device: passes that wait for their backward pass; of other devices none do.</summary>
    internal IReadOnlyDictionary<Device, KeptPasses> Passes { get; set; } = new Dictionary<Device, KeptPasses>();

    /// <summary>Adapters drop inputs as they say.</summary>
    public bool HasDropout { get; set; } = true;

    public bool TrainsEmbedding => model.Embedding.Weight.RequiresGrad;

    /// <summary>Σ weight · cross-entropy of a batch, without gradients or dropout.</summary>
    public double Loss(TokenBatch batch, CancellationToken cancel)
    {
        double loss = 0;
        foreach (var (from, to) in Chunks(batch, new WindowPart(0, 0, batch.Tokens), wholeSequences: true))
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
                if (HeadLoss(rows, part, part.Weights, first, first + rows.Rows) is { } total) loss += total.Item();
            }
        }
        return loss;
    }

    /// <summary>The first stage in which something is trained, or 0 where the token table is; the number of stages where nothing is.</summary>
    public int Lowest()
    {
        if (TrainsEmbedding) return 0;
        var i = 0;
        while (i < model.Stages.Count && !model.Stages[i].All().Any(m => m.Trainable.Any())) i++;
        return i;
    }

    /// <summary>What is trained in a stage.</summary>
    public IEnumerable<Parameter> TrainableOf(int i) => model.Stages[i].All().SelectMany(m => m.Trainable);

    /// <summary>Before backward, where a loss is of what all routers chose for all tokens of the window: adds what they chose on other ranks.</summary>
    public void JoinRouting(ICollective ranks)
    {
        if (Routing is { HasLoss: true } routing && ranks.World > 1) routing.Replace(ranks.AllGather(routing.Save()));
    }

    /// <summary>The banks of experts in a stage.</summary>
    public IEnumerable<ExpertBank> BanksOf(int i) => model.Stages[i].All().OfType<ExpertBank>();

    internal IEnumerable<ExpertBank> BanksOf(StageRun run) => Enumerable.Range(run.First, run.End - run.First).SelectMany(BanksOf);

    /// <summary>Attention, experts or dense.</summary>
    public StepWork KindOf(int i) => model.Stages[i].NeedsWholeSequences ? StepWork.Attention : BanksOf(i).Any() ? StepWork.Experts : StepWork.Dense;

    /// <summary>Rows of the token table → [rows, D] on the first stage's device.</summary>
    /// <param name="noiseKey">Of the noise of <see cref="Noise"/> in this step; null: none.</param>
    public Tensor Embed(TokenBatch batch, WindowPart part, ulong? noiseKey = null)
    {
        using var tape = Tape.Scratch();
        var x = Embedded(batch, part);
        if (noiseKey is not { } key || Noise <= 0) return tape.Keep(x);
        using var noise = EmbeddingNoise.Of(batch, part, x.Width, Noise, key);
        using var there = noise.To(x.Type);
        return tape.Keep(Add.Apply(x, Tape.Own(there.To(x.Device))));
    }

    public void EmbedBackward(TokenBatch batch, WindowPart part, Tensor d)
    {
        using var tape = Tape.Record();
        tape.Backward(Embedded(batch, part), d);
    }

    /// <summary>x [rows, D] → y [rows, D] of stage i, chunk by chunk.</summary>
    /// <param name="adapter">See <see cref="Pass.Adapter"/>.</param>
    public Tensor Forward(int i, Tensor x, TokenBatch batch, WindowPart part, ulong key, CancellationToken cancel, string? adapter = null)
    {
        model.RequireWhole();
        using var here = model.Visits?.Open(i);
        var stage = model.Stages[i];
        var learns = adapter is null && i >= Lowest();
        var passes = learns && CanWait(i) ? Passes.GetValueOrDefault(_devices[i]) : null;
        return ByChunks(stage, x, batch, part, (from, to, target) =>
        {
            var pass = Pass.ForTraining(batch, from, to, key) with
            {
                Training = HasDropout,
                Adapter = adapter,
                Routing = adapter is null ? Routing : null,
                Kept = learns && passes is null ? Kept : null,
                IsRemembered = passes is not null,
            };
            if (passes is not null)
            {
                var waiting = KeptPass.Of(stage, x.Slice(from - part.From, to - from), pass);
                Memory.Copy(waiting.Value, target);
                passes.Keep(i, from, waiting);
                return;
            }
            using var tape = Tape.Scratch();
            using var rows = x.Slice(from - part.From, to - from);
            Memory.Copy(stage.Forward(rows, pass), target);
        }, cancel);
    }

    /// <summary>
    /// Backward may meet the tensors that forward met: no adapter of experts that comes for each visit, no experts that are shared out anew, none that
    /// compute elsewhere, and no loss of what all routers chose, which only the end of forward knows.
    /// </summary>
    private bool CanWait(int i) => Routing is not { HasLoss: true } && BanksOf(i).All(bank => !bank.LoraOnHost && bank.Device == _devices[i]);

    /// <summary>dy [rows, D] → dx [rows, D] of stage i; parameter gradients are added on the way.</summary>
    public Tensor Backward(int i, Tensor x, Tensor dy, TokenBatch batch, WindowPart part, ulong key, CancellationToken cancel)
    {
        model.RequireWhole();
        using var here = model.Visits?.Open(i);
        var stage = model.Stages[i];
        return ByChunks(stage, x, batch, part, (from, to, target) =>
        {
            using var dRows = dy.Slice(from - part.From, to - from);
            if (Passes.GetValueOrDefault(_devices[i])?.Take(i, from) is { } pass)
            {
                using (pass) Memory.Copy(pass.Backward(dRows), target);
                return;
            }
            using var tape = Tape.Record();
            using var rows = x.Slice(from - part.From, to - from);
            rows.RequiresGrad = true;
            tape.Backward(stage.Forward(rows, Pass.ForTraining(batch, from, to, key) with
            {
                Training = HasDropout,
                ValueUnused = true,
                Routing = Routing,
                Kept = Kept,
            }), dRows);
            Memory.Copy(rows.Grad!, target);
        }, cancel);
    }

    /// <summary>
    /// Final norm, head and loss on the rows that have a target, headRows rows at a time: T × V logits never exist. Fills d [rows, D] (given as zeros); the
    /// losses, one entry for headRows rows, are the caller's.
    /// </summary>
    /// <param name="weights">Of every row of the batch.</param>
    public Tensor Head(Tensor hidden, TokenBatch batch, float[] weights, WindowPart part, Tensor d, ulong key, CancellationToken cancel)
    {
        var losses = Tensor.Zeros(DType.F32, d.Device, (part.Rows + headRows - 1) / headRows);
        try
        {
            for (var from = 0; from < part.Rows; from += headRows)
            {
                cancel.ThrowIfCancellationRequested();
                var count = Math.Min(headRows, part.Rows - from);
                using var tape = Tape.Record();
                using var rows = hidden.Slice(from, count);
                rows.RequiresGrad = true;
                if (HeadLoss(rows, batch, weights, part.From + from, part.From + from + count, key, training: true) is not { } total) continue;
                using var loss = losses.Slice(from / headRows, 1);
                Memory.Copy(total, loss);
                tape.Backward(total);
                using var target = d.Slice(from, count);
                Memory.Copy(rows.Grad!, target);
            }
            return losses;
        }
        catch
        {
            losses.Dispose();
            throw;
        }
    }

    /// <summary>log p of the target of each row of a batch by the base without its adapter, which goes through the layers as a step does.</summary>
    public float[] ReferenceLogProbs(TokenBatch batch, CancellationToken cancel)
    {
        var whole = new WindowPart(0, 0, batch.Tokens);
        var x = Embed(batch, whole);
        try
        {
            for (var i = 0; i < _devices.Length; i++)
            {
                using var below = x;
                using var here = Transfer.Apply(below, _devices[i]);
                x = Forward(i, here, batch, whole, key: 0, cancel, Pass.BaseModel);
            }
            return Score(x, batch, whole, Scores.Policy, new Pass([], [0], Adapter: Pass.BaseModel), cancel).Policy;
        }
        finally
        {
            x.Dispose();
        }
    }

    /// <summary>The first place of a forward pass whose results are not all numbers, in words; null: there is none.</summary>
    public string? FirstBroken(TokenBatch batch)
    {
        var whole = new WindowPart(0, 0, batch.Tokens);
        var x = Embed(batch, whole);
        try
        {
            if (Optim.Finite.FirstBroken([("", Widened(x))]) is not null) return "in the token table";
            for (var i = 0; i < _devices.Length; i++)
            {
                using var below = x;
                using var here = Transfer.Apply(below, _devices[i]);
                x = Forward(i, here, batch, whole, key: 0, CancellationToken.None);
                if (Optim.Finite.FirstBroken([("", Widened(x))]) is not null) return $"in {KindOf(i).ToString().ToLowerInvariant()} of layer {i / 2}";
            }
            var scores = Score(x, batch, whole, Scores.Policy, new Pass([], [0]), CancellationToken.None);
            return Array.TrueForAll(scores.Policy, float.IsFinite) ? null : "in the head";
        }
        finally
        {
            x.Dispose();
        }

        static Tensor Widened(Tensor x) => Tensor.From(x.ToFloats(), x.Shape);
    }

    /// <summary>Scores of the rows of a batch, without gradients or dropout, as <see cref="Loss"/> goes through it.</summary>
    public PartScores Score(TokenBatch batch, Scores needs, string? adapter, CancellationToken cancel)
    {
        var all = new PartScores(new float[batch.Tokens], [], needs == Scores.PolicyAndEntropy ? new float[batch.Tokens] : []);
        foreach (var (from, to) in Chunks(batch, new WindowPart(0, 0, batch.Tokens), wholeSequences: true))
        {
            cancel.ThrowIfCancellationRequested();
            var part = batch.Sequence(SequenceAt(batch, from), SequenceAt(batch, to));
            using var tape = Tape.Scratch();
            var hidden = model.Hidden(part, Pass.Inference(part, adapter: adapter));
            var scores = Score(hidden, part, new WindowPart(0, 0, part.Tokens), needs, new Pass([], [0], Adapter: adapter), cancel);
            scores.Policy.CopyTo(all.Policy, from);
            if (needs == Scores.PolicyAndEntropy) scores.Entropies.CopyTo(all.Entropies, from);
        }
        return all;
    }

    /// <summary>Scores of the rows of a part, from their hidden states [rows, D].</summary>
    /// <param name="pass">Of the head: its adapter, its dropout.</param>
    public PartScores Score(Tensor hidden, TokenBatch batch, WindowPart part, Scores needs, Pass pass, CancellationToken cancel)
    {
        var scores = new PartScores(new float[part.Rows], [], needs == Scores.PolicyAndEntropy ? new float[part.Rows] : []);
        if (needs == Scores.Values)
        {
            using var tape = Tape.Scratch();
            var (values, ends) = (Values(hidden, batch, part, out var at).ToFloats(), at);
            for (var s = 0; s < ends.Length; s++) scores.Policy[ends[s]] = values[s];
            return scores;
        }
        for (var from = 0; from < part.Rows; from += headRows)
        {
            cancel.ThrowIfCancellationRequested();
            var count = Math.Min(headRows, part.Rows - from);
            using var tape = Tape.Scratch();
            using var rows = hidden.Slice(from, count);
            if (HeadLogits(rows, batch, part.From + from, part.From + from + count, pass, out var at) is not { } logits) continue;
            var (logp, entropies) = TargetLogProbs.Apply(logits, [.. at.Select(t => batch.Labels[t])], withEntropy: scores.Entropies.Length > 0);
            Spread(logp, scores.Policy);
            if (entropies is not null) Spread(entropies, scores.Entropies);

            void Spread(Tensor each, float[] all)
            {
                var values = each.ToFloats();
                for (var i = 0; i < at.Length; i++) all[at[i] - part.From] = values[i];
            }
        }
        return scores;
    }

    /// <summary>
    /// The gradient of Σ −weight · value over the ends of the sequences of a part: fills d [rows, D] (given as zeros), adds to the value head's.
    /// </summary>
    public void ValuesBackward(Tensor hidden, TokenBatch batch, float[] weights, WindowPart part, Tensor d)
    {
        using var tape = Tape.Record();
        using var rows = hidden.Alias();
        rows.RequiresGrad = true;
        var values = Values(rows, batch, part, out var ends);
        using var slopes = Tensor.From([.. ends.Select(at => -weights[part.From + at])], DType.F32, ends.Length, 1);
        using var there = slopes.To(values.Device);
        tape.Backward(values, there);
        Memory.Copy(rows.Grad!, d);
    }

    /// <summary>The value head at the last row of every sequence of a part, F32 [N, 1].</summary>
    /// <param name="ends">Those rows, counted in the part.</param>
    private Tensor Values(Tensor hidden, TokenBatch batch, WindowPart part, out int[] ends)
    {
        var head = model.ValueHead ?? throw new InvalidOperationException("the model has no value head");
        ends = [.. batch.SeqStarts.Where(start => start > part.From && start <= part.To).Select(start => start - 1 - part.From)];
        return head.Forward(model.Norm.Forward(Transfer.Apply(GatherRows.Apply(hidden, ends), model.Norm.Device)));
    }

    /// <summary>What the head knows of rows in training.</summary>
    public Pass HeadPass(ulong key, bool training = true) => new([], [0], DropoutKey: key, Training: training && HasDropout);

    private Tensor Embedded(TokenBatch batch, WindowPart part) =>
        Transfer.Apply(model.Embedding.Forward(part.Rows == batch.Tokens ? batch.Ids : batch.Ids[part.From..part.To]), _devices[0]);

    /// <summary>A tensor like x, filled chunk by chunk; freed again when that is cut short.</summary>
    private Tensor ByChunks(Stage stage, Tensor x, TokenBatch batch, WindowPart part, Action<int, int, Tensor> fill, CancellationToken cancel)
    {
        var result = Tensor.Empty(x.Type, x.Device, x.Shape);
        try
        {
            foreach (var (from, to) in stage.All().Any(m => m is ExpertBank { IsStreamed: true }) ? [(part.From, part.To)]
                : Chunks(batch, part, stage.NeedsWholeSequences))
            {
                cancel.ThrowIfCancellationRequested();
                using var target = result.Slice(from - part.From, to - from);
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

    /// <summary>Σ weight · cross-entropy of rows [from, to) of a batch, F32 [1] on the head's device; null when none has a target.</summary>
    private Tensor? HeadLoss(Tensor rows, TokenBatch batch, float[] weights, int from, int to, ulong key = 0, bool training = false) =>
        HeadLogits(rows, batch, from, to, HeadPass(key, training), out var at) is not { } logits ? null
            : CrossEntropy.Apply(logits, [.. at.Select(t => batch.Labels[t])], [.. at.Select(t => weights[t])]);

    /// <summary>The logits of those of rows [from, to) of a batch that have a target; null when none has.</summary>
    /// <param name="at">Their numbers in the batch.</param>
    private Tensor? HeadLogits(Tensor rows, TokenBatch batch, int from, int to, Pass pass, out int[] at)
    {
        at = [.. Enumerable.Range(from, to - from).Where(t => batch.Labels[t] >= 0)];
        if (at.Length == 0) return null;
        // A row of the logits is a target, so the masks of an adapter on the head go by the number of the target.
        pass = pass with { FirstRow = batch.FirstTarget + batch.Labels.Take(from).Count(l => l >= 0) };
        return model.Logits(GatherRows.Apply(rows, [.. at.Select(t => t - from)]), pass);
    }

    /// <summary>Row ranges of at most chunkRows rows; whole sequences where asked (a longer sequence is a chunk of its own).</summary>
    private IEnumerable<(int From, int To)> Chunks(TokenBatch batch, WindowPart part, bool wholeSequences)
    {
        if (!wholeSequences)
        {
            for (var from = part.From; from < part.To; from += chunkRows) yield return (from, Math.Min(part.To, from + chunkRows));
            yield break;
        }
        var (start, last) = (part.From, part.From);
        foreach (var end in batch.SeqStarts)
        {
            if (end <= part.From || end > part.To) continue;
            if (end - start > chunkRows && last > start)
            {
                yield return (start, last);
                start = last;
            }
            last = end;
        }
        if (start < part.To) yield return (start, part.To);
    }

    private static int SequenceAt(TokenBatch batch, int row) => Array.IndexOf(batch.SeqStarts, row);
}
