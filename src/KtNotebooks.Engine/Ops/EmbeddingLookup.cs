using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y[t] = table[ids[t]]. table [V, D]; ids I32 [T]; y [T, D] in the table's type or outType. dTable[v] = Σ_{t: ids[t]=v} dy[t], F32.</summary>
public sealed class EmbeddingLookup(DType? outType = null) : Op
{
    public static Tensor Apply(Tensor table, Tensor ids, DType? outType = null) => new EmbeddingLookup(outType).Run(table, ids)[0];

    protected override Frame Prepare(Tensor[] inputs)
    {
        var (table, ids) = (inputs[0], inputs[1]);
        ExpectFloat(table, "table");
        if (ids.Type != DType.I32 || ids.Rank != 1) throw Wrong($"ids must be I32[T], but is {ids}");
        if (ids.Device.Kind == DeviceKind.Cpu)
            foreach (var id in ids.Span<int>())
                if (id < 0 || id >= table.Dim(0)) throw Wrong($"token id {id} is not in the vocabulary of {table.Dim(0)}");
        return new Frame(inputs, [Allocate(table, outType ?? table.Type, ids.Count, table.Width)]);
    }

    protected override void Plain(Frame f)
    {
        var (table, ids, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var scratch = new float[table.Width];
        for (var t = 0; t < y.Rows; t++) FloatRows.Store(y, t, FloatRows.Load(table, ids.Span<int>()[t], scratch));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) => [f.Needs(0) ? new Grad(f.Inputs[0].Dim(0)).Run(dOut[0]!, f.Inputs[1])[0] : null, null];

    private sealed class Grad(long vocabulary) : GradOp
    {
        protected override Frame Prepare(Tensor[] inputs) => new(inputs, [Allocate(inputs[0], DType.F32, vocabulary, inputs[0].Width)]);

        protected override void Plain(Frame f)
        {
            var (dy, ids, dTable) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
            Memory.Clear(dTable);
            var scratch = new float[dy.Width];
            for (var t = 0; t < dy.Rows; t++)
            {
                var target = dTable.Row<float>(ids.Span<int>()[t]);
                TensorPrimitives.Add(target, FloatRows.Load(dy, t, scratch), target);
            }
        }
    }
}
