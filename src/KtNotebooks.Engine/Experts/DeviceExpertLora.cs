using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

namespace KtNotebooks.Experts;

/// <summary>
/// The low-rank pairs of a bank's experts as its products on a card read them: in the rows' type, ranks padded with zeros to multiples of 8 (16 bytes of
/// BF16), the scale folded into B, gate's and up's A one below the other, so that one product serves both. A: [E, Rg + Ru, D] and [E, Rd, I]; B: [E, I,
/// Rg], [E, I, Ru], [E, D, Rd]. Made once for all groups of a visit.
/// </summary>
internal sealed class DeviceExpertLora : IDisposable
{
    private const string Source = """
        // out[e][row0 + i][j] = scale · in[e][i][j], zero outside rows × columns; one block a row of an expert.
        extern "C" __global__ void pad_pair(const float* in, T* out, int rows, int columns,
            int padded_rows, int padded_columns, int expert_rows, int row0, float scale)
        {
            long long e = blockIdx.y;
            int i = blockIdx.x;
            const float* from = in + (e * rows + i) * columns;
            T* to = out + (e * expert_rows + row0 + i) * padded_columns;
            for (int j = threadIdx.x; j < padded_columns; j += blockDim.x) store(to + j, i < rows && j < columns ? scale * from[j] : 0.0f);
        }
        """;

    private static readonly CudaProgram Program = new("DeviceExpertLora", Source);
    private readonly Tensor _inA, _downA, _gateB, _upB, _downB;

    public DeviceExpertLora(ExpertLora lora, DType type)
    {
        var E = lora.GateA.Dim(0);
        var device = lora.GateA.Device;
        (int D, int I) = (lora.GateA.Width, lora.DownA.Width);
        (GateRank, UpRank, DownRank) = (Padded(lora.GateB.Width), Padded(lora.UpB.Width), Padded(lora.DownB.Width));
        _inA = Tensor.Empty(type, device, E, InRank, D);
        _downA = Tensor.Empty(type, device, E, DownRank, I);
        _gateB = Tensor.Empty(type, device, E, I, GateRank);
        _upB = Tensor.Empty(type, device, E, I, UpRank);
        _downB = Tensor.Empty(type, device, E, D, DownRank);
        Pad(lora.GateA, _inA, GateRank, 0, 1);
        Pad(lora.UpA, _inA, UpRank, GateRank, 1);
        Pad(lora.DownA, _downA, DownRank, 0, 1);
        Pad(lora.GateB, _gateB, I, 0, lora.Scale);
        Pad(lora.UpB, _upB, I, 0, lora.Scale);
        Pad(lora.DownB, _downB, D, 0, lora.Scale);
    }

    public int GateRank { get; }

    public int UpRank { get; }

    public int DownRank { get; }

    /// <summary>Rg + Ru.</summary>
    public int InRank => GateRank + UpRank;

    /// <summary>Gate's and up's A from this expert on.</summary>
    public ExpertSide InA(int first) => Side(_inA, first);

    /// <summary>Gate's A alone, or up's.</summary>
    public ExpertSide GateA(int first) => Side(_inA, first);

    public ExpertSide UpA(int first) => Side(_inA, first) with { Pointer = Side(_inA, first).Pointer + ((nint)GateRank * _inA.Width * _inA.Type.Size()) };

    public ExpertSide DownA(int first) => Side(_downA, first);

    public ExpertSide GateB(int first) => Side(_gateB, first);

    public ExpertSide UpB(int first) => Side(_upB, first);

    public ExpertSide DownB(int first) => Side(_downB, first);

    public void Dispose()
    {
        foreach (var tensor in (Tensor[])[_inA, _downA, _gateB, _upB, _downB]) tensor.Dispose();
    }

    /// <summary>Bytes of the pairs of all experts, and elements of a row's products with A.</summary>
    public static (long Bytes, int In, int Down) Sizes(ExpertLora lora, DType type)
    {
        (long E, int D, int I) = (lora.GateA.Dim(0), lora.GateA.Width, lora.DownA.Width);
        var (both, down) = (Padded(lora.GateB.Width) + Padded(lora.UpB.Width), Padded(lora.DownB.Width));
        return (E * (D + I) * (both + down) * type.Size(), both, down);
    }

    /// <summary>A rank as it is stored: a multiple of 8.</summary>
    private static int Padded(int rank) => (rank + 7) / 8 * 8;

    private static ExpertSide Side(Tensor all, int first)
    {
        var stride = all.Dim(1) * all.Width;
        return new ExpertSide(all.Pointer + (nint)(first * stride * all.Type.Size()), stride, all.Width);
    }

    private static void Pad(Tensor source, Tensor target, int paddedRows, int firstRow, float scale) =>
        Program.Kernel(target.Gpu(), "pad_pair", target.Type == DType.F32 ? "-DTYPE=float" : "-DTYPE=bf16")
        .Launch((paddedRows, source.Dim(0)), target.Width >= 128 ? 128 : 32, source.Pointer, target.Pointer, (int)source.Dim(1), source.Width, paddedRows,
            target.Width, (int)target.Dim(1), firstRow, scale);
}
