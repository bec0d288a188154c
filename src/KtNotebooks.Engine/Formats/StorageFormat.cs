using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Formats;

/// <summary>
/// How the matrices of an expert bank are stored. A format is an object and a file: its tensors' types and shapes, its definition (a row, element by
/// element), how it is quantized, its words in checkpoints and configs, its CUDA text. Rules, settings, conversion and program list <see cref="All"/>; the
/// native code is the case of <see cref="Code"/> in formats.h. In a low-bit format an element is code · scale in F32, rounded once to the type of the rows
/// that it meets; few rows on the CPU meet the codes themselves, and sums are scaled (experts_few.cpp), which rounds less.
/// </summary>
[JsonConverter(typeof(StorageFormatJson))]
public abstract unsafe class StorageFormat
{
    private readonly Lazy<CudaProgram> _program;

    private protected StorageFormat(string name, int code, DType data, DType? scales = null)
    {
        (Name, Code, DataType, _scaleType) = (name, code, data, scales);
        _program = new(() => new CudaProgram("Dequantize_" + Name, Text));
    }

    private readonly DType? _scaleType;

    public static StorageFormat F32 { get; } = new F32Format();

    public static StorageFormat BF16 { get; } = new Bf16Format();

    public static StorageFormat Fp8 { get; } = new Fp8Format();

    public static StorageFormat Int8 { get; } = new Int8Format();

    public static StorageFormat Int4 { get; } = new Int4Format();

    public static StorageFormat Mxfp4 { get; } = new Mxfp4Format();

    /// <summary>The registry, in the order of <see cref="Code"/>.</summary>
    public static IReadOnlyList<StorageFormat> All { get; } = [F32, BF16, Fp8, Int8, Int4, Mxfp4];

    /// <summary>The names that configs use.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. All.Select(f => f.Name)];

    /// <summary>The names of what a bank of a model may be asked to be: all but f32, which is for tests and teaching.</summary>
    public static string[] BankNames { get; } = [.. Names.Where(n => n != F32.Name)];

    /// <summary>In configs, rules and the program.</summary>
    public string Name { get; }

    /// <summary>Its number in kt.h.</summary>
    internal int Code { get; }

    /// <summary>Type of the data tensor.</summary>
    public DType DataType { get; }

    /// <summary>Has scales beside its codes.</summary>
    public bool IsLowBit => _scaleType is not null;

    /// <summary>Type of the scales tensor.</summary>
    /// <exception cref="InvalidOperationException">Not a low-bit format.</exception>
    public DType ScaleType => _scaleType ?? throw new InvalidOperationException($"[StorageFormat] {Name} has no scales");

    /// <summary>Shape of the data tensor of a matrix [n, k].</summary>
    public virtual long[] DataShape(long n, long k) => [n, k];

    /// <summary>Shape of the scales tensor of a matrix [n, k].</summary>
    public virtual long[] ScaleShape(long n, long k) => throw new InvalidOperationException($"[StorageFormat] {Name} has no scales");

    /// <summary>Rows and columns of the elements of a matrix with k columns that share a scale.</summary>
    public virtual (int Rows, int Columns) ScaledBlock(long k) => throw new InvalidOperationException($"[StorageFormat] {Name} has no scales");

    /// <summary>Why a matrix with rows of k elements cannot have this format; null when it can.</summary>
    public virtual string? Refusal(long k) => null;

    /// <summary>Bytes of a matrix [n, k], scales included.</summary>
    public long Bytes(long n, long k, bool withScales = true) =>
        Product(DataShape(n, k)) * DataType.Size() + (IsLowBit && withScales ? Product(ScaleShape(n, k)) * ScaleType.Size() : 0);

    /// <summary>How checkpoints hold a matrix of this format; null: none does, it is made when a model is loaded.</summary>
    internal virtual StoredForm? Stored => null;

    /// <summary>quantization_config.quant_method of such checkpoints.</summary>
    internal virtual string? QuantMethod => null;

