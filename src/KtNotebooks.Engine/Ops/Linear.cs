using KtNotebooks.Autograd;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// y = x Wᵀ + scale · (m∘x Aᵀ) Bᵀ. x [..., K], W [N, K] F32 or BF16; optional low-rank pair A [r, K], B [N, r] F32 with dropout mask m; y [..., N] in x's
/// type or <c>outType</c>, rounded once. Saves p = (m∘x) Aᵀ [R, r], F32, or on a card as its products want it.
/// Source of the low-rank form: LoRA, Hu et al. 2021, with PEFT's dropout on the input of A.
/// </summary>
public sealed class Linear : Op
{
    private readonly DType? _outType;
    private readonly float _scale;
    private readonly DropoutMask _dropout;

    private Linear(DType? outType, float scale, DropoutMask dropout)
    {
        _outType = outType;
        _scale = scale;
        _dropout = dropout;
    }

    public static Tensor Apply(Tensor x, Tensor w, DType? outType = null) => new Linear(outType, 0, DropoutMask.None).Run(x, w)[0];

    public static Tensor Apply(Tensor x, Tensor w, Tensor a, Tensor b, float scale, DropoutMask dropout = default, DType? outType = null) =>
        new Linear(outType, scale, dropout).Run(x, w, a, b)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (x, w) = (inputs[0], inputs[1]);
        ExpectFloat(x, "x");
        ExpectFloat(w, "W");
        if (w.Rank != 2 || w.Width != x.Width) throw Wrong($"W must be [N, {x.Width}], its width x's last dimension, but is {w}");
        long n = w.Dim(0);
        var y = Allocate(x, _outType ?? x.Type, [.. x.Shape[..^1], n]);
        if (inputs.Length == 2) return new Frame(inputs, [y]);
        var r = inputs[2].Dim(0);
        Expect(inputs[2], "A", DType.F32, r, x.Width);
        Expect(inputs[3], "B", DType.F32, n, r);
        return new Frame(inputs, [y], Allocate(x, x.Device.Kind == DeviceKind.Cuda ? ComputeType(x, w) : DType.F32, x.Rows, r));
    }

    protected override void Plain(Frame f)
    {
        var (x, w, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var (X, W) = (x.ToFloats(), w.ToFloats());
        var (R, K, N) = (x.Rows, x.Width, (int)w.Dim(0));
        var result = new float[R * N];
        var lora = f.Inputs.Length > 2;
        var r = lora ? (int)f.Inputs[2].Dim(0) : 0;
        var (A, B) = lora ? (f.Inputs[2].ToFloats(), f.Inputs[3].ToFloats()) : ([], []);
        var p = new float[R * r];
        for (var i = 0; i < R; i++)
        {
            for (var j = 0; j < r; j++)
            {
                double sum = 0;
                for (var k = 0; k < K; k++) sum += (double)X[(i * K) + k] * (_dropout.Active ? _dropout.At(i, k) : 1) * A[(j * K) + k];
                p[(i * r) + j] = (float)sum;
            }
            for (var n = 0; n < N; n++)
            {
                double sum = 0, low = 0;
                for (var k = 0; k < K; k++) sum += (double)X[(i * K) + k] * W[(n * K) + k];
                for (var j = 0; j < r; j++) low += (double)p[(i * r) + j] * B[(n * r) + j];
                result[(i * N) + n] = (float)(sum + (_scale * low));
            }
        }
        y.Store(result);
        if (lora) f.Saved[0].Store(p);
    }

    protected override void Cpu(Frame f)
    {
        var x = f.Inputs[0];
        var w = Matrices.One(f.Inputs[1]);
        if (f.Inputs.Length == 2)
        {
            GroupedMatmul.Forward([0, x.Rows], x, null, w, null, null, 0, null, f.Outputs[0]);
            return;
        }
        using var xl = Masked(x, _dropout);
        GroupedMatmul.Forward([0, x.Rows], x, xl, w, Matrices.One(f.Inputs[2]), Matrices.One(f.Inputs[3]), _scale, f.Saved[0], f.Outputs[0]);
    }

    /// <summary>
    /// Tensor cores multiply BF16, so A, B and p are narrowed for BF16 rows. The low-rank term is written first, in y's type, and the product adds itself
    /// to it in F32 registers: no F32 copy of y, and the large term is rounded once. With F32 rows or weights everything is computed in F32.
    /// </summary>
    protected override void Cuda(Frame f)
    {
        var (type, y) = (ComputeType(f.Inputs[0], f.Inputs[1]), f.Outputs[0]);
        if (f.Inputs.Length == 2 && NarrowProduct.Suits(f.Inputs[0], f.Inputs[1], y))
        {
            NarrowProduct.Run(f.Inputs[0], f.Inputs[1], y);
            return;
        }
        using var x = f.Inputs[0].To(type);
        using var w = f.Inputs[1].To(type);
        if (f.Inputs.Length == 2)
        {
            DeviceMatmul.Run(x, false, w, true, y);
            return;
        }
        var (a, b) = DeviceMath.ConvertTwo(f.Inputs[2], f.Inputs[3], type);
        using var aOwned = a;
        using var bOwned = b;
        using var masked = MaskedOnGpu(x, _dropout);
        DeviceMatmul.Run(masked ?? x, false, a, true, f.Saved[0]);
        using var sum = SumOf(y, type);
        DeviceMatmul.Run(f.Saved[0], false, b, true, sum, _scale);
        DeviceMatmul.Run(x, false, w, true, sum, add: true);
        if (sum.Type != y.Type) DeviceMath.Convert(sum, y);
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut)
    {
        var grad = new Grad(f.Needs(0), f.Needs(1), f.Inputs.Length > 2 && (f.Needs(2) || f.Needs(3)), _scale, _dropout);
        return grad.Unpack(grad.Run([dOut[0]!, .. f.Inputs, .. f.Saved]), f.Inputs.Length);
    }

    private static DType ComputeType(Tensor x, Tensor w) => x.Type == DType.BF16 && w.Type == DType.BF16 ? DType.BF16 : DType.F32;

    /// <summary>Where two products of a compute type are added: the target itself, or F32 where F32 products end in a BF16 target.</summary>
    private static Tensor SumOf(Tensor target, DType type) => type == DType.BF16 || target.Type == DType.F32 ? target.Alias()
        : Allocate(target, DType.F32, target.Shape);

    private static Tensor? MaskedOnGpu(Tensor x, DropoutMask mask)
    {
        if (!mask.Active) return null;
        var masked = Allocate(x, x.Type, x.Shape);
        DropoutKernels.Apply(mask, x, masked);
        return masked;
    }

    /// <summary>m∘x, or null when there is no dropout.</summary>
    private static Tensor? Masked(Tensor x, DropoutMask mask)
    {
        if (!mask.Active) return null;
        var masked = Allocate(x, x.Type, x.Shape);
        mask.Apply(x, masked);
        return masked;
    }

    /// <summary>
    /// q = scale · dy B ; dx = dy W + m∘(q A) ; dW = dyᵀ x ; dA = qᵀ (m∘x) ; dB = scale · dyᵀ p. Inputs dy, x, W [, A, B, p]; outputs those of dx, dW, dA,
    /// dB that are wanted.
    /// </summary>
    private sealed class Grad(bool wantsX, bool wantsW, bool wantsLora, float scale, DropoutMask dropout) : GradOp
    {
        public Tensor?[] Unpack(Tensor[] outputs, int inputs)
        {
            var next = 0;
            var unpacked = new Tensor?[inputs];
            if (wantsX) unpacked[0] = outputs[next++];
            if (wantsW) unpacked[1] = outputs[next++];
            if (wantsLora) (unpacked[2], unpacked[3]) = (outputs[next], outputs[next + 1]);
            return unpacked;
        }

        protected override Frame Prepare(Tensor[] inputs)
        {
            var (x, w) = (inputs[1], inputs[2]);
            List<Tensor> outputs = [];
            if (wantsX) outputs.Add(Allocate(x, x.Type, x.Shape));
            if (wantsW) outputs.Add(Allocate(w, DType.F32, w.Shape));
            if (wantsLora)
            {
                outputs.Add(Allocate(x, DType.F32, inputs[3].Shape));
                outputs.Add(Allocate(x, DType.F32, inputs[4].Shape));
            }
            return new Frame(inputs, [.. outputs]);
        }

        protected override void Plain(Frame f)
        {
            var lora = f.Inputs.Length > 3;
            var (dY, X, W) = (f.Inputs[0].ToFloats(), f.Inputs[1].ToFloats(), f.Inputs[2].ToFloats());
            var (R, K, N) = (f.Inputs[1].Rows, f.Inputs[1].Width, (int)f.Inputs[2].Dim(0));
            var r = lora ? (int)f.Inputs[3].Dim(0) : 0;
            var (A, B, P) = lora ? (f.Inputs[3].ToFloats(), f.Inputs[4].ToFloats(), f.Inputs[5].ToFloats()) : ([], [], []);
            double Mask(int i, int k) => dropout.Active ? dropout.At(i, k) : 1;
            var q = new double[R * r];
            for (var i = 0; i < R; i++)
                for (var j = 0; j < r; j++)
                    for (var n = 0; n < N; n++) q[(i * r) + j] += (double)scale * dY[(i * N) + n] * B[(n * r) + j];
            var next = 0;
            if (wantsX)
            {
                var dX = new float[R * K];
                for (var i = 0; i < R; i++)
                    for (var k = 0; k < K; k++)
                    {
                        double sum = 0, low = 0;
                        for (var n = 0; n < N; n++) sum += (double)dY[(i * N) + n] * W[(n * K) + k];
                        for (var j = 0; j < r; j++) low += q[(i * r) + j] * A[(j * K) + k];
                        dX[(i * K) + k] = (float)(sum + (Mask(i, k) * low));
                    }
                f.Outputs[next++].Store(dX);
            }
            if (wantsW)
            {
                var dW = new float[N * K];
                for (var n = 0; n < N; n++)
                    for (var k = 0; k < K; k++)
                    {
                        double sum = 0;
                        for (var i = 0; i < R; i++) sum += (double)dY[(i * N) + n] * X[(i * K) + k];
                        dW[(n * K) + k] = (float)sum;
                    }
                f.Outputs[next++].Store(dW);
            }
            if (!wantsLora) return;
            var (dA, dB) = (new float[r * K], new float[N * r]);
            for (var j = 0; j < r; j++)
            {
                for (var k = 0; k < K; k++)
                {
                    double sum = 0;
                    for (var i = 0; i < R; i++) sum += q[(i * r) + j] * Mask(i, k) * X[(i * K) + k];
                    dA[(j * K) + k] = (float)sum;
                }
                for (var n = 0; n < N; n++)
                {
                    double sum = 0;
                    for (var i = 0; i < R; i++) sum += (double)dY[(i * N) + n] * P[(i * r) + j];
                    dB[(n * r) + j] = (float)(scale * sum);
                }
            }
            f.Outputs[next].Store(dA);
            f.Outputs[next + 1].Store(dB);
        }

        protected override void Cpu(Frame f)
        {
            var (dy, x, w) = (f.Inputs[0], f.Inputs[1], Matrices.One(f.Inputs[2]));
            ReadOnlySpan<int> rows = [0, x.Rows];
            var next = 0;
            var dx = wantsX ? f.Outputs[next++] : null;
            var dw = wantsW ? f.Outputs[next++] : null;
            if (f.Inputs.Length == 3)
            {
                if (dx is not null) GroupedMatmul.InputGrad(rows, dy, w, null, null, 0, null, dx, null);
            }
            else
            {
                var (a, b) = (Matrices.One(f.Inputs[3]), Matrices.One(f.Inputs[4]));
                using var q = Allocate(x, DType.F32, x.Rows, a.N);
                using var dxl = dx is not null && dropout.Active ? Allocate(x, x.Type, x.Shape) : null;
                GroupedMatmul.InputGrad(rows, dy, w, a, b, scale, q, dx, dxl);
                if (dxl is not null)
                {
                    dropout.Apply(dxl, dxl);
                    GradientSum.AddInto(dx!, dxl);
                }
                if (wantsLora)
                {
                    using var xl = Masked(x, dropout);
                    GroupedMatmul.LoraGrad(rows, xl ?? x, f.Inputs[5], dy, q, scale, Matrices.One(f.Outputs[next]), Matrices.One(f.Outputs[next + 1]));
                }
            }
            if (dw is not null) GroupedMatmul.WeightGrad(rows, x, dy, Matrices.One(dw));
        }

        protected override void Cuda(Frame f)
        {
            var (type, next) = (ComputeType(f.Inputs[1], f.Inputs[2]), 0);
            using var dy = f.Inputs[0].To(type);
            using var x = f.Inputs[1].To(type);
            var dx = wantsX ? f.Outputs[next++] : null;
            if (wantsW) DeviceMatmul.Run(dy, true, x, false, f.Outputs[next++]);
            if (f.Inputs.Length == 3)
            {
                if (dx is null) return;
                using var w = f.Inputs[2].To(type);
                DeviceMatmul.Run(dy, false, w, false, dx);
                return;
            }
            var (a, b) = DeviceMath.ConvertTwo(f.Inputs[3], f.Inputs[4], type);
            using var aOwned = a;
            using var bOwned = b;
            using var q = Allocate(x, type, x.Rows, b.Width);
            DeviceMatmul.Run(dy, false, b, false, q, scale);
            if (dx is not null) InputGrad(f, dy, q, a, dx);
            if (!wantsLora) return;
            using var masked = MaskedOnGpu(x, dropout);
            DeviceMatmul.Run(q, true, masked ?? x, false, f.Outputs[next]);
            DeviceMatmul.Run(dy, true, f.Inputs[5], false, f.Outputs[next + 1], scale);
        }

        /// <summary>dx = m∘(q A), then + dy W.</summary>
        private void InputGrad(Frame f, Tensor dy, Tensor q, Tensor a, Tensor dx)
        {
            using var w = f.Inputs[2].To(dy.Type);
            using var sum = SumOf(dx, dy.Type);
            DeviceMatmul.Run(q, false, a, false, sum);
            if (dropout.Active) DropoutKernels.Apply(dropout, sum, sum);
            DeviceMatmul.Run(dy, false, w, false, sum, add: true);
            if (sum.Type != dx.Type) DeviceMath.Convert(sum, dx);
        }
    }
}
