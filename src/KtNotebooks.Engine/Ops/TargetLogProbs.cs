using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// logp[r] = z[r, target[r]] − log Σ_v exp z[r, v]; entropy[r] = −Σ q log q in nats, q the softmax of row r's <see cref="Top"/> largest logits. z [R, V] F32
/// or BF16; targets [R]; both results F32 [R]. Without gradient: an objective weighs rows by them, the cross-entropy learns.
/// </summary>
internal sealed class TargetLogProbs(int[] targets, bool withEntropy) : InferenceOp
{
    /// <summary>Logits that an entropy is of (LLaMA-Factory's number for use_eaft_loss).</summary>
    public const int Top = 20;

    // One block of 256 threads a row. A round finds the largest logit behind the one before, of equal ones that with the lower number.
    private const string CudaSource = """
        extern "C" __global__ void target_log_probs(const T* z, const int* targets, float* logp, float* entropies, int width, int top)
        {
            __shared__ float values[256];
            __shared__ int places[256];
            const T* row = z + (long long)blockIdx.x * width;
            int t = threadIdx.x;
            float last = 3.402823466e38f, first = 0, sum = 0, weighted = 0;
            int at = -1;
            for (int round = 0; round < (top > 0 ? top : 1); round++)
            {
                float best = -3.402823466e38f;
                int place = width;
                for (int i = t; i < width; i += 256)
                {
                    float v = widen(row[i]);
                    if ((v < last || (v == last && i > at)) && (v > best || place == width)) { best = v; place = i; }
                }
                values[t] = best;
                places[t] = place;
                __syncthreads();
                for (int half = 128; half > 0; half >>= 1)
                {
                    if (t < half && (places[t] == width || (places[t + half] < width
                        && (values[t + half] > values[t] || (values[t + half] == values[t] && places[t + half] < places[t])))))
                    {
                        values[t] = values[t + half];
                        places[t] = places[t + half];
                    }
                    __syncthreads();
                }
                last = values[0];
                at = places[0];
                __syncthreads();
                if (round == 0) first = last;
                float e = expf(last - first);
                sum += e;
                weighted += e * (last - first);
            }
            float all = 0;
            for (int i = t; i < width; i += 256) all += expf(widen(row[i]) - first);
            all = block_sum(all);
            if (t != 0) return;
            logp[blockIdx.x] = widen(row[targets[blockIdx.x]]) - first - logf(all);
            if (top > 0) entropies[blockIdx.x] = logf(sum) - weighted / sum;
        }
        """;

    private static readonly CudaProgram Program = new(nameof(TargetLogProbs), CudaSource);

    public static (Tensor LogP, Tensor? Entropy) Apply(Tensor logits, int[] targets, bool withEntropy)
    {
        var results = new TargetLogProbs(targets, withEntropy).Run(logits);
        return (results[0], withEntropy ? results[1] : null);
    }

    protected override Frame Prepare(Tensor[] inputs)
    {
        var z = inputs[0];
        ExpectFloat(z, "logits");
        if (targets.Length != z.Rows) throw Wrong($"targets must have {z.Rows} entries, one a row of {z}, but have {targets.Length}");
        foreach (var target in targets)
            if (target < 0 || target >= z.Width) throw Wrong($"target {target} is not in the vocabulary of {z.Width}");
        var logp = Allocate(z, DType.F32, z.Rows);
        return new Frame(inputs, withEntropy ? [logp, Allocate(z, DType.F32, z.Rows)] : [logp]);
    }

    protected override void Plain(Frame f)
    {
        var (z, V) = (f.Inputs[0].ToFloats(), f.Inputs[0].Width);
        float[] logp = new float[targets.Length], entropies = new float[targets.Length];
        for (var r = 0; r < targets.Length; r++)
        {
            double[] row = [.. z[(r * V)..((r + 1) * V)].Select(v => (double)v)];
            logp[r] = (float)(row[targets[r]] - LogSum(row));
            double[] top = [.. row.OrderDescending().Take(Top)];
            entropies[r] = (float)-top.Sum(v => Math.Exp(v - LogSum(top)) * (v - LogSum(top)));
        }
        f.Outputs[0].Store(logp);
        if (withEntropy) f.Outputs[1].Store(entropies);
    }

    private static double LogSum(double[] values) => values.Max() + Math.Log(values.Sum(v => Math.Exp(v - values.Max())));

    protected override void Cpu(Frame f)
    {
        var z = f.Inputs[0];
        RowParallel.For(z.Rows, z.Width * 4L, (first, last) =>
        {
            var (a, b) = (new float[z.Width], new float[z.Width]);
            var top = new PriorityQueue<float, float>(Top);
            for (var row = first; row < last; row++)
            {
                var logits = FloatRows.Load(z, row, a);
                var max = TensorPrimitives.Max(logits);
                TensorPrimitives.Subtract(logits, max, b);
                TensorPrimitives.Exp(b, b);
                f.Outputs[0].Span<float>()[(int)row] = (float)(logits[targets[row]] - max - Math.Log(TensorPrimitives.Sum<float>(b)));
                if (withEntropy) f.Outputs[1].Span<float>()[(int)row] = (float)EntropyOfTop(logits, max, top);
            }
        });
    }

    /// <summary>log Σ e^v − Σ e^v v / Σ e^v of the largest logits less their maximum.</summary>
    private static double EntropyOfTop(ReadOnlySpan<float> logits, float max, PriorityQueue<float, float> top)
    {
        top.Clear();
        foreach (var value in logits)
            if (top.Count < Top) top.Enqueue(value, value);
            else if (value > top.Peek()) top.EnqueueDequeue(value, value);
        double sum = 0, weighted = 0;
        foreach (var (value, _) in top.UnorderedItems)
        {
            var e = Math.Exp((double)value - max);
            (sum, weighted) = (sum + e, weighted + (e * ((double)value - max)));
        }
        return Math.Log(sum) - (weighted / sum);
    }

    protected override void Cuda(Frame f)
    {
        var z = f.Inputs[0];
        using var at = Memory.Place(targets, z.Device);
        Program.Kernel(z.Gpu(), "target_log_probs", Packs.Of(1, z, z).Options).Launch(z.Rows, 256, z.Pointer, at.Pointer, f.Outputs[0].Pointer,
            withEntropy ? f.Outputs[1].Pointer : 0, z.Width, withEntropy ? Math.Min(Top, z.Width) : 0);
    }
}
