using KtNotebooks.Tensors;

namespace KtNotebooks.Autograd;

/// <summary>
/// The list of calls in recording order, and the owner of every tensor made while it is the current one. <see cref="Record"/> remembers calls for
/// <see cref="Backward"/>; <see cref="Scratch"/> only owns, for forward passes without gradients. Disposing frees all that was not kept.
/// </summary>
public sealed class Tape : IDisposable
{
    private static readonly AsyncLocal<Tape?> CurrentTape = new();
    private readonly List<Frame> _frames = [];
    private readonly HashSet<Tensor> _owned = new(ReferenceEqualityComparer.Instance);
    private readonly Tape? _outer;
    private bool _recording, _isCurrent = true;

    private Tape(bool recording)
    {
        _recording = recording;
        _outer = CurrentTape.Value;
        CurrentTape.Value = this;
    }

    /// <summary>Calls recorded so far and not yet walked back.</summary>
    public IReadOnlyList<Frame> Frames => _frames;

    public static Tape Record() => new(recording: true);

    public static Tape Scratch() => new(recording: false);

    /// <summary>Takes a tensor out of this tape's hands: the caller disposes it.</summary>
    public Tensor Keep(Tensor tensor)
    {
        _owned.Remove(tensor);
        return tensor;
    }

    /// <summary>Hands a tensor to the current tape, or to the finalizer where there is none. Returns it.</summary>
    public static Tensor Own(Tensor tensor)
    {
        CurrentTape.Value?._owned.Add(tensor);
        return tensor;
    }

    /// <summary>
    /// Walks back from <paramref name="output"/> with its gradient (null: 1 for a scalar) and adds into <see cref="Tensor.Grad"/> of every leaf that
    /// requires one. Each entry's outputs and saved tensors are freed as it is passed.
    /// </summary>
    public void Backward(Tensor output, Tensor? dOutput = null)
    {
        ArgumentNullException.ThrowIfNull(output);
        if (dOutput is null && output.Count != 1) throw new ArgumentException($"[Tape] backward from {output} needs its gradient; only a scalar starts from 1");
        _recording = false;
        var gradients = new Dictionary<Tensor, Tensor>(ReferenceEqualityComparer.Instance);
        var produced = new HashSet<Tensor>(ReferenceEqualityComparer.Instance);
        foreach (var frame in _frames) produced.UnionWith(frame.Outputs);
        using (var scope = Scratch()) // what gradient ops make and drop is freed here
        {
            gradients[output] = dOutput is null ? scope.Keep(One(output)) : dOutput.Alias();
            for (var i = _frames.Count - 1; i >= 0; i--)
            {
                StepBack(_frames[i], gradients, produced, scope);
                scope.FreeOwned();
                Free(_frames[i]);
            }
        }
        _frames.Clear();
        foreach (var rest in gradients.Values) rest.Dispose();
    }

    /// <summary>Ends the recording and keeps what it has: <see cref="Backward"/> may be asked for at any time until it is disposed.</summary>
    internal void Suspend()
    {
        _recording = false;
        Leave();
    }

    /// <summary>Bytes on a device that <see cref="Dispose"/> gives back, as far as nobody else holds them.</summary>
    internal long BytesOn(Device device)
    {
        HashSet<Tensors.Buffer> buffers = new(ReferenceEqualityComparer.Instance);
        foreach (var tensor in _owned.Concat(_frames.SelectMany(f => f.Saved.Concat(f.State?.Tensors ?? []))))
            if (tensor.Device == device) buffers.Add(tensor.Home.Buffer);
        return buffers.Sum(b => b.ByteLength);
    }

    public void Dispose()
    {
        Leave();
        foreach (var frame in _frames) frame.FreeSaved();
        _frames.Clear();
        FreeOwned();
    }

    /// <summary>Called by Op.Run after the kernel: hands over ownership, records when a gradient can be asked for.</summary>
    internal static void Note(Frame frame)
    {
        if (CurrentTape.Value is not { } tape)
        {
            frame.FreeSaved();
            return;
        }
        foreach (var output in frame.Outputs) tape._owned.Add(output);
        var needs = false;
        if (tape._recording)
            foreach (var input in frame.Inputs) needs |= input.RequiresGrad;
        if (!needs)
        {
            frame.FreeSaved();
            return;
        }
        foreach (var output in frame.Outputs) output.RequiresGrad = output.Type.IsFloat();
        tape._frames.Add(frame);
    }

    private void Leave()
    {
        if (_isCurrent) CurrentTape.Value = _outer;
        _isCurrent = false;
    }

    private static Tensor One(Tensor like)
    {
        using var host = Tensor.From([1f], like.Type, like.Shape);
        return host.To(like.Device);
    }

    private static void StepBack(Frame frame, Dictionary<Tensor, Tensor> gradients, HashSet<Tensor> produced, Tape scope)
    {
        var dOut = new Tensor?[frame.Outputs.Length];
        var any = false;
        for (var i = 0; i < dOut.Length; i++)
            if (gradients.Remove(frame.Outputs[i], out dOut[i])) any = true;
        if (!any) return;
        var dIn = frame.Op.Backward(frame, dOut);
        if (dIn.Length != frame.Inputs.Length)
            throw new InvalidOperationException($"[{frame.Op.Name}] backward gave {dIn.Length} gradients for {frame.Inputs.Length} inputs");
        foreach (var d in dOut) d?.Dispose();
        for (var i = 0; i < dIn.Length; i++)
        {
            if (dIn[i] is not { } gradient) continue;
            if (!frame.Needs(i))
            {
                gradient.Dispose();
                continue;
            }
            var input = frame.Inputs[i];
            if (!gradient.HasShape(input.Shape))
                throw new InvalidOperationException($"[{frame.Op.Name}] gradient {gradient} of input {i} does not have the shape of {input}");
            scope.Keep(gradient);
            if (produced.Contains(input)) gradients[input] = gradients.TryGetValue(input, out var sum) ? Sum(sum, gradient) : gradient;
            else input.Grad = input.Grad is { } total ? Sum(total, gradient) : gradient;
        }
    }

    /// <summary>total + gradient, in place where nobody else looks at total. Takes over both.</summary>
    private static Tensor Sum(Tensor total, Tensor gradient)
    {
        if (!total.IsUnique)
        {
            var own = total.Clone();
            total.Dispose();
            total = own;
        }
        GradientSum.AddInto(total, gradient);
        gradient.Dispose();
        return total;
    }

    private void Free(Frame frame)
    {
        frame.FreeSaved();
        foreach (var output in frame.Outputs)
            if (_owned.Remove(output)) output.Dispose();
    }

    private void FreeOwned()
    {
        foreach (var tensor in _owned) tensor.Dispose();
        _owned.Clear();
    }
}
