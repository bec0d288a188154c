using KtNotebooks.Bench;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Bench;

public class KernelBenchmarkTests
{
    [Fact]
    public void Kernels_of_the_cpu_are_right() => Assert.All(BenchmarkKernels.All, kernel => KernelBenchmark.Check(kernel, Device.Cpu));

    [Fact]
    [Trait("card", "cuda")]
    public void Kernels_of_a_card_are_right()
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        Assert.All(BenchmarkKernels.All, kernel => KernelBenchmark.Check(kernel, Device.Cuda()));
    }

    [Fact]
    public void A_wrong_kernel_is_not_measured()
    {
        var wrong = new BenchmarkKernel("twice", false, 0.01, s => s.Rows, (room, s) =>
        {
            var (x, y) = (room.Random("x", s.Rows, s.Width, DType.F32), room.Empty(DType.F32, s.Rows, s.Width));
            void Times(float factor) => y.Store([.. x.ToFloats().Select(v => factor * v)]);
            var run = room.Choose(() => Times(2), () => Times(2.04f), () => Times(2));
            return () =>
            {
                run();
                return [y];
            };
        });
        var error = Assert.Throws<InvalidOperationException>(() => KernelBenchmark.Check(wrong, Device.Cpu));
        Assert.Equal("twice is wrong on cpu by 2.0E-002 (limit 1E-002): its speed means nothing", error.Message);
    }
}
