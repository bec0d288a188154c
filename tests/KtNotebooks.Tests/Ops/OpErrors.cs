using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>A wrong call and the exact line that it must answer with.</summary>
public sealed record OpError(Type Op, string What, string Message, Action Act)
{
    public override string ToString() => What;
}

public static class OpErrors
{
    private static readonly RotaryTable Table = new(4, 10000);
    private static readonly MlaShape Heads = new(H: 2, Nope: 3, Rope: 4, Value: 5);

    public static IReadOnlyList<OpError> All { get; } =
    [
        new(typeof(Add), "add: shapes", "[Add] b must be F32[2, 3], but is F32[3, 2]", () => Add.Apply(F(2, 3), F(3, 2))),
        new(typeof(Add), "add: integers", "[Add] a must be F32 or BF16, but is I32[2]", () => Add.Apply(Ints(1, 2), Ints(1, 2))),
        new(typeof(ScaleColumns), "columns: magnitudes", "[ScaleColumns] m must be F32[3], but is F32[2]", () => ScaleColumns.Apply(F(2, 3), F(2), F(3))),
        new(typeof(AddSlope), "slope: shape", "[AddSlope] g must be F32[2, 3], but is F32[3, 2]", () => AddSlope.Apply(F(2, 3), F(3, 2))),
        new(typeof(Transfer), "transfer: no such card",
            $"[Transfer] there is no cuda:77: {CudaDevice.Missing ?? $"the driver shows {CudaDevice.Count} card(s), numbered from 0"}",
            () => Transfer.Apply(F(2), Device.Cuda(77))),
        new(typeof(SwiGlu), "swiglu: types", "[SwiGlu] u must be F32[2, 3], but is BF16[2, 3]", () => SwiGlu.Apply(F(2, 3), Tensor.Empty(DType.BF16, 2, 3))),
        new(typeof(Flatten), "flatten: rank", "[Flatten] x must be [T, a, …], but is F32[4]", () => Flatten.Apply(F(4))),
        new(typeof(RmsNorm), "norm: weight length", "[RmsNorm] w must be F32[8], the last dimension of x, but is F32[4]",
            () => RmsNorm.Apply(F(2, 8), F(4), 1e-6f)),
        new(typeof(Linear), "linear: inner size", "[Linear] W must be [N, 8], its width x's last dimension, but is F32[3, 7]",
            () => Linear.Apply(F(2, 8), F(3, 7))),
        new(typeof(Linear), "linear: A", "[Linear] A must be F32[2, 8], but is F32[2, 7]", () => Linear.Apply(F(2, 8), F(3, 8), F(2, 7), F(3, 2), 1)),
        new(typeof(Linear), "linear: B", "[Linear] B must be F32[3, 2], but is F32[2, 3]", () => Linear.Apply(F(2, 8), F(3, 8), F(2, 8), F(2, 3), 1)),
        new(typeof(SplitColumns), "split: place", "[SplitColumns] n must be in 1 … 7, the width of F32[2, 8], but is 8", () => SplitColumns.Apply(F(2, 8), 8)),
        new(typeof(GatherRows), "gather: row", "[GatherRows] row 4 is not in F32[4, 2]", () => GatherRows.Apply(F(4, 2), [0, 4])),
        new(typeof(EmbeddingLookup), "embedding: token", "[EmbeddingLookup] token id 4 is not in the vocabulary of 4",
            () => EmbeddingLookup.Apply(F(4, 2), Ints(0, 4))),
        new(typeof(EmbeddingLookup), "embedding: ids", "[EmbeddingLookup] ids must be I32[T], but is F32[2]", () => EmbeddingLookup.Apply(F(4, 2), F(2))),
        new(typeof(CrossEntropy), "cross-entropy: target", "[CrossEntropy] target 9 is not in the vocabulary of 4",
            () => CrossEntropy.Apply(F(1, 4), [9], [1])),
        new(typeof(CrossEntropy), "cross-entropy: count", "[CrossEntropy] targets and weights must have 2 entries, one a row of F32[2, 4], but have 1 and 2",
            () => CrossEntropy.Apply(F(2, 4), [1], [1, 1])),
        new(typeof(Attention), "attention: starts", "[Attention] query starts must run from 0 to 3, but are [0, 2]",
            () => Attention.Apply(F(3, 1, 4), F(3, 1, 4), F(3, 1, 4), Spans.Self([0, 2]), 1)),
        new(typeof(Attention), "attention: heads", "[Attention] q's 3 heads must be a multiple of k's 2",
            () => Attention.Apply(F(3, 3, 4), F(3, 2, 4), F(3, 2, 4), Spans.Self([0, 3]), 1)),
        new(typeof(Attention), "attention: keys", "[Attention] sequence 0 has fewer keys than queries",
            () => Attention.Apply(F(3, 1, 4), F(2, 1, 4), F(2, 1, 4), new Spans([0, 3], [0, 2]), 1)),
        new(typeof(Attention), "attention: number of sequences", "[Attention] queries are cut into 1 sequences, keys into 2",
            () => Attention.Apply(F(3, 1, 4), F(3, 1, 4), F(3, 1, 4), new Spans([0, 3], [0, 1, 3]), 1)),
        new(typeof(MlaHeads), "heads: kv", "[MlaHeads] kv must be F32[2, 16], but is F32[2, 15]",
            () => MlaHeads.Apply(F(2, 14), F(2, 15), F(2, 4), Heads, Table, [0, 1])),
        new(typeof(MlaHeads), "heads: rotary width", "[MlaHeads] the rotary table is for width 6, the heads have 4",
            () => MlaHeads.Apply(F(2, 14), F(2, 16), F(2, 4), Heads, new RotaryTable(6, 1e4), [0, 1])),
        new(typeof(MlaHeads), "heads: position", "[MlaHeads] position -1 is negative",
            () => MlaHeads.Apply(F(2, 14), F(2, 16), F(2, 4), Heads, Table, [0, -1])),
        new(typeof(Router), "router: k", "[Router] top-k must be in 1 … 4, the number of experts, but is 5",
            () => Router.Apply(F(2, 4), new RouterSettings(5, false, 1))),
        new(typeof(Router), "router: type", "[Router] logits must be F32[T, E], but is BF16[2, 4]",
            () => Router.Apply(Tensor.Empty(DType.BF16, 2, 4), new RouterSettings(1, false, 1))),
        new(typeof(Router), "router: groups", "[Router] 8 experts cannot be cut into 3 groups of one size",
            () => Router.Apply(F(2, 8), new RouterSettings(2, false, 1, Groups: 3))),
        new(typeof(Router), "router: kept groups", "[Router] kept groups must be in 1 … 4, the number of groups, but is 5",
            () => Router.Apply(F(2, 8), new RouterSettings(2, false, 1, Groups: 4, KeptGroups: 5))),
        new(typeof(Router), "router: room", "[Router] 1 groups of 2 experts do not hold the 3 to be chosen",
            () => Router.Apply(F(2, 8), new RouterSettings(3, false, 1, Groups: 4))),
        new(typeof(Router), "router: bias", "[Router] bias must be F32[8], but is F32[7]",
            () => Router.Apply(F(2, 8), new RouterSettings(2, true, 1, Scoring: RouterScoring.Sigmoid), F(7))),
        new(typeof(Router), "router: softmax with a bias", "[Router] a correction bias goes with sigmoid scores alone",
            () => Router.Apply(F(2, 8), new RouterSettings(2, true, 1), F(8))),
        new(typeof(Router), "router: balance of sigmoids", "[Router] the balance term is defined for softmax scores alone",
            () => Router.Apply(F(2, 8), new RouterSettings(2, true, 1, 0.1f, RouterScoring.Sigmoid))),
        new(typeof(Router), "router: groups of one", "[Router] groups are scored by their two best experts, but have one each",
            () => Router.Apply(F(2, 8), new RouterSettings(2, true, 1, 0, RouterScoring.Sigmoid, 8, 4))),
        new(typeof(AddBias), "bias: width", "[AddBias] b must be F32[4], but is F32[3]", () => AddBias.Apply(F(2, 4), F(3))),
        new(typeof(GqaHeads), "gqa heads: k", "[GqaHeads] k must be F32[2, 4], but is F32[2, 8]",
            () => GqaHeads.Apply(F(2, 8), F(2, 8), F(2, 4), F(4), F(4), new GqaShape(2, 1, 4), Table, [0, 1], 1e-6f)),
        new(typeof(GqaHeads), "gqa heads: norm", "[GqaHeads] wk must be F32[4], but is F32[8]",
            () => GqaHeads.Apply(F(2, 8), F(2, 4), F(2, 4), F(4), F(8), new GqaShape(2, 1, 4), Table, [0, 1], 1e-6f)),
        new(typeof(GqaHeads), "gqa heads: rotary width", "[GqaHeads] the rotary table is for width 6, the heads have 4",
            () => GqaHeads.Apply(F(2, 8), F(2, 4), F(2, 4), F(4), F(4), new GqaShape(2, 1, 4), new RotaryTable(6, 1e4), [0, 1], 1e-6f)),
        new(typeof(GqaHeads), "gqa heads: position", "[GqaHeads] position -1 is negative",
            () => GqaHeads.Apply(F(2, 8), F(2, 4), F(2, 4), F(4), F(4), new GqaShape(2, 1, 4), Table, [0, -1], 1e-6f)),
        new(typeof(RoutedExperts), "experts: width", "[RoutedExperts] x must be [T, 4], the experts' input width, but is F32[2, 5]",
            () => RoutedExperts.Apply(F(2, 5), F(2, 1), Ints2(0, 1), Set())),
        new(typeof(RoutedExperts), "experts: biases", "[RoutedExperts] biases of gate and up must be F32[2, 6], but is F32[2, 3]",
            () => RoutedExperts.Apply(F(2, 4), F(2, 1), Ints2(0, 1), Set() with { Glu = new ClampedSwiGlu(F(2, 3), 7) })),
        new(typeof(ExpertBias), "expert bias: weights", "[ExpertBias] weights must be F32[2, 1], but is F32[3, 1]",
            () => ExpertBias.Apply(F(2, 4), F(3, 1), Ints2(0, 1), new DeviceCopies(F(2, 4)))),
        new(typeof(Attention), "attention: sinks", "[Attention] sinks must be F32[1], but is F32[2]",
            () => Attention.Apply(F(3, 1, 4), F(3, 1, 4), F(3, 1, 4), Spans.Self([0, 3]), 1, F(2))),
        new(typeof(RoutedExperts), "experts: index", "[RoutedExperts] expert index 2 is not in 0 … 1",
            () => RoutedExperts.Apply(F(2, 4), F(2, 1), Ints2(0, 2), Set())),
    ];

    private static ExpertSet Set() => new(Matrices.Stack(F(2, 3, 4)), Matrices.Stack(F(2, 3, 4)), Matrices.Stack(F(2, 4, 3)));

    private static Tensor F(params long[] shape) => Tensor.Zeros(DType.F32, shape);

    private static Tensor Ints(params int[] values) => Tensor.From(values, values.Length);

    private static Tensor Ints2(params int[] values) => Tensor.From(values, values.Length, 1);
}
