using KtNotebooks.Data;
using KtNotebooks.Weights;

namespace KtNotebooks.Training;

/// <summary>
/// log p of the rows' targets by the reference of preferences, computed before the first step: where a run changes weights of the base itself, the base is the
/// reference only until then, and no second model has to be held. A run that goes on computes them again, before it reads its checkpoint.
/// </summary>
internal static class ReferenceScores
{
    private const int LeastTokens = 8192; // of a pass

    /// <summary>The rows with what the model as it is says of them.</summary>
    /// <param name="step">Of the model; its base alone is asked.</param>
    /// <param name="rows">Whole: pairs, or an answer and its mismatched one.</param>
    /// <param name="tokens">Of a pass, as of a step for which there is memory.</param>
    /// <param name="report">Told the tokens that are done.</param>
    /// <param name="cancel">Looked at between chunks.</param>
    public static EncodedExample[] Of(LayerMajorStep step, EncodedExample[] rows, int tokens, Action<WorkProgress>? report, CancellationToken cancel)
    {
        tokens = Math.Max(tokens, LeastTokens);
        var meter = new WorkMeter(rows.Sum(row => (long)row.Ids.Length), report, "tokens");
        var scored = new EncodedExample[rows.Length];
        for (int first = 0, next; first < rows.Length; first = next)
        {
            var length = rows[first].Ids.Length;
            for (next = first + 1; next < rows.Length && length + rows[next].Ids.Length <= tokens; next++) length += rows[next].Ids.Length;
            var logps = step.Reference(ExampleWindows.Batch(rows[first..next]), cancel);
            var at = 0;
            for (var i = first; i < next; at += rows[i++].Ids.Length) scored[i] = rows[i] with { Reference = logps[at..(at + rows[i].Ids.Length)] };
            meter.Add("the base's log-probabilities, the reference of this run", length);
        }
        return scored;
    }
}
