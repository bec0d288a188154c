using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Optim;
using KtNotebooks.Tensors;

using Linear = KtNotebooks.Ops.Linear;
using RmsNorm = KtNotebooks.Ops.RmsNorm;

namespace KtNotebooks.Bench;

/// <summary>The kernels that <see cref="KernelBenchmark"/> measures, BF16 activations as in training.</summary>
internal static class BenchmarkKernels
{
    private const int Experts = 64, TopK = 8, Rank = 8, Tensors = 48;
    private const double Bf16Limit = 0.01, F32Limit = 1e-5; // one rounding of 2⁻⁹ a value, gradients two; F32 sums of a thousand terms
    private static readonly MlaShape Mla = new(16, 128, 64, 128);

    public static IReadOnlyList<BenchmarkKernel> All { get; } =
    [
        Moving("RMSNorm", s => 2 * Bytes(s), (room, s) =>
        {
            var (x, w) = (room.Random("x", s.Rows, s.Width), room.Own(room.Random("w", 1, s.Width, DType.F32).View(s.Width)));
            return () => [RmsNorm.Apply(x, w, 1e-6f)];
        }),
        Moving("RMSNorm, forward and dx", s => 5 * Bytes(s), (room, s) =>
        {
            var (x, w) = (room.Random("x", s.Rows, s.Width), room.Own(room.Random("w", 1, s.Width, DType.F32).View(s.Width)));
            return Back(() => RmsNorm.Apply(x, w, 1e-6f), room.Random("dy", s.Rows, s.Width), x);
        }),
        Moving("Add", s => 3 * Bytes(s), (room, s) =>
        {
            var (a, b) = (room.Random("a", s.Rows, s.Width), room.Random("b", s.Rows, s.Width));
            return () => [Add.Apply(a, b)];
        }),
        Moving("SwiGLU", s => 3 * Bytes(s), (room, s) =>
        {
            var (g, u) = (room.Random("g", s.Rows, s.Width), room.Random("u", s.Rows, s.Width));
            return () => [SwiGlu.Apply(g, u)];
        }),
        Moving("SwiGLU, forward and backward", s => 8 * Bytes(s), (room, s) =>
        {
            var (g, u) = (room.Random("g", s.Rows, s.Width), room.Random("u", s.Rows, s.Width));
            return Back(() => SwiGlu.Apply(g, u), room.Random("dh", s.Rows, s.Width), g, u);
        }),
        Moving("MlaHeads (rotary), 16 heads",
            s => s.Rows / 2 * 2.0 * ((3 * Mla.H * Mla.Head) + (Mla.H * (Mla.Nope + Mla.Value)) + (Mla.H * Mla.Value) + Mla.Rope), Heads),
        Moving("cross-entropy", s => 2.0 * (s.Rows / 8) * s.Vocabulary, (room, s) =>
        {
            var (apply, _, _) = Loss(room, s);
            return () => [apply()];
        }),
        Moving("cross-entropy with its gradient", s => 4.0 * (s.Rows / 8) * s.Vocabulary, (room, s) => // exponentials cost as much as bytes
        {
            var (apply, logits, one) = Loss(room, s);
            return Back(apply, one, logits);
        }),
        Moving("router, 64 experts, 8 a token", s => 4.0 * s.Rows * (Experts + (2 * TopK)), (room, s) =>
        {
            var z = room.Random("z", s.Rows, Experts, DType.F32);
            return () =>
            {
                var (weights, indices) = Router.Apply(z, new RouterSettings(TopK, true, 1));
                return [weights, indices];
            };
        }) with { Limit = F32Limit },
        Moving("sort of routes", s => 8.0 * s.Rows, Sort) with { Limit = 0 }, // an index read, a route written
        Moving("gather of routes", s => 2 * Bytes(s), Gather) with { Limit = 0 },
        Moving("combine of 8 rows a token", s => 9 * Bytes(s) / 8, Combine),
        Moving("weighted SwiGLU backward, h again", s => 6 * Bytes(s), WeightedSwiGlu),
        Multiplying("Linear", 1, (room, s) =>
        {
            var (x, w) = (room.Random("x", s.Rows, s.Width), room.Random("w", s.Width, s.Width));
            return () => [Linear.Apply(x, w)];
        }),
        Multiplying("Linear with low rank 8", 1, (room, s) =>
        {
            var (x, w, a, b) = LowRank(room, s);
            return () => [Linear.Apply(x, w, a, b, 1)];
        }),
        Multiplying("Linear with low rank 8, both ways", 2, (room, s) =>
        {
            var (x, w, a, b) = LowRank(room, s);
            return Back(() => Linear.Apply(x, w, a, b, 1), room.Random("dy", s.Rows, s.Width), x, a, b);
        }),
        Moving("gradient norm", s => 4.0 * Tensors * s.Trained, Norm) with { Limit = F32Limit },
        Moving("AdamW", s => 28.0 * Tensors * s.Trained, Step) with { Limit = 2e-5 }, // 1 − β₂ in F32 is off by 1.3e-5
    ];

