using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Bench;

/// <summary>Rows R of width D: the size of a window's activations; everything else that a kernel needs follows from them (<see cref="KernelSizes"/>).</summary>
public sealed record KernelBenchmarkSettings(Device Device, int Rows, int Width);

/// <param name="Kernel">What was measured, forward alone where nothing else is said.</param>
/// <param name="Ms">Median of seven.</param>
/// <param name="Rate">GB/s of the bytes that must cross the memory once, or TFLOP/s of the large product.</param>
/// <param name="Unit">GB/s or TFLOP/s.</param>
/// <param name="FloorMs">A copy that moves as many bytes, or the product alone, on the same device in the same run.</param>
/// <param name="Share">FloorMs / Ms.</param>
/// <param name="Error">‖result − definition‖ / ‖definition‖ on a small case, the worst of the kernel's results.</param>
public sealed record KernelFigure(string Kernel, double Ms, double Rate, string Unit, double FloorMs, double Share, double Error);

/// <summary>`kt bench kernels`: everything but attention and experts (which have their own benchmarks), each against what the device itself gives.</summary>
public static class KernelBenchmark
{
    private static readonly KernelSizes Small = new(48, 136, 1000, 1000);

    /// <summary>All rows, in their order.</summary>
    public static IEnumerable<string> Names => BenchmarkKernels.All.Select(k => k.Name);

    /// <summary>A figure as soon as it is there.</summary>
    /// <exception cref="InvalidOperationException">A result is wrong: this kernel was not measured.</exception>
    public static IEnumerable<KernelFigure> Run(KernelBenchmarkSettings s)
    {
        ArgumentNullException.ThrowIfNull(s);
        if (s.Rows < 8 || s.Rows % 8 != 0) throw new ArgumentException($"--rows must be a positive multiple of 8, but is {s.Rows}");
        if (s.Width < 8 || s.Width % 8 != 0) throw new ArgumentException($"--width must be a positive multiple of 8, but is {s.Width}");
        return BenchmarkKernels.All.Select(kernel => Measure(kernel, s.Device, KernelSizes.Of(s.Rows, s.Width), Check(kernel, s.Device)));
    }

    /// <summary>The error of a small case on the device.</summary>
    internal static double Check(BenchmarkKernel kernel, Device device)
    {
        using var room = new KernelRoom(device, plain: false);
        using var plainRoom = new KernelRoom(Device.Cpu, plain: true);
        var actual = Values(kernel.Make(room, Small));
        float[][] expected;
        using (Op.UsePlain()) expected = Values(kernel.Make(plainRoom, Small));
        var error = actual.Zip(expected, Distance).Max();
        return error <= kernel.Limit ? error
            : throw new InvalidOperationException($"{kernel.Name} is wrong on {device} by {error:E1} (limit {kernel.Limit:E0}): its speed means nothing");
    }

    private static KernelFigure Measure(BenchmarkKernel kernel, Device device, KernelSizes sizes, double error)
    {
        var work = kernel.Work(sizes);
        // First, so that its memory and the kernel's are never needed together.
        var floor = kernel.IsProduct ? Ceilings.Product("product", device, sizes.Rows, sizes.Width, sizes.Width) : Ceilings.Copy(device, (long)work);
        using var room = new KernelRoom(device, plain: false);
        var call = kernel.Make(room, sizes);
        var amount = work / (kernel.IsProduct ? 1e12 : 1e9);
        var speed = Ceilings.Measured(kernel.Name, amount, floor.Unit, device, () =>
        {
            using var scratch = Tape.Scratch();
            call();
        });
        return new KernelFigure(kernel.Name, 1000 * amount / speed.Rate, speed.Rate, speed.Unit, 1000 * amount / floor.Rate, speed.Rate / floor.Rate, error);
    }

    /// <summary>The results of the third call: an optimizer has a past.</summary>
    private static float[][] Values(Func<Tensor[]> call)
    {
        using var scratch = Tape.Scratch();
        call();
        call();
        return [.. call().Select(t => t.Type == DType.I32 ? [.. t.ToInts().Select(i => (float)i)] : t.ToFloats())];
    }

    private static double Distance(float[] actual, float[] expected)
    {
        if (actual.Length != expected.Length) return double.PositiveInfinity;
        double difference = 0, size = 0;
        for (var i = 0; i < expected.Length; i++)
        {
            difference += Math.Pow((double)actual[i] - expected[i], 2);
            size += (double)expected[i] * expected[i];
        }
        return Math.Sqrt(difference / size);
    }
}

/// <summary>R rows of width D; logits of R / 8 rows over a vocabulary; n elements of each trained tensor.</summary>
internal readonly record struct KernelSizes(int Rows, int Width, int Vocabulary, int Trained)
{
    /// <summary>DeepSeek's vocabulary; 201 million trained elements with 16,384 rows.</summary>
    public static KernelSizes Of(int rows, int width) => new(rows, width, 102400, rows * 256);
}

/// <summary>One row of the table.</summary>
/// <param name="Name">What is printed.</param>
/// <param name="IsProduct">Work is FLOP of [R, D] [D, D]ᵀ products; otherwise bytes that must cross the memory once, vectors of one number a row or column
/// left out.</param>
/// <param name="Limit">Largest relative error: roundings of the results' type; 0 where numbers are only moved.</param>
/// <param name="Work">Bytes or FLOP of a call.</param>
/// <param name="Make">Places the inputs; what it returns runs the kernel once and gives the results, owned by the current tape or the room.</param>
internal sealed record BenchmarkKernel(string Name, bool IsProduct, double Limit, Func<KernelSizes, double> Work,
    Func<KernelRoom, KernelSizes, Func<Tensor[]>> Make);

/// <summary>Owns what one kernel works on, the same values on every device; plain: for its definition, on the CPU.</summary>
internal sealed class KernelRoom(Device device, bool plain) : IDisposable
{
    private readonly List<IDisposable> _owned = [];

    public Device Device => device;

    /// <summary>For kernels that are no ops: their definition, what the CPU runs, what a card runs.</summary>
    public Action Choose(Action definition, Action cpu, Action card) => plain ? definition : device.Kind == DeviceKind.Cpu ? cpu : card;

    public T Own<T>(T thing)
        where T : IDisposable
    {
        _owned.Add(thing);
        return thing;
    }

    public Tensor Random(string name, long rows, int width, DType type = DType.BF16)
    {
        using var host = Ceilings.Random(type, name, rows, width);
        return Own(host.To(device));
    }

    public Tensor Empty(DType type, params ReadOnlySpan<long> shape) => Own(Tensor.Zeros(type, device, shape));

    public Tensor Place(int[] values) => Own(Memory.Place(values, device));

    public void Dispose()
    {
        foreach (var thing in Enumerable.Reverse(_owned)) thing.Dispose();
    }
}
