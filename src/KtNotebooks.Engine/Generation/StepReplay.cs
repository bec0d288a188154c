using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// Steps of one token a sequence on one card, recorded as CUDA graphs and replayed: the host fills the lists of where the rows stand, queues one graph and
/// waits for the likeliest tokens (<see cref="StepLogits"/>), instead of some thirty kernels a layer, each of which takes it longer than the card. A graph
/// belongs to a number of sequences, a bound of their lengths and an adapter (or all adapters, whichever row has which), and is recorded when such a step
/// comes the second time. Its kernels are those of <see cref="CausalLm.Hidden(TokenBatch, Pass)"/>, so its numbers are too, bit for bit.
/// Experts in host memory are computed by the CPU as a part of the graph (<see cref="RecordedExperts"/>). Where something on the way needs the host otherwise
/// (layers on several cards) nothing is recorded, and <see cref="Refusal"/> says what.
/// </summary>
/// <param name="model">Not owned.</param>
/// <param name="vocabulary">Tokens that may be drawn, from the first on; null: all.</param>
internal sealed class StepReplay(CausalLm model, int? vocabulary) : IDisposable
{
    /// <summary>Recorded steps that are kept: the oldest goes.</summary>
    private const int Kept = 48;

    /// <summary>Numbers that a pass tells a card beside its pages: tiles of attention, some hundred a head group.</summary>
    private const int ListRoom = 1 << 18;

    private readonly Dictionary<Key, Step?> _steps = [];
    private readonly LinkedList<Key> _order = new();
    private readonly MoeMlp[] _routers = [.. model.Stages.SelectMany(s => s.All()).OfType<MoeMlp>()];
    private readonly Device? _device = model.Head.Device is { Kind: DeviceKind.Cuda } head && model.Stages.All(s => s.Device == head)
        && (model.Embedding.Device == head || model.Embedding.Device.Kind == DeviceKind.Cpu) ? head : null;

    private CudaPool? _pool;
    private long _weights, _moves;

    /// <summary>Why no step is recorded; null: nothing stood in the way so far.</summary>
    public string? Refusal { get; private set; }

    /// <summary>Steps that were replayed.</summary>
    public long Replays { get; private set; }

    /// <summary>Logits [T, V] of a step, until the next one overwrites them; null where the step is to be computed the usual way.</summary>
    /// <param name="batch">One row a sequence that has rows in the cache.</param>
    /// <param name="cached">The same sequences.</param>
    /// <param name="pass">One adapter for all rows, or each row with its own (<see cref="Pass.Mixed"/>).</param>
    public StepLogits? Logits(TokenBatch batch, CacheBatch cached, Pass pass)
    {
        if (Refusal is not null || _device is not { } device || batch.Tokens != batch.Sequences || batch.Tokens > FewRows.MaxTokens
            || (pass.Adapters is not null && pass.Mixed is not { IsWhole: true }) || _routers.Any(r => r.OnRouted is not null)) return null;
        model.RequireWhole();
        ForgetWhatMoved();
        var rows = cached.Rows(batch.Ids);
        var key = new Key(batch.Tokens, rows.Longest, pass.Adapter, pass.Mixed?.Number ?? 0);
        if (!_steps.TryGetValue(key, out var step))
        {
            Remember(key);
            return null; // what is done once, such as compiling kernels, is done by a usual step
        }
        if (step is null)
        {
            try
            {
                _steps[key] = step = new Step(model, vocabulary, device, _pool ??= NewPool(device), batch, cached, pass, rows);
            }
            catch (NotRecordableException why)
            {
                Refusal = why.Message;
                return null;
            }
            if (_moves != LastingTensors.Moves) // a table grew while it was recorded
            {
                ForgetWhatMoved();
                return null;
            }
        }
        else step.Renew(rows);
        Replays++;
        return step.Run();
    }

    public void Dispose()
    {
        foreach (var step in _steps.Values) step?.Dispose();
        _steps.Clear();
        _pool?.Trim();
    }

    private static CudaPool NewPool(Device device)
    {
        var card = CudaDevice.Get(device.Index);
        return new CudaPool(card) { Limit = card.Pool.Limit == long.MaxValue ? long.MaxValue : Math.Max(0, card.Pool.Limit - card.Pool.HeldBytes) };
    }

    private void ForgetWhatMoved()
    {
        var (weights, moves) = (WeightVersion.Current, LastingTensors.Moves);
        if (weights == _weights && moves == _moves) return;
        (_weights, _moves) = (weights, moves);
        foreach (var step in _steps.Values) step?.Dispose();
        _steps.Clear();
        _order.Clear();
    }

    private void Remember(Key key)
    {
        if (_order.Count >= Kept)
        {
            _steps.Remove(_order.First!.Value, out var oldest);
            oldest?.Dispose();
            _order.RemoveFirst();
        }
        _steps.Add(key, null);
        _order.AddLast(key);
    }

    private readonly record struct Key(int Sequences, int Longest, string? Adapter, long Tables);

    private sealed class Step : IDisposable
    {
        private readonly CudaDevice _card;
        private readonly PassLists _lists;
        private readonly CudaGraph _graph;
        private StepLogits? _logits;

        public Step(CausalLm model, int? vocabulary, Device device, CudaPool pool, TokenBatch batch, CacheBatch cached, Pass pass, PassRows rows)
        {
            _card = CudaDevice.Get(device.Index);
            _lists = new PassLists(rows, device, ListRoom + (batch.Tokens * (PageTable.PagesOf(rows.Longest) + model.Info.Width)));
            cached.Use(_lists);
            try
            {
                _graph = CudaGraph.Record(_card, pool, () =>
                {
                    using var tape = Autograd.Tape.Scratch();
                    _logits = new StepLogits(model.Logits(model.Hidden(batch, pass), pass with { Cache = null }).To(DType.F32), vocabulary);
                });
            }
            catch
            {
                cached.Use(null);
                _logits?.Dispose();
                _lists.Dispose();
                throw;
            }
        }

        public void Renew(PassRows rows) => _lists.Renew(rows);

        /// <summary>Returns when it is over.</summary>
        public StepLogits Run()
        {
            _lists.Send();
            _graph.Launch();
            _card.Compute.Synchronize();
            return _logits!;
        }

        public void Dispose()
        {
            _card.Compute.Synchronize();
            _graph.Dispose();
            _logits?.Dispose();
            _lists.Dispose();
        }
    }
}
