namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// A card does not answer any more (fallen off the bus, without power, reset by somebody): nothing on it can be read, and this process cannot use it again.
/// </summary>
public sealed class GpuLostException(string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>Of a failed call whose card is gone: which one, what was going on and what helps; whoever knows says what is saved.</summary>
    public static GpuLostException During(CudaDevice card, string doing, KtNativeException failed, string saved)
    {
        ArgumentNullException.ThrowIfNull(failed);
        return new GpuLostException($"{card} was lost {doing}: {failed.Message}. {saved}nvidia-smi shows whether the card is back (a driver that lost it may "
            + "need a restart of the machine); device=cpu does without it", failed);
    }
}
