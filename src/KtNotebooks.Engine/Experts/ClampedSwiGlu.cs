using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// gpt-oss's activation between an expert's projections, with their biases in it: g' = min(g + b, L), u' = clamp(u + b, ±L), h = (u' + 1) · g' · σ(α g').
/// biases [E, 2I] F32, frozen, gate's in the even and up's in the odd places, as the checkpoint has them. With s = σ(α g'): dg = dh · (u' + 1) · s ·
/// (1 + α g' (1 − s)) where g + b ≤ L, du = dh · g' · s where |u + b| ≤ L. Of rows sorted by expert; g and u are kept
/// without their biases.
/// </summary>
internal sealed class ClampedSwiGlu(Tensor biases, float limit) : IDisposable
{
    private const double Alpha = 1.702;

    /// <summary>`unit`: h, dh/dg and dh/du of an element on a card, biases added already.</summary>
    internal const string UnitSource = """
        struct Unit { float h, dg, du; };

        __device__ __forceinline__ Unit unit(float g, float u, float limit)
        {
            float gate = fminf(g, limit), up = fminf(fmaxf(u, -limit), limit) + 1.0f, s = 1.0f / (1.0f + expf(-1.702f * gate));
            return { up * gate * s, g <= limit ? up * s * (1.0f + 1.702f * gate * (1.0f - s)) : 0.0f, fabsf(u) <= limit ? gate * s : 0.0f };
        }

        """;