    /// <summary>Whether a quantization_config of this method describes exactly this format.</summary>
    internal virtual bool Describes(JsonElement config) => false;

    /// <summary>What of the method is read, for a config that says something else.</summary>
    internal virtual string Understood => "";

    /// <summary>A quantization_config, as the makers of such checkpoints write it; null where there is none.</summary>
    public virtual string? Config => null;

    /// <summary>Standard deviation of an element without its scale when the bits of the data are drawn at random (benchmarks' weights).</summary>
    internal virtual float RandomDeviation => throw new InvalidOperationException($"[StorageFormat] {Name} has no codes");

    /// <summary>The type and the device functions that Formats/Codes.cu asks of a format.</summary>
    private protected abstract string Cuda { get; }

    private string Text => string.Concat(CudaProgram.Resource("Formats.Codes.cu"), Cuda, CudaProgram.Resource("Formats.Dequantize.cu"));

    /// <summary>The format of a tensor that is a matrix by itself.</summary>
    /// <exception cref="ArgumentException">No matrix is stored as this type.</exception>
    public static StorageFormat Of(DType type) => All.FirstOrDefault(f => f.DataType == type && type != DType.U8)
        ?? throw new ArgumentException($"[Matrices] no matrix is stored as {type}");

    /// <exception cref="ArgumentException">Not one of <see cref="Names"/>.</exception>
    public static StorageFormat Parse(string name) => All.FirstOrDefault(f => f.Name == name)
        ?? throw new ArgumentException($"a format must be one of {string.Join(", ", Names)}, but is '{name}'");

    public override string ToString() => Name;

    /// <summary>The definition: one row of a matrix, element by element.</summary>
    internal abstract void DequantizeRow(Tensor data, Tensor? scales, long row, Span<float> target);

    /// <summary>
    /// The whole matrix [n, k] as a new tensor of <paramref name="type"/>, F32 or BF16; rows in parallel. The native kernels and the managed loop give the
    /// same bits.
    /// </summary>
    public Tensor Dequantize(Tensor data, Tensor scales, long n, long k, DType type)
    {
        ArgumentNullException.ThrowIfNull(data);
        ArgumentNullException.ThrowIfNull(scales);
        var target = Tensor.Empty(type, n, k);
        RowParallel.For(n, k,
            (first, last) => DequantizeRows(data, scales, k, first, last - first, (void*)(target.Pointer + (nint)(first * k * type.Size())), type));
        return target;
    }

    /// <summary>Rows [row, row + rows) to memory of F32 or BF16, on the calling thread.</summary>
    internal void DequantizeRows(Tensor data, Tensor scales, long k, long row, long rows, void* target, DType type)
    {
        if (Interop.Cpu.IsNative)
        {
            Native.Ok(Native.kt_dequantize(Code, (void*)data.Pointer, (void*)scales.Pointer, k, row, rows, target,
                type == DType.BF16 ? Native.BF16 : Native.F32));
            return;
        }
        var width = checked((int)k);
        var scratch = type == DType.BF16 ? new float[width] : [];
        for (long i = 0; i < rows; i++)
        {
            var floats = type == DType.BF16 ? scratch : new Span<float>((float*)target + (i * k), width);
            DequantizeRow(data, scales, row + i, floats);
            if (type == DType.BF16) Bf16.Narrow(floats, new Span<ushort>((ushort*)target + (i * k), width));
        }
    }

    /// <summary>
    /// target [experts, N, K] F32 or BF16, on a card = the matrices whose data (and scales) of the first expert lie at these addresses, the next expert's
    /// <paramref name="expertBytes"/> on. Memory-bound: reads the stored bytes and writes N · K elements an expert.
    /// </summary>
    internal void DequantizeOnGpu(nint data, nint scales, long expertBytes, Tensor target)
    {
        const int Block = 256;
        int experts = (int)target.Dim(0), n = (int)target.Dim(1), k = target.Width;
        var pieces = (long)n * ((k + 7) / 8);
        _program.Value.Kernel(target.Gpu(), "dequantize", target.Type == DType.BF16 ? "-DTYPE=bf16" : "-DTYPE=float")
            .Launch(((pieces + Block - 1) / Block, experts), Block, data, scales, expertBytes, target.Pointer, n, k);
    }

