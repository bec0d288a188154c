namespace KtNotebooks.Training;

/// <summary>When something is due during a run of so many steps.</summary>
internal sealed class Occasions
{
    private readonly When _when;
    private readonly int _last;

    /// <param name="when">Every so many steps, or at the end of each epoch, or not.</param>
    /// <param name="steps">Below 1: a share of all steps, rounded up as Hugging Face does; 0: never.</param>
    /// <param name="total">Steps of the run.</param>
    /// <param name="andLast">What goes by steps is due after the last one too, as Hugging Face's checkpoints are.</param>
    public Occasions(When when, double steps, int total, bool andLast = false)
    {
        _when = when == When.Steps && steps <= 0 ? When.No : when;
        Every = _when != When.Steps ? 0 : steps < 1 ? (int)Math.Ceiling(steps * total) : (int)steps;
        _last = andLast ? total : -1;
    }

    public bool Never => _when == When.No;

    /// <summary>0 where it does not go by steps.</summary>
    public int Every { get; }

    /// <summary>After so many steps, at this point of the epochs: a whole number at the end of one.</summary>
    public bool AreAt(int done, double epoch) =>
        _when switch { When.Steps => done % Every == 0 || done == _last, When.Epoch => epoch == Math.Floor(epoch), _ => false };
}