    private static BenchmarkKernel Moving(string name, Func<KernelSizes, double> bytes, Func<KernelRoom, KernelSizes, Func<Tensor[]>> make) =>
        new(name, false, Bf16Limit, bytes, make);

    /// <summary>The low-rank terms are not counted.</summary>
    private static BenchmarkKernel Multiplying(string name, int products, Func<KernelRoom, KernelSizes, Func<Tensor[]>> make) =>
        new(name, true, Bf16Limit, s => products * 2.0 * s.Rows * s.Width * s.Width, make);

    /// <summary>Of one [R, D] in BF16.</summary>
    private static double Bytes(KernelSizes s) => 2.0 * s.Rows * s.Width;

    /// <summary>Forward and backward; the results are the gradients of the leaves.</summary>
    private static Func<Tensor[]> Back(Func<Tensor> apply, Tensor dOut, params Tensor[] leaves)
    {
        foreach (var leaf in leaves) leaf.RequiresGrad = true;
        return () =>
        {
            using (var tape = Tape.Record()) tape.Backward(apply(), dOut);
            var gradients = new Tensor[leaves.Length];
            for (var i = 0; i < leaves.Length; i++) (gradients[i], leaves[i].Grad) = (Tape.Own(leaves[i].Grad!), null);
            return gradients;
        };
    }

    private static Func<Tensor[]> Heads(KernelRoom room, KernelSizes s)
    {
        var T = s.Rows / 2;
        var (q, kv, kr) = (room.Random("q", T, Mla.H * Mla.Head), room.Random("kv", T, Mla.H * (Mla.Nope + Mla.Value)), room.Random("kr", T, Mla.Rope));
        var table = new RotaryTable(Mla.Rope, 10000);
        int[] positions = [.. Enumerable.Range(0, T)];
        return () =>
        {
            var (Q, K, V) = MlaHeads.Apply(q, kv, kr, Mla, table, positions);
            return [Q, K, V];
        };
    }

    private static (Func<Tensor> Apply, Tensor Logits, Tensor One) Loss(KernelRoom room, KernelSizes s)
    {
        var R = s.Rows / 8;
        var logits = room.Random("logits", R, s.Vocabulary);
        int[] targets = [.. Enumerable.Range(0, R).Select(i => i * 37 % s.Vocabulary)];
        float[] weights = [.. Enumerable.Repeat(1f / R, R)];
        return (() => CrossEntropy.Apply(logits, targets, weights), logits, room.Own(Memory.Place([1f], room.Device)));
    }

    private static (Tensor X, Tensor W, Tensor A, Tensor B) LowRank(KernelRoom room, KernelSizes s) =>
        (room.Random("x", s.Rows, s.Width), room.Random("w", s.Width, s.Width), room.Random("a", Rank, s.Width, DType.F32),
            room.Random("b", s.Width, Rank, DType.F32));

    /// <summary>The expert of each route, and what a stable sort by it gives.</summary>
    private static (int[] Expert, int[] Offsets, int[] Routes, int[] RowOf) Sorted(int count)
    {
        int[] expert = [.. Enumerable.Range(0, count).Select(i => (int)(i * 7919L % 1009 % Experts))];
        int[] routes = [.. Enumerable.Range(0, count).OrderBy(i => expert[i])];
        var rowOf = new int[count];
        for (var i = 0; i < count; i++) rowOf[routes[i]] = i;
        return (expert, [.. Enumerable.Range(0, Experts + 1).Select(e => expert.Count(x => x < e))], routes, rowOf);
    }

