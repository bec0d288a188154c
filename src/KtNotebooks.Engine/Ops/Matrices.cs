using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

/// <summary>
/// E matrices of one shape [N, K] and type, one an expert: a stacked tensor [E, N, K] (what is trained), or a tensor each (a checkpoint's memory-mapped
/// experts, which are never copied together). A dense layer is the case E = 1.
/// </summary>
public readonly struct Matrices
{
    private readonly Tensor? _stacked;
    private readonly Tensor[]? _each;

    private Matrices(Tensor? stacked, Tensor[]? each, int count, int n, int k)
    {
        _stacked = stacked;
        _each = each;
        Count = count;
        N = n;
        K = k;
    }

    /// <summary>E.</summary>
    public int Count { get; }

    /// <summary>Rows of each.</summary>
    public int N { get; }

    /// <summary>Columns of each.</summary>
    public int K { get; }

    public DType Type => Any.Type;

    private Tensor Any => _stacked ?? _each![0];

    /// <summary>The trained form, or null.</summary>
    public Tensor? Stacked => _stacked;

    public static Matrices One(Tensor matrix) => new(null, [matrix], 1, checked((int)matrix.Dim(0)), matrix.Width);

    public static Matrices Stack(Tensor stacked) => new(stacked, null, checked((int)stacked.Dim(0)), checked((int)stacked.Dim(1)), stacked.Width);

    /// <exception cref="ArgumentException">The tensors differ in shape or type.</exception>
    public static Matrices Each(Tensor[] matrices)
    {
        ArgumentNullException.ThrowIfNull(matrices);
        var first = matrices[0];
        foreach (var m in matrices)
            if (m.Type != first.Type || !m.HasShape(first.Shape)) throw new ArgumentException($"[Matrices] all experts must be like {first}, but one is {m}");
        return new Matrices(null, matrices, matrices.Length, checked((int)first.Dim(0)), first.Width);
    }

    /// <summary>Frees the tensors of the unstacked form.</summary>
    public void DisposeEach()
    {
        foreach (var matrix in _each ?? []) matrix.Dispose();
    }

    internal nint Pointer(int e) => _stacked is { } all ? (nint)(all.Pointer + ((long)e * N * K * all.Type.Size())) : _each![e].Pointer;

    internal void Pointers(Span<nint> target)
    {
        for (var e = 0; e < Count; e++) target[e] = Pointer(e);
    }

    /// <summary>A view on matrix e; the caller disposes it.</summary>
    public Tensor this[int e]
    {
        get
        {
            if (_stacked is null) return _each![e].Alias();
            using var slice = _stacked.Slice(e, 1);
            return slice.View(N, K);
        }
    }
}
