using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>A stretch of a window, made of whole sequences: rows [From, To).</summary>
public readonly record struct WindowPart(int Number, int From, int To)
{
    public int Rows => To - From;
}

/// <summary>Consecutive stages on one device: [First, End).</summary>
internal readonly record struct StageRun(int Number, Device Device, int First, int End);

internal enum StepPhase
{
    Forward,

    /// <summary>
    /// Forward through the last run, head and loss, and backward through that run again, part by part: the first gradient leaves before the last part has
    /// gone up.
    /// </summary>
    Turn,
    Backward,
}

/// <summary>One run of stages over one part of the window: what a card does without asking another.</summary>
internal readonly record struct StepTask(StepPhase Phase, StageRun Run, WindowPart Part);

/// <summary>
/// The work of a step as a list of tasks in an order in which each needs only earlier ones. Every device does its own tasks in this order, so wherever
/// layers lie, one device waits for another and never in a circle. While a card works on a part of the window in one layer, the card of the next layer
/// works on the part before. Layers that lie on the cards in turn make runs of one layer, which gives every card work as soon as the first part of the
/// first layer is done; halves of a model make runs of half a model, through which every part goes alone.
/// </summary>
internal sealed class StepSchedule
{
    /// <param name="stages">The device of each stage.</param>
    /// <param name="seqStarts">[N+1].</param>
    /// <param name="parts">Into how many parts of about the same size the window is cut at most.</param>
    /// <param name="lowest">The first stage that backward has to reach; the number of stages where none is trained.</param>
    public StepSchedule(IReadOnlyList<Device> stages, IReadOnlyList<int> seqStarts, int parts, int lowest)
    {
        Lowest = lowest;
        Parts = [.. Cut(seqStarts, parts).Select((part, number) => new WindowPart(number, part.From, part.To))];
        List<StageRun> runs = [];
        for (var (first, i) = (0, 1); i <= stages.Count; i++)
        {
            if (i < stages.Count && stages[i] == stages[first]) continue;
            runs.Add(new StageRun(runs.Count, stages[first], first, i));
            first = i;
        }
        Runs = runs;
        Devices = [.. runs.Select(r => r.Device).Distinct()];
        Tasks =
        [
            .. runs[..^1].SelectMany(run => Parts.Select(part => new StepTask(StepPhase.Forward, run, part))),
            .. Parts.Select(part => new StepTask(StepPhase.Turn, runs[^1], part)),
            .. runs[..^1].AsEnumerable().Reverse().Where(run => run.End > lowest)
            .SelectMany(run => Parts.Select(part => new StepTask(StepPhase.Backward, run, part))),
        ];
    }

    public IReadOnlyList<StageRun> Runs { get; }

    public IReadOnlyList<WindowPart> Parts { get; }

    public IReadOnlyList<Device> Devices { get; }

    public IReadOnlyList<StepTask> Tasks { get; }

    public int Lowest { get; }

    /// <summary>Can two devices work at once? With one part each task needs the one before.</summary>
    public bool IsConcurrent => Devices.Count > 1 && Parts.Count > 1;

    public IEnumerable<StepTask> Of(Device device) => Tasks.Where(t => t.Run.Device == device);

    /// <summary>The stages that tasks visit, in order, and with how many rows.</summary>
    public IEnumerable<(int Stage, bool Backward, int Rows)> Visits()
    {
        foreach (var (phase, run, part) in Tasks)
        {
            if (phase != StepPhase.Backward)
                for (var i = run.First; i < run.End; i++) yield return (i, false, part.Rows);
            if (phase != StepPhase.Forward)
                for (var i = run.End - 1; i >= Math.Max(run.First, Lowest); i--) yield return (i, true, part.Rows);
        }
    }

    /// <summary>Cuts at the sequence starts that are nearest to equal shares; none between sequences that are longer than a share.</summary>
    private static IEnumerable<(int From, int To)> Cut(IReadOnlyList<int> seqStarts, int parts)
    {
        var (from, rows) = (0, seqStarts[^1]);
        for (var k = 1; k < parts; k++)
        {
            var share = (long)rows * k / parts;
            var at = seqStarts.MinBy(start => Math.Abs(start - share));
            if (at <= from || at >= rows) continue;
            yield return (from, at);
            from = at;
        }
        yield return (from, rows);
    }
}
