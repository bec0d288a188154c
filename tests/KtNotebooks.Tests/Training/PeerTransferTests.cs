using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>What a card hands to another arrives whole, though neither waits for the other. A missing mark shows under KT_EMULATED_STREAMS=lazy.</summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // the pool's blocks are looked at
public class PeerTransferTests
{
    private const int Values = 5000;

    [Fact]
    public void The_receiver_sees_what_was_written_and_the_sender_s_memory_may_be_used_again()
    {
        var (from, to) = Cards();
        using var first = Tensor.From(Of(1), Values);
        using var second = Tensor.From(Of(2), Values);
        var value = Tensor.Empty(DType.F32, from, Values);
        Memory.Copy(first, value); // queued, perhaps not done
        var address = value.Pointer;
        var transfer = new PeerTransfer(value);
        Assert.False(transfer.IsOver);
        using var there = transfer.Take(to);
        Assert.Equal(to, there.Device);
        transfer.Dispose();
        using var next = Tensor.Empty(DType.F32, from, Values);
        Assert.Equal(address, next.Pointer); // the same memory, while the copy may not have begun
        Memory.Copy(second, next);
        Assert.Equal(Of(2), next.ToFloats());
        Assert.Equal(Of(1), there.ToFloats());
    }

    [Fact]
    public void It_is_over_when_the_copy_is_done()
    {
        var (from, to) = Cards();
        var before = CudaDevice.Get(from.Index).Pool.UsedBytes;
        using var host = Tensor.From(Of(3), Values);
        using var transfer = new PeerTransfer(host.To(from));
        using (var there = transfer.Take(to)) Assert.Equal(Of(3), there.ToFloats());
        Assert.True(transfer.IsOver);
        Assert.False(transfer.IsGone);
        transfer.Dispose();
        transfer.Dispose();
        Assert.True(transfer.IsGone);
        Assert.Equal(before, CudaDevice.Get(from.Index).Pool.UsedBytes);
    }

    /// <summary>Layers on the CPU among layers on cards.</summary>
    [Fact]
    public void A_host_takes_and_gives_too()
    {
        var (from, _) = Cards();
        using var host = Tensor.From(Of(4), Values);
        using var up = new PeerTransfer(host.Alias());
        using var there = up.Take(from);
        using var down = new PeerTransfer(there.Alias());
        using var back = down.Take(Device.Cpu);
        Assert.Equal(Of(4), back.ToFloats());
    }

    private static (Device From, Device To) Cards()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        if (CudaDevice.Count < 2) Assert.Skip("there is one card");
        return (Device.Cuda(0), Device.Cuda(1));
    }

    private static float[] Of(int number) => [.. Enumerable.Range(0, Values).Select(v => (number * 10000) + v + 0f)];
}
