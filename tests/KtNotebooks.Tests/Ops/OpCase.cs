using KtNotebooks.Tensors;

namespace KtNotebooks.Tests.Ops;

/// <summary>One input of a case: random floats (uniform, of unit variance times <paramref name="Scale"/>) or given whole numbers.</summary>
public sealed record Input(DType Type, long[] Shape, bool Trained = true, float Scale = 1, int[]? Ints = null, float[]? Floats = null)
{
    public static Input F32(params long[] shape) => new(DType.F32, shape);

    public static Input BF16(params long[] shape) => new(DType.BF16, shape);

    public static Input Of(DType type, params long[] shape) => new(type, shape);

    public static Input I32(int[] values, params long[] shape) => new(DType.I32, shape, Trained: false, Ints: values);

    public Input Frozen => this with { Trained = false };

    /// <summary>Codes or scales of a low-bit matrix: what they stand for is exact, so they say nothing about the precision of a case.</summary>
    public bool Stored { get; init; }

    /// <summary>Codes of a low-bit format: F8E4M3, I8, or U8 with two of 4 bits.</summary>
    public static Input Codes(DType type, params long[] shape) => new(type, shape, Trained: false) { Stored = true };

    /// <summary>Scales of a low-bit format, 0.5 to 1.5 times <paramref name="scale"/>.</summary>
    public static Input Scales(DType type, float scale, params long[] shape) =>
        new(type, shape, Trained: false,
            Floats: [.. Enumerable.Range(0, (int)shape.Aggregate(1L, (a, b) => a * b)).Select(i => scale * (0.5f + (i * 0.618f % 1)))])
        { Stored = true };

    public Tensor Make(Random random)
    {
        if (Ints is not null) return Tensor.From(Ints, Shape);
        if (Type.Size() == 1)
        {
            var codes = Tensor.Empty(Type, Shape);
            random.NextBytes(codes.Span<byte>());
            if (Type == DType.F8E4M3)
                foreach (ref var code in codes.Span<byte>()) code &= 0xBF; // |values| < 2: no NaN
            return codes;
        }
        var values = new float[Shape.Aggregate(1L, (a, b) => a * b)];
        for (var i = 0; i < values.Length; i++) values[i] = Floats?[i] ?? (float)((random.NextDouble() * 2) - 1) * Scale * 1.7320508f;
        return Tensor.From(values, Type, Shape);
    }
}

/// <summary>
/// One call of an op, to be asked all the questions of <see cref="OpHarness"/>.
/// </summary>
/// <param name="Op">The op's type; the first word of the case's name.</param>
/// <param name="Setting">What is particular about the case.</param>
/// <param name="Reduction">The longest chain of additions behind one output or gradient value.</param>
/// <param name="Inputs">What to call it with.</param>
/// <param name="Apply">Calls the op once on tensors made from <paramref name="Inputs"/>, all on one device.</param>
/// <param name="Hidden">A loss term whose gradient the op adds without it being an output (the router's balance term), from the host inputs.</param>
/// <param name="Together">Inputs that are trained all or none.</param>
public sealed record OpCase(Type Op, string Setting, int Reduction, Input[] Inputs, Func<Tensor[], Tensor[]> Apply, Func<Tensor[], double>? Hidden = null,
    int[]? Together = null)
{
    /// <summary>BF16 roundings between the inputs and a result besides its own: saved activations and partial sums kept in the stored type.</summary>
    public int Roundings { get; init; } = 1;

    /// <summary>Size of the terms where a result may cancel to nearly nothing; below the size of the results it does not matter.</summary>
    public float Terms { get; init; }

    /// <summary>False where a small step changes a choice: there is no slope to compare with.</summary>
    public bool Smooth { get; init; } = true;

    public string Name => $"{Op.Name} {Setting}";

    /// <summary>BF16 as soon as one input is: its rounding is then in every result.</summary>
    public DType Precision => Inputs.Any(i => i is { Type: DType.BF16, Stored: false }) ? DType.BF16 : DType.F32;

    public Tensor[] MakeInputs(int seed = 0)
    {
        // Not string.GetHashCode: it changes from run to run.
        var random = new Random(Name.Aggregate(17 + seed, (hash, c) => unchecked((hash * 31) + c)));
        return [.. Inputs.Select(i => i.Make(random))];
    }

    public override string ToString() => Name;
}
