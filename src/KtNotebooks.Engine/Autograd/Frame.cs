namespace KtNotebooks.Autograd;

/// <summary>One call of an op and, when recorded, one entry of the tape: what went in, what came out, what backward needs. No closures.</summary>
public sealed class Frame(Tensor[] inputs, Tensor[] outputs, params Tensor[] saved)
{
    public Op Op { get; internal set; } = null!;

    public Tensor[] Inputs { get; } = inputs;

    public Tensor[] Outputs { get; } = outputs;

    /// <summary>Made by the forward for the backward alone.</summary>
    public Tensor[] Saved { get; } = saved;

    /// <summary>The same of an op that keeps more than a few tensors, in a type of its own; owned by this frame.</summary>
    public FrameState? State { get; init; }

    /// <summary>Does input i need a gradient? With LoRA nearly all weights are frozen: computing theirs would dominate.</summary>
    public bool Needs(int i) => i < Inputs.Length && Inputs[i].RequiresGrad;

    internal void FreeSaved()
    {
        foreach (var tensor in Saved) tensor.Dispose();
        State?.Dispose();
    }
}

/// <summary>What an op keeps for its backward pass beside a few tensors.</summary>
public abstract class FrameState : IDisposable
{
    /// <summary>All that it keeps.</summary>
    internal abstract IEnumerable<Tensor> Tensors { get; }

    public abstract void Dispose();
}