    private const string CudaSource = UnitSource + """
        typedef Pack<T, VEC> Values;

        // A block a row; width counts packs. h may be g or u.
        extern "C" __global__ void clamped_swiglu(const Values* g, const Values* u, const float* biases, const int* routes, const int* indices, Values* h,
            int width, float limit)
        {
            const float* b = biases + 2LL * width * VEC * indices[routes[blockIdx.x]];
            long long row = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Values gate = g[row + i], up = u[row + i];
                for (int j = 0; j < VEC; j++)
                {
                    int c = 2 * (i * VEC + j);
                    store(&gate.v[j], unit(widen(gate.v[j]) + b[c], widen(up.v[j]) + b[c + 1], limit).h);
                }
                h[row + i] = gate;
            }
        }

        // As swiglu_grad_rows: dweights[route] = Σ dh · h, dg and du of w · dh, and h. Every output may be one of the inputs.
        extern "C" __global__ void clamped_swiglu_grad(const Values* dh, const Values* g, const Values* u, const float* biases, const float* weights,
            const int* routes, const int* indices, Values* dg, Values* du, Values* h, float* dweights, int width, float limit)
        {
            int route = routes[blockIdx.x];
            const float* b = biases + 2LL * width * VEC * indices[route];
            float w = weights[route], dot = 0;
            long long row = (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Values d = dh[row + i], gate = g[row + i], up = u[row + i];
                for (int j = 0; j < VEC; j++)
                {
                    int c = 2 * (i * VEC + j);
                    Unit a = unit(widen(gate.v[j]) + b[c], widen(up.v[j]) + b[c + 1], limit);
                    float dy = widen(d.v[j]);
                    dot += dy * a.h;
                    store(&d.v[j], a.h);
                    store(&gate.v[j], w * dy * a.dg);
                    store(&up.v[j], w * dy * a.du);
                }
                dg[row + i] = gate;
                du[row + i] = up;
                h[row + i] = d;
            }
            dot = block_sum(dot);
            if (threadIdx.x == 0) dweights[route] = dot;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(ClampedSwiGlu), CudaSource);
    private readonly DeviceCopies _biases = new(biases);

    /// <summary>[E, 2I].</summary>
    public Tensor Biases => biases;

    /// <summary>L.</summary>
    public float Limit => limit;

    /// <summary>Their copy on a device; this object's.</summary>
    public Tensor BiasesOn(Device device) => _biases.On(device);

    /// <summary>Frees what was copied to devices, not the biases themselves.</summary>
    public void Dispose() => _biases.Dispose();

    /// <summary>The definition: h, dh/dg and dh/du of column c of an expert.</summary>
    public (double H, double Gate, double Up) At(int expert, int column, double g, double u)
    {
        var b = _biases.On(Device.Cpu).Row<float>(expert);
        var (gate, up) = (g + b[2 * column], u + b[(2 * column) + 1]);
        var (least, whole) = (Math.Min(gate, limit), Math.Clamp(up, -limit, limit) + 1);
        var s = 1 / (1 + Math.Exp(-Alpha * least));
        return (whole * least * s, gate <= limit ? whole * s * (1 + (Alpha * least * (1 - s))) : 0, Math.Abs(up) <= limit ? least * s : 0);
    }

    /// <summary>h of rows [offsets[e], offsets[e+1]) of every expert e.</summary>
    public void Forward(Tensor g, Tensor u, Tensor h, int[] offsets) => Each(g, u, offsets, (row, gate, up, b, scratch) =>
    {
        for (var c = 0; c < gate.Length; c++) scratch[c] = Unit(gate[c] + b[2 * c], up[c] + b[(2 * c) + 1]).H;
        FloatRows.Store(h, row, scratch);
    });

    /// <summary>dg and du of rowWeights[i] · dh.</summary>
    public void Backward(Tensor dh, Tensor g, Tensor u, Tensor dg, Tensor du, float[] rowWeights, int[] offsets) => Each(g, u, offsets,
        (row, gate, up, b, scratch) =>
        {
            var (gates, ups) = (new float[gate.Length], new float[gate.Length]);
            var d = FloatRows.Load(dh, row, scratch);
            for (var c = 0; c < gate.Length; c++)
            {
                var (_, byGate, byUp) = Unit(gate[c] + b[2 * c], up[c] + b[(2 * c) + 1]);
                (gates[c], ups[c]) = (rowWeights[row] * d[c] * byGate, rowWeights[row] * d[c] * byUp);
            }
            FloatRows.Store(dg, row, gates);
            FloatRows.Store(du, row, ups);
        });

    /// <summary>On a card, of sorted rows from <paramref name="first"/> on; h may be g or u.</summary>
    public void Forward(Tensor g, Tensor u, Tensor routes, int first, Tensor indices, Tensor h)
    {
        var packs = Packs.Of(g.Width, g, u, h);
        Program.Kernel(g.Gpu(), "clamped_swiglu", packs.Options).Launch(g.Rows, packs.Threads(g.Width), g.Pointer, u.Pointer, _biases.On(g.Device).Pointer,
            (nint)(routes.Pointer + (4L * first)), indices.Pointer, h.Pointer, (int)packs.In(g.Width), limit);
    }

    /// <summary>The same as RouteKernels.SwiGluGrad.</summary>
    public void Backward(Tensor dh, Tensor g, Tensor u, Tensor weights, Tensor routes, int first, Tensor indices, Tensor dg, Tensor du, Tensor h,
        Tensor dWeights)
    {
        var packs = Packs.Of(g.Width, g, dh, u, dg, du, h);
        Program.Kernel(g.Gpu(), "clamped_swiglu_grad", packs.Options).Launch(g.Rows, packs.Threads(g.Width), dh.Pointer, g.Pointer, u.Pointer,
            _biases.On(g.Device).Pointer, weights.Pointer, (nint)(routes.Pointer + (4L * first)), indices.Pointer, dg.Pointer, du.Pointer, h.Pointer,
            dWeights.Pointer, (int)packs.In(g.Width), limit);
    }

    private (float H, float Gate, float Up) Unit(float g, float u)
    {
        var (gate, up) = (Math.Min(g, limit), Math.Clamp(u, -limit, limit) + 1);
        var s = 1 / (1 + MathF.Exp(-(float)Alpha * gate));
        return (up * gate * s, g <= limit ? up * s * (1 + ((float)Alpha * gate * (1 - s))) : 0, Math.Abs(u) <= limit ? gate * s : 0);
    }

    private delegate void RowWork(int row, ReadOnlySpan<float> gate, ReadOnlySpan<float> up, ReadOnlySpan<float> biases, Span<float> scratch);

    private void Each(Tensor g, Tensor u, int[] offsets, RowWork work)
    {
        var all = _biases.On(Device.Cpu);
        RowParallel.For(g.Rows, g.Width * 8L, (first, last) =>
        {
            var (a, b, scratch) = (new float[g.Width], new float[g.Width], new float[g.Width]);
            var expert = 0;
            for (var row = (int)first; row < last; row++)
            {
                while (offsets[expert + 1] <= row) expert++;
                work(row, FloatRows.Load(g, row, a), FloatRows.Load(u, row, b), all.Row<float>(expert), scratch);
            }
        });
    }
}
