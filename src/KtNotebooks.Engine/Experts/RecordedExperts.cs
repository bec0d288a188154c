using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// Experts in host memory inside a recorded step (<see cref="CudaGraph"/>): rows and routes go to pinned memory, the thread that launches the step computes
/// between two pieces of it, and the sums go back. The host queues a layer with one call and waits for it once.
/// </summary>
internal static class RecordedExperts
{
    /// <param name="call">Rows on the card that records; low-rank pairs, if any, in host memory.</param>
    /// <param name="executor">Of rows in host memory.</param>
    /// <param name="biases">Of the down projections; null: none.</param>
    /// <returns>[T, D] on the card.</returns>
    public static Tensor Apply(ExpertCall call, IExpertExecutor executor, DeviceCopies? biases)
    {
        var card = call.X.Gpu();
        var y = Tape.Own(Tensor.Empty(call.X.Type, call.X.Device, call.X.Shape));
        Tensor Pinned(Tensor like) => new(PinnedBuffer.Allocate(like.Device, like.ByteLength), 0, like.Type, like.Shape);
        Tensor Fetched(Tensor from)
        {
            var here = Pinned(from);
            card.CopyPinned(here.Pointer, from.Pointer, from.ByteLength);
            return here;
        }
        var here = call with { X = Fetched(call.X), Weights = Fetched(call.Weights), Indices = Fetched(call.Indices) };
        var (sums, alike) = (Pinned(y), Cpu.IsRowInvariant); // a thread's own
        var state = executor.NewState(here); // the same in every run
        card.RecordHostWork(
            () =>
            {
                using var invariant = alike ? Cpu.RowInvariant() : null;
                executor.Forward(here, state, sums);
                if (biases is null) return;
                using var scratch = Tape.Scratch();
                Memory.Copy(ExpertBias.Apply(sums, here.Weights, here.Indices, biases), sums);
            },
            here.X, here.Weights, here.Indices, sums, state);
        card.CopyPinned(y.Pointer, sums.Pointer, y.ByteLength);
        return y;
    }
}