    /// <summary>The inverse of the routes is made on a card alone.</summary>
    private static Func<Tensor[]> Sort(KernelRoom room, KernelSizes s)
    {
        var sorted = Sorted(s.Rows);
        var indices = room.Place(sorted.Expert);
        var (offsets, routes, rowOf) = (room.Empty(DType.I32, Experts + 1), room.Empty(DType.I32, s.Rows), room.Empty(DType.I32, s.Rows));
        var run = room.Choose(
            () =>
            {
                sorted.Offsets.CopyTo(offsets.Span<int>());
                sorted.Routes.CopyTo(routes.Span<int>());
                sorted.RowOf.CopyTo(rowOf.Span<int>());
            },
            () => Routes.Sort(indices, Experts, offsets, routes),
            () => RouteKernels.Sort(indices, Experts, offsets, routes, rowOf));
        return Giving(run, room.Device.Kind == DeviceKind.Cpu ? [offsets, routes] : [offsets, routes, rowOf]);
    }

    private static Func<Tensor[]> Gather(KernelRoom room, KernelSizes s)
    {
        var rows = Sorted(s.Rows).Routes;
        var (x, xs, routes) = (room.Random("x", s.Rows, s.Width), room.Empty(DType.BF16, s.Rows, s.Width), room.Place(rows));
        var run = room.Choose(
            () =>
            {
                for (var i = 0; i < rows.Length; i++) x.Row<ushort>(rows[i]).CopyTo(xs.Row<ushort>(i));
            },
            () => Rows.Gather(x, rows, xs),
            () => RouteKernels.Gather(x, routes, 0, rows.Length, 1, xs));
        return Giving(run, xs);
    }

    /// <summary>y[t] = Σ_j weights[t, j] · rows[rowOf[8t + j]].</summary>
    private static Func<Tensor[]> Combine(KernelRoom room, KernelSizes s)
    {
        var sorted = Sorted(s.Rows);
        var (rows, weights, y, rowOf) = (room.Random("rows", s.Rows, s.Width), room.Random("weights", s.Rows / TopK, TopK, DType.F32),
            room.Empty(DType.BF16, s.Rows / TopK, s.Width), room.Place(sorted.RowOf));
        void Definition()
        {
            var (x, w, sums) = (rows.ToFloats(), weights.ToFloats(), new float[y.Count]);
            for (var i = 0; i < sums.Length; i++)
            {
                var (t, column, sum) = (i / s.Width, i % s.Width, 0.0);
                for (var j = 0; j < TopK; j++) sum += (double)w[(t * TopK) + j] * x[(sorted.RowOf[(t * TopK) + j] * s.Width) + column];
                sums[i] = (float)sum;
            }
            y.Store(sums);
        }
        return Giving(room.Choose(Definition, () => Routes.Combine(rows, sorted.Routes, TopK, weights, y),
            () => RouteKernels.Combine(rows, rowOf, 0, s.Rows, TopK, weights, y, add: false)), y);
    }

    /// <summary>h = silu(g) · u; dg, du = w · the gradients of h for dh; dw = dh · h. One pass on a card, three on the CPU.</summary>
    private static Func<Tensor[]> WeightedSwiGlu(KernelRoom room, KernelSizes s)
    {
        var sorted = Sorted(s.Rows).Routes;
        var (R, I) = (s.Rows, s.Width);
        var (dh, g, u, weights, routes) = (room.Random("dh", R, I), room.Random("g", R, I), room.Random("u", R, I),
            room.Random("weights", R / TopK, TopK, DType.F32), room.Place(sorted));
        var (dg, du, h, dw) = (room.Empty(DType.BF16, R, I), room.Empty(DType.BF16, R, I), room.Empty(DType.BF16, R, I), room.Empty(DType.F32, R / TopK, TopK));
        void Definition()
        {
            var (d, a, b, w, dots) = (dh.ToFloats(), g.ToFloats(), u.ToFloats(), weights.ToFloats(), new double[R]);
            var (first, second, third) = (new float[d.Length], new float[d.Length], new float[d.Length]);
            for (var i = 0; i < d.Length; i++)
            {
                var (sigmoid, route) = (1 / (1 + Math.Exp(-a[i])), sorted[i / I]);
                third[i] = (float)(a[i] * sigmoid * b[i]);
                dots[route] += d[i] * a[i] * sigmoid * b[i];
                first[i] = (float)(w[route] * d[i] * b[i] * sigmoid * (1 + (a[i] * (1 - sigmoid))));
                second[i] = (float)(w[route] * d[i] * a[i] * sigmoid);
            }
            dg.Store(first);
            du.Store(second);
            h.Store(third);
            dw.Store([.. dots.Select(x => (float)x)]);
        }
        void Host()
        {
            var rowWeights = new float[R];
            SwiGlu.Forward(g, u, h);
            ExpertRows.WeightGrad(sorted, dh, h, weights, dw, rowWeights);
            SwiGlu.Backward(dh, g, u, dg, du, rowWeights);
        }
        return Giving(room.Choose(Definition, Host, () => RouteKernels.SwiGluGrad(dh, g, u, weights, routes, 0, dg, du, h, dw)), dg, du, h, dw);
    }

