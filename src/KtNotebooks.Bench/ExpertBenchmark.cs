using System.Diagnostics;

using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Bench;

/// <summary>
/// One bank of routed experts of a true shape: E experts of width I on rows of width D, k a token; T tokens, LoRA of a rank (0: none) on all of them.
/// </summary>
public sealed record ExpertBenchmarkSettings(int Experts, int Width, int Inner, int TopK, int Tokens, int Rank, StorageFormat Format, Device Device);

/// <param name="ForwardMs">Median of forward.</param>
/// <param name="BothMs">Median of forward and backward (dx, router weights, LoRA), the value of forward left out as a training step does.</param>
/// <param name="ForwardTflops">6·T·k·D·I a forward; the low-rank terms are not counted.</param>
/// <param name="BothTflops">12·T·k·D·I of them: the base's gradient counts as much as the forward, recomputation counts nothing.</param>
/// <param name="Error">‖y − definition‖ / ‖definition‖ of a small bank on the same device.</param>
/// <param name="BackwardMs">Of both, what is not the forward without its value.</param>
/// <param name="LoraMs">Of both, what the low-rank pairs take: less the same without them.</param>
/// <param name="Peak">Of the CPU's registers alone, TFLOP/s: the median of loops right before each measured call (a processor's power allows AMX a rate that
/// changes twofold within a minute); 0 on a card.</param>
/// <param name="ReadGbPerSecond">Of host memory, in the same run; 0 on a card.</param>
public sealed record ExpertBenchmarkResult(double ForwardMs, double BothMs, double ForwardTflops, double BothTflops, double Error, double BackwardMs,
    double LoraMs, double Peak, double ReadGbPerSecond);

/// <summary>`kt bench experts`: the kernels of one bank alone, its weights where they are computed.</summary>
public static class ExpertBenchmark
{
    private const double Limit = 0.02; // BF16

    /// <exception cref="InvalidOperationException">The result is wrong: nothing was measured.</exception>
    public static ExpertBenchmarkResult Run(ExpertBenchmarkSettings s)
    {
        ArgumentNullException.ThrowIfNull(s);
        var error = Check(s with { Tokens = 100 });
        using var bank = Bank(s);
        using var rows = new Rows(s);
        var read = s.Device.Kind == DeviceKind.Cpu ? Ceilings.HostRead(1L << 30)?.Rate ?? 0 : 0;
        List<double> peaks = [];
        var forward = Median(s.Device, () => rows.Forward(bank), peaks);
        var activations = Median(s.Device, () => rows.Activations(bank), peaks);
        var both = Median(s.Device, () => rows.Both(bank), peaks);
        bank.RemoveAdapter();
        var lora = s.Rank > 0 ? both - Median(s.Device, () => rows.Both(bank), peaks) : 0;
        peaks.Sort();
        var peak = peaks.Count > 0 ? peaks[peaks.Count / 2] : 0;
        var work = 6.0 * s.Tokens * s.TopK * s.Width * s.Inner / 1e9; // GFLOP; over milliseconds that is TFLOP/s
        return new ExpertBenchmarkResult(forward, both, work / forward, 2 * work / both, error, both - activations, lora, peak, read);
    }

    internal static ExpertBank Bank(ExpertBenchmarkSettings s)
    {
        var weights = new PatternWeights(Device.Cpu, s.Format) { Tiles = s.Device.Kind == DeviceKind.Cpu };
        var bank = new ExpertBank(weights, ExpertNames.Each("model.layers.1.mlp.experts"), DType.BF16, s.Experts, s.Width,
            s.Inner);
        if (s.Device.Kind == DeviceKind.Cuda) ExpertExecutors.Keep([bank], s.Device, DType.BF16);
        else ExpertExecutors.Gather([bank]);
        if (s.Rank > 0) bank.Adapter = Lora(s);
        return bank;
    }

    private static ExpertLora Lora(ExpertBenchmarkSettings s)
    {
        Tensor Of(string name, long rows, long columns)
        {
            var random = new NormalRandom(3, name);
            var values = new float[s.Experts * rows * columns];
            random.Fill(values, 0.02f);
            using var host = Tensor.From(values, s.Experts, rows, columns);
            var pair = host.To(s.Device);
            pair.RequiresGrad = true;
            return pair;
        }
        var (D, I, r) = (s.Width, s.Inner, s.Rank);
        return new ExpertLora(Of("ga", r, D), Of("gb", I, r), Of("ua", r, D), Of("ub", I, r), Of("da", r, I), Of("db", D, r), 2);
    }

