using KtNotebooks.Training;

namespace KtNotebooks.Interactive;

/// <summary>
/// A training run while it runs: loss (raw and smoothed), evaluation loss, progress, learning rate, speed and time left, updated in place.
/// <code>
/// using (new TrainingView("identity, LoRA r = 8").Follow(run.Trainer)) run.Run(Cancel);
/// </code>
/// Not only `using`: <see cref="Dispose"/> (or <see cref="Finish"/>) sends the last state, also when the cell was interrupted.
/// </summary>
[TypeFormatterSource(typeof(ShowableFormatters), PreferredMimeTypes = [Chart.SvgType, Chart.PngType, "text/plain"])]
public sealed class TrainingView : IShowable, IDisposable
{
    private readonly Lock _state = new();
    private readonly List<double> _steps = [];
    private readonly List<double> _losses = [];
    private readonly List<double> _evalSteps = [];
    private readonly List<double> _evalLosses = [];
    private readonly string _title;
    private readonly LiveDisplay _display;
    private Action? _leave;
    private string _status = "waiting for the first step";
    private double _progress;

    public TrainingView(string title = "training loss", TimeSpan? interval = null, IDisplayHost? host = null, TimeProvider? time = null)
    {
        _title = title;
        _display = new(final => final ? Show() : Draw().Preview(), interval, host, time);
    }

    /// <summary>
    /// Shows a trainer's steps and evaluations until it is disposed: those that it has done, and those to come. So the picture is whole also where a run that
    /// was stopped goes on, or has ended.
    /// </summary>
    public TrainingView Follow(Trainer trainer)
    {
        ArgumentNullException.ThrowIfNull(trainer);
        foreach (var step in trainer.Steps) Update(step);
        foreach (var (step, loss) in trainer.Evaluations) UpdateEval(step, loss);
        trainer.OnStep += Update;
        trainer.OnEvaluation += UpdateEval;
        _leave += () =>
        {
            trainer.OnStep -= Update;
            trainer.OnEvaluation -= UpdateEval;
        };
        return this;
    }

    private void Update(StepReport s) =>
        Update(s.Step, s.TotalSteps, s.Loss, s.LearningRate, s.TokensPerSecond, s.Elapsed, s.Remaining, s.Metrics.Count > 0 ? s.Metrics : null);

    /// <summary>Adds one logged step. Returns at once; drawing happens elsewhere.</summary>
    /// <param name="step">Optimizer steps done.</param>
    /// <param name="total">Optimizer steps in the run.</param>
    /// <param name="loss">Mean loss of the step, in nats a token.</param>
    /// <param name="lr">Learning rate.</param>
    /// <param name="tokensPerSecond">Input tokens a second.</param>
    /// <param name="elapsed">Since the start of the run.</param>
    /// <param name="remaining">Estimated to its end.</param>
    /// <param name="metrics">What the stage reports beside the loss.</param>
    public void Update(int step, int total, double loss, double lr, double tokensPerSecond, TimeSpan elapsed, TimeSpan remaining,
        IReadOnlyDictionary<string, double>? metrics = null)
    {
        lock (_state)
        {
            _steps.Add(step);
            _losses.Add(loss);
            _progress = total > 0 ? (double)step / total : 0;
            var others = string.Concat((metrics ?? new Dictionary<string, double>()).Select(m => $" · {m.Key} {Ticks.Format(m.Value)}"));
            _status = $"step {step:#,0}/{total:#,0} · loss {Ticks.Format(loss)}{others} · lr {Ticks.Format(lr)} · {tokensPerSecond:#,0} tokens/s · "
                + $"{Durations.Text(elapsed)} elapsed, {Durations.Text(remaining)} left";
        }
        _display.Changed();
    }

    /// <summary>Adds one evaluation.</summary>
    public void UpdateEval(int step, double evalLoss)
    {
        lock (_state)
        {
            _evalSteps.Add(step);
            _evalLosses.Add(evalLoss);
        }
        _display.Changed();
    }

    /// <summary>The picture as it stands.</summary>
    public MimeBundle Show() => Draw().Show();

    private LineChart Draw()
    {
        lock (_state)
        {
            var chart = new LineChart(_title, x: "step", y: "loss") { Subtitle = _status, Progress = _progress }.AddSmoothed(_steps, _losses);
            return _evalSteps.Count > 0 ? chart.Add("eval", _evalSteps, _evalLosses, markers: true, color: Palette.At(3)) : chart;
        }
    }

    /// <summary>Sends the last state; further updates are not shown.</summary>
    public void Finish()
    {
        _leave?.Invoke();
        _leave = null;
        _display.Dispose();
    }

    public void Dispose() => Finish();
}