    private static Func<Tensor[]> Giving(Action run, params Tensor[] results) => () =>
    {
        run();
        return results;
    };

    /// <summary>Pairs with narrow rows, as B has them; all start alike, with gradients of their own.</summary>
    private static (Parameter[] Parameters, Tensor[] Gradients) Trained(KernelRoom room, KernelSizes s)
    {
        var (w, g) = (room.Random("w", s.Trained / 8, 8, DType.F32), room.Random("g", s.Trained / 8, 8, DType.F32));
        return ([.. Enumerable.Range(0, Tensors).Select(i => new Parameter($"p{i}", room.Own(w.Clone())))],
            [.. Enumerable.Range(0, Tensors).Select(_ => room.Own(g.Clone()))]);
    }

    private static Func<Tensor[]> Norm(KernelRoom room, KernelSizes s)
    {
        var (parameters, gradients) = Trained(room, s);
        for (var i = 0; i < parameters.Length; i++) parameters[i].Tensor.Grad = gradients[i].Alias();
        var result = room.Own(Tensor.Zeros(DType.F32, 1));
        void Set(double norm) => result.Span<float>()[0] = (float)norm;
        void Run() => Set(Gradients.Norm(parameters));
        return Giving(room.Choose(() => Set(Math.Sqrt(gradients.Sum(g => g.ToFloats().Sum(v => (double)v * v)))), Run, Run), result);
    }

    /// <summary>Steps that leave the gradients: the optimizer frees an alias.</summary>
    private static Func<Tensor[]> Step(KernelRoom room, KernelSizes s)
    {
        const double Rate = 1e-3;
        var settings = new AdamWSettings(WeightDecay: 0.1);
        var (parameters, gradients) = Trained(room, s);
        var optimizer = room.Own(new AdamW(parameters, settings));
        Tensor[] results = [.. parameters.Select(p => p.Tensor), .. optimizer.State.Select(m => m.Tensor)];
        void Run()
        {
            for (var i = 0; i < parameters.Length; i++) parameters[i].Tensor.Grad = gradients[i].Alias();
            optimizer.Step(Rate, 1);
        }
        var steps = 0;
        void Definition()
        {
            steps++;
            for (var p = 0; p < parameters.Length; p++)
            {
                var (m, v) = (results[Tensors + (2 * p)], results[Tensors + (2 * p) + 1]);
                var (ws, ms, vs, gs) = (results[p].ToFloats(), m.ToFloats(), v.ToFloats(), gradients[p].ToFloats());
                for (var i = 0; i < ws.Length; i++)
                {
                    ms[i] = (float)((settings.Beta1 * ms[i]) + ((1 - settings.Beta1) * gs[i]));
                    vs[i] = (float)((settings.Beta2 * vs[i]) + ((1 - settings.Beta2) * gs[i] * gs[i]));
                    var (first, second) = (ms[i] / (1 - Math.Pow(settings.Beta1, steps)), vs[i] / (1 - Math.Pow(settings.Beta2, steps)));
                    ws[i] = (float)(ws[i] - (Rate * ((first / (Math.Sqrt(second) + settings.Eps)) + (settings.WeightDecay * ws[i]))));
                }
                results[p].Store(ws);
                m.Store(ms);
                v.Store(vs);
            }
        }
        return Giving(room.Choose(Definition, Run, Run), results);
    }
}
