using KtNotebooks.Autograd;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// Forward passes of stages that wait on one device for their backward pass, so that nothing of them is computed again. Backward meets the newest first, so
/// the oldest are given up where the budget is used up, or where the device has no room for something that cannot be made again.
/// </summary>
/// <param name="device">Whose memory counts.</param>
/// <param name="budget">Bytes.</param>
internal sealed class KeptPasses(Device device, long budget) : IDisposable
{
    private readonly Lock _gate = new();
    private readonly List<(int Stage, int From, KeptPass Pass, long Bytes)> _passes = [];
    private long _bytes;

    /// <summary>How many passes backward found, of all that it asked for.</summary>
    public int Found { get; private set; }

    /// <summary>Owns a pass until it is taken or given up.</summary>
    /// <param name="stage">Of the model.</param>
    /// <param name="from">Its first row in the window.</param>
    /// <param name="pass">Of those rows.</param>
    public void Keep(int stage, int from, KeptPass pass)
    {
        var bytes = pass.BytesOn(device);
        lock (_gate)
        {
            _passes.Add((stage, from, pass, bytes));
            _bytes += bytes;
            while (_bytes > budget && GiveUp())
            {
            }
        }
    }

    /// <summary>The caller's from now on; null: it is to be computed again.</summary>
    public KeptPass? Take(int stage, int from)
    {
        lock (_gate)
        {
            var at = _passes.FindLastIndex(p => p.Stage == stage && p.From == from);
            if (at < 0) return null;
            Found++;
            return Remove(at);
        }
    }

    /// <summary>Frees the oldest; false: there is none.</summary>
    public bool GiveUp()
    {
        lock (_gate)
        {
            if (_passes.Count == 0) return false;
            Remove(0).Dispose();
            return true;
        }
    }

    public void Dispose()
    {
        while (GiveUp())
        {
        }
    }

    private KeptPass Remove(int at)
    {
        var (_, _, pass, bytes) = _passes[at];
        _passes.RemoveAt(at);
        _bytes -= bytes;
        return pass;
    }
}

/// <summary>Rows of a stage that went forward under a tape.</summary>
internal sealed class KeptPass : IDisposable
{
    private readonly Tape _tape;
    private readonly Tensor _rows;

    private KeptPass(Tape tape, Tensor rows, Tensor value) => (_tape, _rows, Value) = (tape, rows, value);

    /// <summary>The stage's output [T, D].</summary>
    public Tensor Value { get; }

    /// <summary>Sends rows [T, D] through a stage, and takes them over.</summary>
    public static KeptPass Of(Stage stage, Tensor rows, Pass pass)
    {
        var tape = Tape.Record();
        try
        {
            rows.RequiresGrad = true;
            var value = stage.Forward(rows, pass);
            tape.Suspend();
            return new KeptPass(tape, rows, value);
        }
        catch
        {
            tape.Dispose();
            rows.Dispose();
            throw;
        }
    }

    public long BytesOn(Device device) => _tape.BytesOn(device);

    /// <summary>The gradient of the rows for that of the output, [T, D]; parameter gradients are added on the way.</summary>
    public Tensor Backward(Tensor dValue)
    {
        _tape.Backward(Value, dValue);
        return _rows.Grad!;
    }

    public void Dispose()
    {
        _tape.Dispose();
        _rows.Dispose();
    }
}
