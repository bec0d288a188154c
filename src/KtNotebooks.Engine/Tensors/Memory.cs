using System.Runtime.InteropServices;

namespace KtNotebooks.Tensors;

/// <summary>Allocation, clearing and copying, by device: the one place that knows where bytes live.</summary>
public static unsafe class Memory
{
    public static Buffer Allocate(Device device, long byteLength) => device.Kind switch
    {
        DeviceKind.Cpu => HostBuffer.Allocate(byteLength),
        DeviceKind.Meta => new MetaBuffer(byteLength),
        _ => CudaBuffer.Allocate(device, byteLength),
    };

    public static void Clear(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Device.Kind == DeviceKind.Meta) return;
        if (tensor.Device.Kind == DeviceKind.Cuda) tensor.Gpu().Clear(tensor.Pointer, tensor.ByteLength);
        else NativeMemory.Clear((void*)tensor.Pointer, (nuint)tensor.ByteLength);
    }

    /// <summary>
    /// Copies all bytes; same type and count, any shapes, any two devices. Waits only where the target is host memory, which may be read next.
    /// </summary>
    public static void Copy(Tensor source, Tensor target)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(target);
        if (source.Type != target.Type || source.Count != target.Count) throw new ArgumentException($"[Copy] {source} does not fit {target}");
        if (target.Device.Kind == DeviceKind.Meta) return;
        if (source.Visiting is { } visitor && target.Device.Kind == DeviceKind.Cpu)
        {
            NativeMemory.Copy((void*)(visitor.Home + (nint)source.Home.Offset), (void*)target.Pointer, (nuint)source.ByteLength);
            return;
        }
        if (!source.IsInRows && target.Device.Kind == DeviceKind.Cpu)
        {
            source.Bring(target.Pointer);
            return;
        }
        var (from, to, bytes) = (source.Pointer, target.Pointer, source.ByteLength);
        switch (source.Device.Kind, target.Device.Kind)
        {
            case (DeviceKind.Cpu, DeviceKind.Cpu): NativeMemory.Copy((void*)from, (void*)to, (nuint)bytes); break;
            case (DeviceKind.Cpu, DeviceKind.Cuda): target.Gpu().Write(to, (void*)from, bytes); break;
            case (DeviceKind.Cuda, DeviceKind.Cpu): source.Gpu().Read((void*)to, from, bytes); break;
            case var _ when source.Device == target.Device: source.Gpu().Copy(to, from, bytes); break;
            default: target.Gpu().CopyFrom(source.Gpu(), to, from, bytes); break;
        }
    }

    /// <summary>Several copies; from a card to the host, the host waits once.</summary>
    internal static void Copy(Tensor[] sources, Tensor[] targets)
    {
        if (sources.Length > 1 && sources[0].Device.Kind == DeviceKind.Cuda && targets.All(t => t.Device.Kind == DeviceKind.Cpu))
        {
            sources[0].Gpu().Read([.. sources.Zip(targets, (s, t) => (t.Pointer, s.Pointer, s.ByteLength))]);
            return;
        }
        for (var i = 0; i < sources.Length; i++) Copy(sources[i], targets[i]);
    }

    /// <summary>I32 [n] on a device; the values may change afterwards.</summary>
    public static Tensor Place(ReadOnlySpan<int> values, Device device) => Place(values, DType.I32, device);

    /// <summary>I64 [n] on a device; the values may change afterwards.</summary>
    public static Tensor Place(ReadOnlySpan<long> values, Device device) => Place(values, DType.I64, device);

    /// <summary>F32 [n] on a device; the values may change afterwards.</summary>
    public static Tensor Place(ReadOnlySpan<float> values, Device device) => Place(values, DType.F32, device);

    /// <summary>A tensor in host memory with the same values in rows: an alias where it is there already.</summary>
    public static Tensor ToHost(this Tensor tensor) => tensor.To(Device.Cpu);

    public static Tensor To(this Tensor tensor, Device device)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Device == device) return tensor.IsInRows ? tensor.Alias() : tensor.Clone();
        var copy = Tensor.Empty(tensor.Type, device, tensor.Shape);
        Copy(tensor, copy);
        return copy;
    }

    /// <summary>The same values in another float type, on the same device: an alias where nothing changes.</summary>
    public static Tensor To(this Tensor tensor, DType type)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (tensor.Type == type) return tensor.IsInRows ? tensor.Alias() : tensor.Clone();
        var copy = Tensor.Empty(type, tensor.Device, tensor.Shape);
        if (copy.Device.Kind == DeviceKind.Meta) return copy;
        if (tensor.Device.Kind == DeviceKind.Cuda)
        {
            DeviceMath.Convert(tensor, copy);
            return copy;
        }
        using var rows = tensor.ToHost();
        var scratch = new float[rows.Width];
        for (long row = 0; row < rows.Rows; row++) FloatRows.Store(copy, row, FloatRows.Load(rows, row, scratch));
        return copy;
    }

    /// <summary>An independent copy on the same device.</summary>
    public static Tensor Clone(this Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        var copy = Tensor.Empty(tensor.Type, tensor.Device, tensor.Shape);
        Copy(tensor, copy);
        return copy;
    }

    private static Tensor Place<T>(ReadOnlySpan<T> values, DType type, Device device)
        where T : unmanaged
    {
        var tensor = Tensor.Empty(type, device, values.Length);
        if (device.Kind == DeviceKind.Cpu) values.CopyTo(tensor.Span<T>());
        else if (device.Kind == DeviceKind.Cuda)
            fixed (T* source = values) tensor.Gpu().Write(tensor.Pointer, source, tensor.ByteLength);
        return tensor;
    }
}
