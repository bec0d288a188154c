using System.CommandLine;
using System.Diagnostics;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>
/// `kt bench attention`: the attention op against its definition on a small case, then its speed, and a product of the same card beside it as a measure of
/// what its tensor cores give.
/// </summary>
internal static class BenchAttentionCommand
{
    private const double Limit = 0.02, LimitF32 = 1e-4; // BF16: roundings of P, dS, O and of the results, 2⁻⁹ each

    public static Command Create()
    {
        var (seq, tokens, heads, keyHeads, d, dv) = (Number("--seq", 512, "tokens of a sequence"), Number("--tokens", 8192, "tokens of all sequences"),
            Number("--heads", 16, "query heads"), Number("--kv-heads", 0, "key heads; 0: as many as query heads"),
            Number("--d", 192, "width of a query or key head"), Number("--dv", 128, "width of a value head"));
        var (device, dtype) = (DeviceOption(), TypeOption());
        var command = new Command("attention", "Causal attention, forward and backward, in TFLOP/s of the pairs that see each other")
        {
            seq, tokens, heads, keyHeads, d, dv, device, dtype
        };
        command.SetAction(parsed => Run(new Sizes(parsed.GetValue(seq), parsed.GetValue(tokens), parsed.GetValue(heads), parsed.GetValue(keyHeads),
            parsed.GetValue(d), parsed.GetValue(dv)),
            Device.Parse(parsed.GetRequiredValue(device)), parsed.GetRequiredValue(dtype) == "f32" ? DType.F32 : DType.BF16));
        return command;
    }

    private static Option<int> Number(string name, int normal, string what) => new(name) { Description = what, DefaultValueFactory = _ => normal };

    private static Option<string> DeviceOption() => new("--device")
    {
        Description = "cpu or cuda:N",
        DefaultValueFactory = _ => CudaDevice.Count > 0 ? "cuda:0" : "cpu",
    };

    private static Option<string> TypeOption()
    {
        var option = new Option<string>("--dtype") { Description = "bf16 or f32", DefaultValueFactory = _ => "bf16" };
        option.AcceptOnlyFromAmong("bf16", "f32");
        return option;
    }

    /// <summary>Random values of unit variance on a device: zeros would multiply faster.</summary>
    private static Tensor Random(DType type, Device device, int seed, params ReadOnlySpan<long> shape)
    {
        using var host = Tensor.Empty(type, shape);
        var random = new Random(seed);
        var values = new float[host.Width];
        for (long row = 0; row < host.Rows; row++)
        {
            foreach (ref var v in values.AsSpan()) v = (random.NextSingle() - 0.5f) * 3.4641016f;
            FloatRows.Store(host, row, values);
        }
        return host.To(device);
    }

    /// <summary>‖a − b‖ / ‖b‖.</summary>
    private static double Distance(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double difference = 0, size = 0;
        for (var i = 0; i < b.Length; i++)
        {
            difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            size += (double)b[i] * b[i];
        }
        return Math.Sqrt(difference / Math.Max(size, double.Epsilon));
    }

    /// <summary>Milliseconds of one call: the median of nine groups after a warm-up; a group takes about 20 ms, timed by events on a card.</summary>
    private static double Milliseconds(Device device, Action call)
    {
        call();
        var once = Group(device, call, 1);
        var calls = (int)Math.Clamp(20 / Math.Max(once, 0.001), 1, 200);
        var times = new double[once > 1000 ? 3 : 9];
        for (var i = 0; i < times.Length; i++) times[i] = Group(device, call, calls) / calls;
        Array.Sort(times);
        return times[times.Length / 2];
    }

    private static double Group(Device device, Action call, int calls)
    {
        if (device.Kind == DeviceKind.Cpu)
        {
            var watch = Stopwatch.StartNew();
            for (var i = 0; i < calls; i++) call();
            return watch.Elapsed.TotalMilliseconds;
        }
        var card = CudaDevice.Get(device.Index);
        using var start = new CudaEvent(card, timing: true);
        using var end = new CudaEvent(card, timing: true);
        start.Record(card.Compute);
        for (var i = 0; i < calls; i++) call();
        end.Record(card.Compute);
        return end.Since(start);
    }

