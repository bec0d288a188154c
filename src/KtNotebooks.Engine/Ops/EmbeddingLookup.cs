using System.Numerics.Tensors;

using KtNotebooks.Autograd;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>y[t] = table[ids[t]]. table [V, D]; ids I32 [T]; y [T, D] in the table's type or outType. dTable[v] = Σ_{t: ids[t]=v} dy[t], F32.</summary>
public sealed class EmbeddingLookup(DType? outType = null) : Op
{
    private const string CudaSource = """
        typedef Pack<T, VEC> Entries;
        typedef Pack<OTHER, VEC> Values;

        // One block a token. An id outside the vocabulary gives a row of NaN: nobody looks at ids that are on the card already.
        extern "C" __global__ void embedding(const Entries* table, const int* ids, Values* y, int width, int vocabulary)
        {
            int id = ids[blockIdx.x];
            bool known = id >= 0 && id < vocabulary;
            const Entries* source = table + (known ? (long long)id * width : 0);
            Values* target = y + (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
            {
                Entries a = source[i];
                Values r;
                for (int j = 0; j < VEC; j++) store(&r.v[j], known ? widen(a.v[j]) : __uint_as_float(0x7fffffffu));
                target[i] = r;
            }
        }

        // One block a row of the table: it looks through all ids and adds the rows that are its own, in their order.
        extern "C" __global__ void embedding_grad(const Entries* dy, const int* ids, Pack<float, VEC>* dtable, int width, int tokens)
        {
            __shared__ unsigned int hits[32];
            int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
            Pack<float, VEC>* target = dtable + (long long)blockIdx.x * width;
            for (int i = threadIdx.x; i < width; i += blockDim.x)
                for (int j = 0; j < VEC; j++) target[i].v[j] = 0;
            for (int base = 0; base < tokens; base += blockDim.x)
            {
                int t = base + threadIdx.x;
                unsigned int hit = __ballot_sync(0xffffffffu, t < tokens && ids[t] == (int)blockIdx.x);
                if ((threadIdx.x & 31) == 0) hits[warp] = hit;
                __syncthreads();
                for (int w = 0; w < warps; w++)
                    for (unsigned int left = hits[w]; left != 0; left &= left - 1)
                    {
                        const Entries* row = dy + (long long)(base + 32 * w + __ffs(left) - 1) * width;
                        for (int i = threadIdx.x; i < width; i += blockDim.x)
                        {
                            Entries a = row[i];
                            Pack<float, VEC> sum = target[i];
                            for (int j = 0; j < VEC; j++) sum.v[j] += widen(a.v[j]);
                            target[i] = sum;
                        }
                    }
                __syncthreads();
            }
        }
        """;

    private static readonly CudaProgram Program = new(nameof(EmbeddingLookup), CudaSource);

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

    protected override unsafe void Cpu(Frame f)
    {
        var (table, ids, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        if (table.Type != y.Type)
        {
            Plain(f);
            return;
        }
        var bytes = (long)table.Width * table.Type.Size();
        var (from, to, rows) = (table.Pointer, y.Pointer, ids.Pointer);
        RowParallel.For(y.Rows, table.Width, (first, last) =>
        {
            for (var t = first; t < last; t++) System.Buffer.MemoryCopy((byte*)from + (((int*)rows)[t] * bytes), (byte*)to + (t * bytes), bytes, bytes);
        });
    }

    protected override void Cuda(Frame f)
    {
        var (table, ids, y) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
        var packs = Packs.Of(y.Width, table, y);
        Program.Kernel(y.Gpu(), "embedding", packs.Options)
            .Launch(y.Rows, packs.Threads(y.Width), table.Pointer, ids.Pointer, y.Pointer, (int)packs.In(y.Width), (int)table.Dim(0));
    }

    protected internal override Tensor?[] Backward(Frame f, Tensor?[] dOut) =>
        [f.Needs(0) ? new Grad(f.Inputs[0].Dim(0)).Run(dOut[0]!, f.Inputs[1])[0] : null, null];

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

        protected override void Cuda(Frame f)
        {
            var (dy, ids, dTable) = (f.Inputs[0], f.Inputs[1], f.Outputs[0]);
            var packs = Packs.Of(dy.Width, dy, dTable);
            Program.Kernel(dy.Gpu(), "embedding_grad", packs.Options)
                .Launch(vocabulary, Packs.Block, dy.Pointer, ids.Pointer, dTable.Pointer, (int)packs.In(dy.Width), (int)ids.Count);
        }
    }
}
