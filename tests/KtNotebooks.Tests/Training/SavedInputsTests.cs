using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;
using KtNotebooks.Training;

using Xunit;

namespace KtNotebooks.Tests.Training;

/// <summary>Inputs that wait in host memory come back with the same bits, in the right order, whatever the budget; and nothing stays behind.</summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // the card's memory in use is counted
public class SavedInputsTests
{
    private const int Inputs = 9, Values = 3000;

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(100)]
    public void What_is_pushed_is_what_is_popped(int stay)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        for (var step = 0; step < 2; step++) // the second time with pinned blocks of the first
        {
            using var saved = new SavedInputs(stay * Values * sizeof(float));
            for (var i = 0; i < Inputs; i++)
            {
                using var host = Tensor.From(Of(i + (100 * step)), Values);
                saved.Push(host.To(Device.Cuda()));
                Assert.Equal(Of(i + (100 * step)), saved.Top.ToFloats());
            }
            for (var i = Inputs - 1; i >= 0; i--)
            {
                // Work between two pops takes and gives back memory, as a stage does.
                using var scratch = Tensor.Empty(DType.F32, Device.Cuda(), Values);
                Memory.Clear(scratch);
                Assert.Equal(Of(i + (100 * step)), saved.Top.ToFloats());
                saved.Pop();
            }
            Assert.Equal(0, saved.Count);
        }
    }

    [Fact]
    public void A_step_that_is_cut_short_leaves_nothing_behind()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var before = CudaDevice.Get(0).Pool.UsedBytes;
        using (var saved = new SavedInputs(0))
        {
            for (var i = 0; i < Inputs; i++)
            {
                using var host = Tensor.From(Of(i), Values);
                saved.Push(host.To(Device.Cuda()));
            }
            saved.Pop();
        }
        Assert.Equal(before, CudaDevice.Get(0).Pool.UsedBytes);
    }

    [Fact]
    public void On_the_CPU_they_simply_stay()
    {
        using var saved = new SavedInputs(0);
        for (var i = 0; i < Inputs; i++) saved.Push(Tensor.From(Of(i), Values));
        for (var i = Inputs - 1; i >= 0; i--)
        {
            Assert.Equal(Of(i), saved.Top.ToFloats());
            saved.Pop();
        }
    }

    private static float[] Of(int number) => [.. Enumerable.Range(0, Values).Select(v => (number * 10000) + v + 0f)];
}
