using System.Numerics.Tensors;

namespace KtNotebooks.Lora;

/// <summary>One half of a low-rank pair as some file stores it.</summary>
/// <param name="File">The file.</param>
/// <param name="Source">Its name there.</param>
/// <param name="Type">How it is stored, for messages.</param>
/// <param name="Shape">A [r, in] or B [out, r].</param>
/// <param name="Stored">The values as F32, as they are.</param>
public sealed record AdapterTensor(string File, string Source, string Type, long[] Shape, Func<float[]> Stored)
{
    /// <summary>The largest value taken. Trained ones end far below; a product of two that are much larger leaves F32.</summary>
    private const float Largest = 1e6f;

    /// <summary>Its type is one that holds plain numbers.</summary>
    public bool IsReadable => Type is "F32" or "BF16" or "F16" or "Q8_0";

    /// <summary>The values as F32.</summary>
    /// <exception cref="InvalidDataException">A type that does not hold plain numbers, or a value that is no number or far too large.</exception>
    public float[] Read()
    {
        if (!IsReadable) throw new InvalidDataException($"{File}: tensor '{Source}' is {this}; the types of an adapter are F32, BF16, F16 and, in GGUF, Q8_0");
        var values = Stored();
        if (values.Length == 0 || Math.Abs(TensorPrimitives.MaxMagnitude<float>(values)) <= Largest) return values;
        var at = Array.FindIndex(values, v => !(Math.Abs(v) <= Largest));
        throw new InvalidDataException($"{File}: tensor '{Source}' holds {values[at]} at [{at / Shape[^1]}, {at % Shape[^1]}]; values of an adapter " +
            $"lie between ±{Largest:N0}: its training went wrong or the file is damaged; take an earlier checkpoint");
    }

    public override string ToString() => $"{Type}[{string.Join(", ", Shape)}]";
}
