namespace KtNotebooks.Tensors;

/// <summary>
/// Work on memory that goes on behind everybody's back. A buffer that has one is waited for by whoever asks for its address, and before it is freed: nobody
/// sees a half of it. What failed is thrown there.
/// </summary>
internal sealed class PendingWork
{
    private readonly TaskCompletionSource _over = new();

    public void Finish(Exception? failure = null)
    {
        if (failure is null) _over.SetResult();
        else _over.SetException(failure);
    }

    public void Wait() => _over.Task.GetAwaiter().GetResult();

    /// <summary>The same for whoever wants to free memory, however the work ended.</summary>
    public void WaitForEnd() => Task.WaitAny(_over.Task);
}
