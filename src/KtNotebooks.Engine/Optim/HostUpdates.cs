using KtNotebooks.Tensors;

namespace KtNotebooks.Optim;

/// <summary>
/// The update of one parameter in host memory by an optimizer. From the moment it is queued its buffers are waited for by whoever wants to see them
/// (<see cref="PendingWork"/>), so the step after it may begin: 3.3 billion elements of DeepSeek-V3's adapter take half a second of the memory's time, in
/// which cards would stand still, but the first layer needs the first ones alone.
/// </summary>
/// <param name="Touched">What it changes.</param>
/// <param name="Gradient">What it reads, and frees at its end; null: zeros.</param>
/// <param name="Work">By addresses that were taken before.</param>
/// <param name="Next">What the update behind it reads: a disk begins to bring it.</param>
internal sealed record HostUpdate(IReadOnlyList<Tensor> Touched, Tensor? Gradient, Action Work, IReadOnlyList<Tensor?> Next)
{
    /// <summary>Does them in order, behind the caller.</summary>
    public static void Queue(IReadOnlyList<HostUpdate> updates)
    {
        PendingWork[] pending = [.. updates.Select(_ => new PendingWork())];
        for (var i = 0; i < pending.Length; i++)
            foreach (var tensor in updates[i].Touched) tensor.Home.Buffer.Pending = pending[i];
        new Thread(() => Do(updates, pending)) { IsBackground = true, Name = "optimizer" }.Start();
    }

    private static void Do(IReadOnlyList<HostUpdate> updates, PendingWork[] pending)
    {
        Exception? failure = null;
        for (var i = 0; i < pending.Length; i++)
        {
            try
            {
                foreach (var tensor in updates[i].Next) tensor?.OnDisk?.Ahead();
                if (failure is null) updates[i].Work();
                updates[i].Gradient?.Dispose();
                foreach (var tensor in updates[i].Touched) tensor.OnDisk?.LetGo();
            }
            catch (Exception e)
            {
                failure = e; // whoever wants to see this parameter, or one behind it, hears of it
            }
            if (failure is null)
                foreach (var tensor in updates[i].Touched) tensor.Home.Buffer.Settle(pending[i]);
            pending[i].Finish(failure);
        }
    }
}
