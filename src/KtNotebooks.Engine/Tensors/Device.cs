namespace KtNotebooks.Tensors;

public enum DeviceKind
{
    Cpu,
    Cuda,

    /// <summary>
    /// Nowhere: a tensor of a shape and a type, without memory. What a model would hold is asked of the model itself, built from such tensors.
    /// </summary>
    Meta,
}

/// <summary>Where a tensor's bytes are and where ops on it run: `cpu` or `cuda:N`.</summary>
public readonly record struct Device(DeviceKind Kind, int Index)
{
    public static Device Cpu => new(DeviceKind.Cpu, 0);

    public static Device Meta => new(DeviceKind.Meta, 0);

    public static Device Cuda(int index = 0) => new(DeviceKind.Cuda, index);

    /// <exception cref="ArgumentException">Not `cpu`, `cuda` or `cuda:N`.</exception>
    public static Device Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        if (text == "cpu") return Cpu;
        if (text == "cuda") return Cuda();
        if (text.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(text.AsSpan(5), out var index) && index >= 0) return Cuda(index);
        throw new ArgumentException($"device '{text}' is not known; write cpu, cuda or cuda:N");
    }

    public override string ToString() => Kind switch
    {
        DeviceKind.Cpu => "cpu",
        DeviceKind.Meta => "meta",
        _ => $"cuda:{Index}",
    };
}
