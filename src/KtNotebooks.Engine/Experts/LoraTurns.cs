using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The low-rank pairs of banks that keep them in host memory (<see cref="ExpertBank.LoraOnHost"/>), on the card at work for as long as a layer's turn lasts:
/// all parts of a window that pass it one after the other. They come once, gradients are summed on the card, and leave once, beside the work that follows.
/// One for a card and a step, used by the thread that drives it.
/// </summary>
internal sealed class LoraTurns : IDisposable
{
    private readonly List<Turn> _under = [];
    private readonly Queue<Turn> _leaving = [];

    /// <summary>The turn of these banks begins; those whose pairs are where they are computed have none.</summary>
    public void Begin(IEnumerable<ExpertBank> banks)
    {
        foreach (var bank in banks)
            if (bank is { Adapter: { } kept, Device.Kind: DeviceKind.Cuda } && kept.Device != bank.Device) _under.Add(new Turn(bank, kept));
    }

    /// <summary>All turns are over; gradients are on their way to the host's.</summary>
    public void End()
    {
        while (_leaving.TryDequeue(out var before)) before.Dispose();
        foreach (var turn in _under)
        {
            turn.Leave();
            _leaving.Enqueue(turn);
        }
        _under.Clear();
    }

    /// <summary>Waits for what is on its way: the host may read all gradients.</summary>
    public void Settle()
    {
        foreach (var card in _leaving.Select(t => t.Gpu).Distinct()) card.Saves.Synchronize();
        while (_leaving.TryDequeue(out var turn)) turn.Dispose();
    }

    public void Dispose()
    {
        foreach (var turn in _under) turn.Dispose();
        _under.Clear();
        Settle();
    }

    private sealed class Turn : IDisposable
    {
        private readonly ExpertBank _bank;
        private readonly ExpertLora _kept, _there;
        private readonly CudaEvent _here;
        private CudaEvent? _left;

        public Turn(ExpertBank bank, ExpertLora kept)
        {
            (_bank, _kept, Gpu) = (bank, kept, CudaDevice.Get(bank.Device.Index));
            _there = kept.Map(t => Tensor.Empty(t.Type, bank.Device, t.Shape));
            // On the stream of saved inputs: what comes before the experts in a layer, attention, computes meanwhile.
            using var free = new CudaEvent(Gpu);
            free.Record(Gpu.Compute);
            Gpu.Saves.Wait(free);
            foreach (var (from, to) in kept.All.Zip(_there.All))
            {
                if (from.IsPinned) Gpu.Restore(to.Pointer, from.Pointer, to.ByteLength);
                else Memory.Copy(from, to);
                to.RequiresGrad = from.RequiresGrad;
            }
            _here = new CudaEvent(Gpu);
            _here.Record(Gpu.Saves);
            bank.LoraHere = Take;
        }

        /// <summary>The pairs, which work queued from now on sees whole.</summary>
        private ExpertLora Take()
        {
            Gpu.Compute.Wait(_here);
            return _there;
        }

        public CudaDevice Gpu { get; }

        /// <summary>Sends the gradients out behind the work that is queued.</summary>
        public void Leave()
        {
            _bank.LoraHere = null;
            using var summed = new CudaEvent(Gpu);
            summed.Record(Gpu.Compute);
            Gpu.Saves.Wait(summed);
            foreach (var (kept, there) in _kept.All.Zip(_there.All))
            {
                if (there.Grad is not { } sum) continue;
                var gradient = PinnedBuffer.Rent(Gpu, sum.Type, sum.Shape);
                Gpu.Save(gradient.Pointer, sum.Pointer, sum.ByteLength);
                if (kept.Grad is { } before)
                {
                    // Of an earlier turn in the same step: the sum is the host's.
                    Gpu.Saves.Synchronize();
                    using (gradient) Autograd.GradientSum.AddInto(before, gradient);
                }
                else kept.Grad = gradient;
            }
            _left = new CudaEvent(Gpu);
            _left.Record(Gpu.Saves);
        }

        public void Dispose()
        {
            if (_left is null) _bank.LoraHere = null; // cut short
            // Memory goes back behind the work that is queued, so that work must wait for the copies.
            Gpu.Compute.Wait(_left ?? _here);
            _left?.Dispose();
            _here.Dispose();
            foreach (var tensor in _there.All)
            {
                tensor.Grad?.Dispose();
                tensor.Dispose();
            }
        }
    }
}
