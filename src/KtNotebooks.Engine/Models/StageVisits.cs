using KtNotebooks.Experts;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;

namespace KtNotebooks.Models;

/// <summary>
/// The matrices of layers that wait in pinned host memory (`dense_weights: host`) come to their card while their stage is at work. They have slots of their
/// own and a stream of their own beside the experts', on which they would stand behind gigabytes of them; what a pass visits is planned as experts are. Used
/// from the thread that drives a card.
/// </summary>
internal sealed class StageVisits : IDisposable
{
    private readonly Visitors?[] _stages;
    private readonly Dictionary<Device, ExpertStream> _ways = [];

    private StageVisits(Visitors?[] stages)
    {
        _stages = stages;
        foreach (var own in stages.OfType<Visitors>().GroupBy(v => v.Card))
        {
            var card = CudaDevice.Get(own.Key.Index);
            _ways.Add(own.Key, new ExpertStream(card, own.Max(v => v.Bytes), LayerMatrices.Slots, copies: card.Saves));
        }
    }

    /// <summary>What brings them, card by card.</summary>
    public IReadOnlyDictionary<Device, ExpertStream> Ways => _ways;

    /// <summary>Null where no stage has any.</summary>
    public static StageVisits? Of(IReadOnlyList<Stage> stages)
    {
        Visitors?[] all = [.. stages.Select(Visitors.Of)];
        return Array.TrueForAll(all, v => v is null) ? null : new StageVisits(all);
    }

    /// <summary>The stages that the next passes will open, in order; each card picks its own.</summary>
    /// <param name="repeated">The same comes once more behind them.</param>
    public void Plan(IEnumerable<int> order, bool repeated, CancellationToken cancel = default)
    {
        foreach (var own in order.Select(i => _stages[i]).OfType<Visitors>().GroupBy(v => v.Card))
        {
            GroupVisit[] pass = [.. own.Select(v => new GroupVisit(v, 0))];
            _ways[own.Key].Plan(repeated ? [.. pass, .. pass] : pass, cancel);
        }
    }

    /// <summary>Work that is queued until the returned object is disposed sees the stage's matrices; null: it has none that visit.</summary>
    public IDisposable? Open(int stage)
    {
        if (_stages[stage] is not { } visitors) return null;
        CudaDevice.Get(visitors.Card.Index).RefuseInRecording("matrices of layers that wait in host memory");
        return new Turn(_ways[visitors.Card], visitors);
    }

    public void Dispose()
    {
        foreach (var way in _ways.Values)
        {
            way.Drain();
            way.Dispose();
        }
    }

    /// <summary>The matrices of a stage, which lie in a slot one after the other.</summary>
    private sealed class Visitors(Device card, VisitingBuffer[] matrices) : IGroupSource
    {
        public Device Card => card;

        public long Bytes { get; } = matrices.Sum(m => m.PaddedBytes);

        public IReadOnlyList<ExpertGroup> Groups => [];

        public static Visitors? Of(Stage stage)
        {
            VisitingBuffer[] matrices = [.. LayerMatrices.Of(stage).Select(w => w.Tensor.Visiting).OfType<VisitingBuffer>()];
            return matrices.Length == 0 ? null : new Visitors(matrices[0].Device, matrices);
        }

        public IEnumerable<(nint Address, long Bytes)> Pieces(int group) => matrices.Select(m => (m.Home, m.PaddedBytes));

        public void Arrive(nint address)
        {
            foreach (var matrix in matrices)
            {
                matrix.Arrive(address);
                address += (nint)matrix.PaddedBytes;
            }
        }

        public void Leave()
        {
            foreach (var matrix in matrices) matrix.Leave();
        }
    }

    private sealed class Turn : IDisposable
    {
        private readonly ExpertStream _way;
        private readonly Visitors _visitors;

        public Turn(ExpertStream way, Visitors visitors)
        {
            (_way, _visitors) = (way, visitors);
            visitors.Arrive(way.Open(new GroupVisit(visitors, 0)));
        }

        public void Dispose()
        {
            _visitors.Leave();
            _way.Close(new GroupVisit(_visitors, 0));
        }
    }
}