    private static int Run(Sizes sizes, Device device, DType type)
    {
        sizes = sizes.Checked();
        var limit = type == DType.F32 ? LimitF32 : Limit;
        var small = sizes with
        {
            Seq = Math.Min(sizes.Seq, 150),
            Tokens = Math.Min(sizes.Tokens, 200),
            Heads = sizes.Heads / sizes.KeyHeads * Math.Min(2, sizes.KeyHeads),
            KeyHeads = Math.Min(2, sizes.KeyHeads),
        };
        var errors = Errors(small, device, type);
        Console.WriteLine($"check on {small}: relative error out {errors[0]:E1}, dq {errors[1]:E1}, dk {errors[2]:E1}, dv {errors[3]:E1} (limit {limit:E0})");
        if (!errors.All(e => e <= limit)) return Failures.Refuse("attention is wrong on this device: nothing is measured");

        using var q = Random(type, device, 1, sizes.Tokens, sizes.Heads, sizes.D);
        using var k = Random(type, device, 2, sizes.Tokens, sizes.KeyHeads, sizes.D);
        using var v = Random(type, device, 3, sizes.Tokens, sizes.KeyHeads, sizes.Dv);
        using var dOut = Random(type, device, 4, sizes.Tokens, sizes.Heads, sizes.Dv);
        (q.RequiresGrad, k.RequiresGrad, v.RequiresGrad) = (true, true, true);
        var forward = Milliseconds(device, () =>
        {
            using var tape = Tape.Scratch();
            Attention.Apply(q, k, v, sizes.Spans, sizes.Scale);
        });
        var both = Milliseconds(device, () =>
        {
            using var tape = Tape.Record();
            tape.Backward(Attention.Apply(q, k, v, sizes.Spans, sizes.Scale), dOut);
            foreach (var leaf in (Tensor[])[q, k, v])
            {
                leaf.Grad!.Dispose();
                leaf.Grad = null;
            }
        });
        Console.WriteLine($"{sizes}, {type}, {(device.Kind == DeviceKind.Cuda ? CudaDevice.Get(device.Index) : "cpu")}");
        Console.WriteLine($"  forward   {forward,9:F3} ms  {sizes.ForwardFlops / forward / 1e9,9:F3} TFLOP/s");
        Console.WriteLine($"  backward  {both - forward,9:F3} ms  {sizes.BackwardFlops / (both - forward) / 1e9,9:F3} TFLOP/s");
        if (device.Kind == DeviceKind.Cuda) Console.WriteLine($"  for comparison: a product of 8192 × 4096 × 4096 runs at {Product(device, type):F1} TFLOP/s");
        return 0;
    }

    /// <summary>Of out, dq, dk, dv: the device against the definition.</summary>
    private static double[] Errors(Sizes sizes, Device device, DType type)
    {
        float[][] Results(Device where)
        {
            using var q = Random(type, where, 1, sizes.Tokens, sizes.Heads, sizes.D);
            using var k = Random(type, where, 2, sizes.Tokens, sizes.KeyHeads, sizes.D);
            using var v = Random(type, where, 3, sizes.Tokens, sizes.KeyHeads, sizes.Dv);
            using var dOut = Random(type, where, 4, sizes.Tokens, sizes.Heads, sizes.Dv);
            (q.RequiresGrad, k.RequiresGrad, v.RequiresGrad) = (true, true, true);
            using var tape = Tape.Record();
            var o = Attention.Apply(q, k, v, sizes.Spans, sizes.Scale);
            var result = o.ToFloats();
            tape.Backward(o, dOut);
            return [result, q.Grad!.ToFloats(), k.Grad!.ToFloats(), v.Grad!.ToFloats()];
        }
        float[][] expected;
        using (Op.UsePlain()) expected = Results(Device.Cpu);
        return [.. Results(device).Zip(expected, (a, b) => Distance(a, b))];
    }

    private static double Product(Device device, DType type)
    {
        using var x = Random(type, device, 5, 8192, 4096);
        using var w = Random(type, device, 6, 4096, 4096);
        return 2.0 * 8192 * 4096 * 4096 / 1e9 / Milliseconds(device, () =>
        {
            using var tape = Tape.Scratch();
            Linear.Apply(x, w);
        });
    }

    private sealed record Sizes(int Seq, int Tokens, int Heads, int KeyHeads, int D, int Dv)
    {
        public Spans Spans => Spans.Self([.. Enumerable.Range(0, (Tokens + Seq - 1) / Seq).Select(s => s * Seq), Tokens]);

        public float Scale => 1 / MathF.Sqrt(D);

        /// <summary>2 n (D + Dv) a head, n pairs of a query and a key that it sees.</summary>
        public double ForwardFlops => 2.0 * Heads * Pairs * (D + Dv);

        /// <summary>2 n (3D + 2Dv): scores, dP, dQ, dK, dV once each, whatever a kernel computes twice.</summary>
        public double BackwardFlops => 2.0 * Heads * Pairs * ((3 * D) + (2 * Dv));

        private double Pairs
        {
            get
            {
                var starts = Spans.Queries;
                return starts.Zip(starts.Skip(1), (a, b) => (b - a) * (b - a + 1.0) / 2).Sum();
            }
        }

        public Sizes Checked()
        {
            var sizes = this with { KeyHeads = KeyHeads == 0 ? Heads : KeyHeads };
            if (sizes.Seq < 1 || sizes.Tokens < 1 || sizes.Heads < 1 || sizes.KeyHeads < 1 || sizes.D < 1 || sizes.Dv < 1)
                throw new ArgumentException($"sizes must be at least 1, but are {sizes}");
            if (sizes.Heads % sizes.KeyHeads != 0) throw new ArgumentException($"--heads {sizes.Heads} must be a multiple of --kv-heads {sizes.KeyHeads}");
            return sizes;
        }

        public override string ToString() => $"{Tokens} tokens in sequences of {Seq}, heads {Heads}/{KeyHeads} × {D}/{Dv}";
    }
}
