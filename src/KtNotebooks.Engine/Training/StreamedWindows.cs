using KtNotebooks.Data;
using KtNotebooks.Nn;
using KtNotebooks.Training.Objectives;

namespace KtNotebooks.Training;

/// <summary>Windows of rows as they are read. Step s always has the same rows: a run that goes on reads again what it has learned, and is there.</summary>
/// <param name="stream">The rows.</param>
/// <param name="batch">Rows of a micro-batch.</param>
/// <param name="accumulation">Micro-batches of a window.</param>
/// <param name="steps">max_steps.</param>
/// <param name="reduction">Of the loss.</param>
/// <param name="objective">Says what a mean is over.</param>
public sealed class StreamedWindows(RowStream stream, int batch, int accumulation, int steps, LossReduction reduction, ITrainingObjective objective)
    : IWindowSource, IDisposable
{
    private IEnumerator<EncodedExample>? _rows;
    private int _step = -1;
    private EncodedExample[] _window = [];

    /// <summary>A token beyond it is an error that names the row.</summary>
    public int Vocabulary { get; set; } = int.MaxValue;

    public int TotalSteps => steps;

    /// <summary>How often all rows are seen is not known before.</summary>
    public int Epochs => 1;

    public int BatchSize => batch;

    /// <summary>The rows of step 0.</summary>
    public IReadOnlyList<EncodedExample> First => Rows(0, CancellationToken.None);

    public (TokenBatch Batch, double Epoch) At(int step, CancellationToken cancel = default) =>
        (ExampleWindows.Batch(Rows(step, cancel), batch, reduction, objective), (step + 1.0) / steps);

    public void Dispose() => _rows?.Dispose();

    private EncodedExample[] Rows(int step, CancellationToken cancel)
    {
        if (step < _step)
        {
            _rows?.Dispose();
            (_rows, _step) = (null, -1);
        }
        _rows ??= stream.Rows().GetEnumerator();
        for (; _step < step; _step++)
        {
            cancel.ThrowIfCancellationRequested(); // a run that goes on reads again what it has learned
            _window = new EncodedExample[batch * accumulation];
            for (var i = 0; i < _window.Length; i++)
            {
                _rows.MoveNext();
                _window[i] = Checked(_rows.Current);
            }
        }
        return _window;
    }

    private EncodedExample Checked(EncodedExample row)
    {
        foreach (var id in row.Ids)
            if (id >= Vocabulary)
                throw new InvalidDataException($"{row.Source}: has token {id}, but the model's vocabulary ends at {Vocabulary - 1}");
        return row;
    }
}