    /// <summary>
    /// A program of kernels that read matrices of this format by `dequantize8`: its text, then the given one, then a file's. ROUNDED: elements are to be
    /// rounded to the type of the rows.
    /// </summary>
    internal CudaProgram Kernels(string name, string text, string file) =>
        new($"{name}_{Name}", string.Concat($"#define ROUNDED {(IsLowBit ? 1 : 0)}\n", Text, text, CudaProgram.Resource(file)));

    /// <summary>The nearest codes of a matrix [N, K], F32 or BF16 in host memory, and their scales; rows in parallel.</summary>
    /// <exception cref="ArgumentException">K does not suit the format, or it has no codes.</exception>
    public (Tensor Data, Tensor Scales) Quantize(Tensor source)
    {
        ArgumentNullException.ThrowIfNull(source);
        var (n, k) = (source.Dim(0), source.Width);
        if (!IsLowBit) throw new ArgumentException($"{Name} is not a low-bit format");
        if (Refusal(k) is { } refusal) throw new ArgumentException(refusal);
        var (data, scales) = (Tensor.Empty(DataType, DataShape(n, k)), Tensor.Empty(ScaleType, ScaleShape(n, k)));
        var band = ScaledBlock(k).Rows;
        RowParallel.For((n + band - 1) / band, (long)band * k, (first, last) =>
        {
            var values = new float[band * k];
            for (var b = first; b < last; b++)
            {
                var rows = (int)Math.Min(band, n - (b * band));
                for (var i = 0; i < rows; i++)
                {
                    var target = values.AsSpan(i * k, k);
                    var row = FloatRows.Load(source, (b * band) + i, target);
                    if (!row.Overlaps(target)) row.CopyTo(target);
                }
                QuantizeBand(values.AsSpan(0, rows * k), rows, b, data, scales);
            }
        });
        return (data, scales);
    }

    /// <summary>values [rows, K]: the rows of a matrix that share scales, from row <paramref name="band"/> · ScaledBlock.Rows on.</summary>
    private protected virtual void QuantizeBand(ReadOnlySpan<float> values, int rows, long band, Tensor data, Tensor scales) =>
        throw new InvalidOperationException($"[StorageFormat] {Name} is not a low-bit format");

    /// <summary>Makes every scale the nearest to one value.</summary>
    internal virtual void FillScales(Tensor scales, float value) => scales.Store(Enumerable.Repeat(value, checked((int)scales.Count)).ToArray());

    /// <summary>Of numbers that are all zero any scale will do.</summary>
    private protected static float ScaleOf(float scale) => scale == 0 ? 1 : scale;

    private static long Product(long[] shape) => shape.Aggregate(1L, (product, dim) => product * dim);
}

/// <summary>How a checkpoint holds the low-bit matrix `X` (`….weight`): the names, types and shapes of its parts.</summary>
/// <param name="Data">The data tensor is called X + this.</param>
/// <param name="DataType">Its type.</param>
/// <param name="ElementsEach">How many elements of a row one of its elements holds: [N, K / this].</param>
/// <param name="Scales">The scales tensor is called X + this; shaped as <see cref="StorageFormat.ScaleShape"/> says.</param>
/// <param name="ScaleTypes">Types that it comes in; what is not the format's own is widened, which is exact.</param>
/// <param name="Shape">Where there is one, the tensor X + this holds N and K.</param>
internal sealed record StoredForm(string Data, DType DataType, int ElementsEach, string Scales, DType[] ScaleTypes, string? Shape = null);
