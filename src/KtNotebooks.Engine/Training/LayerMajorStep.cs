using KtNotebooks.Experts;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Tensors;

namespace KtNotebooks.Training;

/// <summary>
/// Loss and gradients of a whole accumulation window, layer-major (DESIGN section 2): every stage sees all T rows once forward and once backward, so a layer's weights are read twice a step whatever
/// the window. Forward keeps only each stage's input [T, D]; backward recomputes a stage from it under a tape and walks straight back. Where layers lie on several cards the window is cut into parts, which follow each
/// other through the layers, so that the cards work at once (<see cref="StepSchedule"/>).
/// </summary>
/// <param name="chunkRows">Rows that a stage works on at a time.</param>
/// <param name="headRows">Rows of logits at a time.</param>
/// <param name="savedBytes">Bytes of stage inputs that may stay on a card; the others wait in pinned host memory.</param>
/// <param name="parts">Of the window; null: one a card.</param>
public sealed class LayerMajorStep(CausalLm model, int chunkRows = 8192, int headRows = 1024, long savedBytes = long.MaxValue, int? parts = null)
{
    private readonly StageWork _work = new(model, chunkRows, headRows);

    /// <summary>Called before each part of the work is queued, from the thread of its device.</summary>
    internal Action<StepMark>? OnPart { get; set; }

    /// <summary>The devices of the stages.</summary>
    public IReadOnlyList<Device> Devices => [.. _work.Devices.Distinct()];

    /// <summary>Forward, loss and backward; gradients are added to the parameters' Grad. Returns Σ weight · cross-entropy. Stops between chunks when cancelled, leaving the gradients to be dropped.</summary>
    public double Run(TokenBatch batch, ulong dropoutKey = 0, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(batch);
        var schedule = new StepSchedule(_work.Devices, batch.SeqStarts, parts ?? Devices.Count(d => d.Kind == DeviceKind.Cuda), _work.Lowest());
        ExpertStreams.Plan([.. schedule.Visits().SelectMany(visit => _work.BanksOf(visit.Stage).Select(bank => new BankVisit(bank, visit.Backward, visit.Rows)))]);
        using var run = new StepRun(_work, schedule, batch, dropoutKey, savedBytes, OnPart);
        return run.Run(cancel);
    }

    /// <summary>Σ weight · cross-entropy of a batch, without gradients or dropout.</summary>
    public double Loss(TokenBatch batch, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(batch);
        return _work.Loss(batch, cancel);
    }
}
