namespace KtNotebooks.Tensors;

/// <summary>Element types, named as safetensors names them. Engine arithmetic happens on F32 and BF16 (sums always in F32); indices are I32.</summary>
public enum DType
{
    F32,
    BF16,
    I32,
    F16,
    F8E4M3,
    I8,
    U8,
    I64,
    F64,
}

public static class DTypes
{
    /// <summary>Bytes of one element.</summary>
    public static int Size(this DType type) => type switch
    {
        DType.F64 or DType.I64 => 8,
        DType.F32 or DType.I32 => 4,
        DType.BF16 or DType.F16 => 2,
        _ => 1,
    };

    public static bool IsFloat(this DType type) => type is DType.F32 or DType.BF16;
}
