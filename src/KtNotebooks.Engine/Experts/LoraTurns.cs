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
    /// <param name="next">Whose turn comes next: a disk begins to bring their pairs.</param>
    public void Begin(IEnumerable<ExpertBank> banks, IEnumerable<ExpertBank> next)
    {
        foreach (var bank in banks)
            if (bank is { Adapter: { } kept, Device.Kind: DeviceKind.Cuda } && kept.Device != bank.Device) _under.Add(new Turn(bank, kept));
        foreach (var bank in next)
            foreach (var half in bank.Adapter?.All ?? []) half.OnDisk?.Ahead();
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

    /// <param name="Kept">At home.</param>
    /// <param name="There">On the card.</param>
    /// <param name="Between">Pinned, on the way of what has its home on a disk, whose pages no card can read: in as values, out as gradients.</param>
    private sealed record Half(Tensor Kept, Tensor There, Tensor? Between);

    private sealed class Turn : IDisposable
    {
        private const long Piece = 4 << 20; // bytes copied at a time on one thread

        private readonly ExpertBank _bank;
        private readonly ExpertLora _there;
        private readonly Half[] _halves;
        private readonly CudaEvent _here;
        private CudaEvent? _left;

        public Turn(ExpertBank bank, ExpertLora kept)
        {
            (_bank, Gpu) = (bank, CudaDevice.Get(bank.Device.Index));
            _there = kept.Map(t => Tensor.Empty(t.Type, bank.Device, t.Shape));
            // On the stream of saved inputs: what comes before the experts in a layer, attention, computes meanwhile.
            using var free = new CudaEvent(Gpu);
            free.Record(Gpu.Compute);
            Gpu.Saves.Wait(free);
            _halves = [.. kept.All.Zip(_there.All, Bring)];
            _here = new CudaEvent(Gpu);
            _here.Record(Gpu.Saves);
            bank.LoraHere = Take;
        }

        public CudaDevice Gpu { get; }

        /// <summary>Sends the gradients out behind the work that is queued.</summary>
        public void Leave()
        {
            _bank.LoraHere = null;
            using var summed = new CudaEvent(Gpu);
            summed.Record(Gpu.Compute);
            Gpu.Saves.Wait(summed);
            foreach (var (kept, there, between) in _halves)
            {
                if (there.Grad is not { } sum) continue;
                var gradient = between ?? PinnedBuffer.Rent(Gpu, sum.Type, sum.Shape);
                Gpu.Save(gradient.Pointer, sum.Pointer, sum.ByteLength);
                if (between is not null) continue; // goes on to the disk when it is here
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
            foreach (var (kept, there, between) in _halves)
            {
                if (between is not null && _left is not null && there.Grad is not null)
                {
                    _left.Synchronize(); // long over: another layer's work has been queued since
                    Store(kept, between);
                }
                between?.Dispose();
                there.Grad?.Dispose();
                there.Dispose();
            }
            _left?.Dispose();
            _here.Dispose();
        }

        /// <summary>The pairs, which work queued from now on sees whole.</summary>
        private ExpertLora Take()
        {
            Gpu.Compute.Wait(_here);
            return _there;
        }

        private Half Bring(Tensor kept, Tensor there)
        {
            there.RequiresGrad = kept.RequiresGrad;
            if (kept.OnDisk is { } disk)
            {
                var between = PinnedBuffer.Rent(Gpu, kept.Type, kept.Shape);
                Copy(kept, between);
                disk.LetGo();
                Gpu.Restore(there.Pointer, between.Pointer, there.ByteLength);
                return new Half(kept, there, between);
            }
            if (kept.IsPinned) Gpu.Restore(there.Pointer, kept.Pointer, there.ByteLength);
            else Memory.Copy(kept, there);
            return new Half(kept, there, null);
        }

        private static void Store(Tensor kept, Tensor gradient)
        {
            if (kept.Grad is { } before) Autograd.GradientSum.AddInto(before, gradient);
            else Copy(gradient, kept.Grad = kept.OnDisk!.Memory.Zeros(gradient.Type, gradient.Shape));
            kept.Grad.OnDisk!.LetGo();
        }

        /// <summary>From host memory to host memory, on several threads: one waits for a page that a disk has to bring, the others do not.</summary>
        private static unsafe void Copy(Tensor from, Tensor to)
        {
            var (source, target, bytes) = (from.Pointer, to.Pointer, from.ByteLength);
            RowParallel.For((bytes + Piece - 1) / Piece, Piece, (first, last) =>
            {
                var (begin, end) = (first * Piece, Math.Min(last * Piece, bytes));
                System.Buffer.MemoryCopy((byte*)source + begin, (byte*)target + begin, end - begin, end - begin);
            });
        }
    }
}