    /// <summary>Of a small bank like it.</summary>
    /// <exception cref="InvalidOperationException">It is wrong.</exception>
    internal static double Check(ExpertBenchmarkSettings s)
    {
        s = s with { Experts = 4, Width = 256, Inner = 128, TopK = 2 };
        using var bank = Bank(s);
        using var plainBank = Bank(s with { Device = Device.Cpu });
        using var rows = new Rows(s);
        using var plainRows = new Rows(s with { Device = Device.Cpu });
        var actual = rows.Value(bank);
        float[] expected;
        using (Op.UsePlain()) expected = plainRows.Value(plainBank);
        var error = Math.Sqrt(expected.Zip(actual, (a, b) => Math.Pow((double)a - b, 2)).Sum() / expected.Sum(a => (double)a * a));
        return error <= Limit ? error
            : throw new InvalidOperationException($"the experts are wrong on {s.Device} by {error:P2} (limit {Limit:P0}): their speed means nothing");
    }

    /// <summary>Milliseconds of a call; on the CPU <paramref name="peaks"/> gets what registers alone multiply, TFLOP/s, before each.</summary>
    private static double Median(Device device, Action call, List<double> peaks)
    {
        call();
        var card = device.Kind == DeviceKind.Cuda ? CudaDevice.Get(device.Index) : null;
        var registers = card == null ? Ceilings.RegisterLoop() : null;
        var times = new double[7];
        for (var i = 0; i < times.Length; i++)
        {
            var start = Stopwatch.GetTimestamp();
            if (registers?.Invoke() is { } flop) peaks.Add(flop / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e12);
            card?.Compute.Synchronize();
            start = Stopwatch.GetTimestamp();
            call();
            card?.Compute.Synchronize();
            times[i] = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
        }
        Array.Sort(times);
        return times[times.Length / 2];
    }

    /// <summary>Random rows and routes, every expert about equally often.</summary>
    internal sealed class Rows : IDisposable
    {
        private readonly Tensor _x, _dy, _weights, _indices;

        public Rows(ExpertBenchmarkSettings s, ulong seed = 7)
        {
            var random = new NormalRandom(seed, "rows");
            var values = new float[s.Tokens * s.Width];
            random.Fill(values, 1);
            using var x = Tensor.From(values, DType.BF16, s.Tokens, s.Width);
            var indices = new int[s.Tokens * s.TopK];
            Indices = indices;
            for (var t = 0; t < s.Tokens; t++)
            {
                var first = (int)(random.Next() % (ulong)s.Experts);
                var step = 1 + (int)(random.Next() % (ulong)Math.Max(1, s.Experts / s.TopK));
                for (var j = 0; j < s.TopK; j++) indices[(t * s.TopK) + j] = (first + (j * step)) % s.Experts;
            }
            using var chosen = Tensor.From(indices, s.Tokens, s.TopK);
            using var weights = Tensor.From([.. indices.Select(_ => 1f / s.TopK)], s.Tokens, s.TopK);
            (_x, _dy, _weights, _indices) = (x.To(s.Device).Clone(), x.To(s.Device).Clone(), weights.To(s.Device).Clone(), chosen.To(s.Device).Clone());
        }

        /// <summary>The expert of each route.</summary>
        public IReadOnlyList<int> Indices { get; }

        public float[] Value(ExpertBank bank)
        {
            using var scratch = Tape.Scratch();
            return bank.Forward(_x, _weights, _indices, new Pass([], [0])).ToFloats();
        }

        public void Forward(ExpertBank bank)
        {
            using var scratch = Tape.Scratch();
            bank.Forward(_x, _weights, _indices, new Pass([], [0]));
        }

        /// <summary>What a training step computes before it goes back: the value is left out.</summary>
        public void Activations(ExpertBank bank)
        {
            using var scratch = Tape.Scratch();
            bank.Forward(_x, _weights, _indices, new Pass([], [0], ValueUnused: true));
        }

        public void Both(ExpertBank bank)
        {
            using var tape = Tape.Record();
            using var x = _x.Alias();
            using var weights = _weights.Alias();
            (x.RequiresGrad, weights.RequiresGrad) = (true, true);
            tape.Backward(bank.Forward(x, weights, _indices, new Pass([], [0], ValueUnused: true)), _dy);
            foreach (var (_, tensor) in bank.Trainable)
            {
                tensor.Grad?.Dispose();
                tensor.Grad = null;
            }
        }

        public void Dispose()
        {
            foreach (var tensor in (Tensor[])[_x, _dy, _weights, _indices]) tensor.Dispose();
        }
    }
}
