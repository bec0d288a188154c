using System.Text.Json;

using KtNotebooks.Distributed;
using KtNotebooks.Generation;

namespace KtNotebooks.Evaluation;

/// <summary>What one rank wrote in a round of predictions.</summary>
/// <param name="Numbers">Of the rows.</param>
/// <param name="Texts">Of the same rows.</param>
/// <param name="Tokens">That it has generated so far.</param>
/// <param name="IsStopped">It was told to stop.</param>
internal sealed record PredictRound(int[] Numbers, string[] Texts, long Tokens, bool IsStopped)
{
    public IEnumerable<(int Row, string Text)> Rows => Numbers.Zip(Texts);

    /// <summary>Computes this rank's rows, and waits for those of all.</summary>
    public static PredictRound[] Gather(ICollective ranks, IEnumerable<(int Row, string Text)> own, Scheduler scheduler, CancellationToken stop)
    {
        (int Row, string Text)[] rows = [.. own];
        var mine = new PredictRound([.. rows.Select(r => r.Row)], [.. rows.Select(r => r.Text)], scheduler.Tokens, stop.IsCancellationRequested);
        return [.. ranks.AllGather(JsonSerializer.Serialize(mine)).Select(text => JsonSerializer.Deserialize<PredictRound>(text)!)];
    }
}
