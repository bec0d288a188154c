
namespace KtNotebooks.Evaluation;

/// <summary>
/// Multiple-choice results. By likelihood: the letter with the largest probability right after the prompt, always readable. By strict parse: what the model
/// wrote, where an unreadable answer is wrong; the failure rate says how much of the loss is form rather than knowledge.
/// </summary>
/// <param name="Rows">Questions.</param>
/// <param name="Likelihood">Share of right letters by likelihood, or null where only texts are known.</param>
/// <param name="Strict">Share of right letters by strict parse.</param>
/// <param name="ParseFailures">Share of answers that cannot be read.</param>
/// <param name="Chance">Expected share when guessing evenly among each question's options.</param>
public sealed record ChoiceScores(int Rows, double? Likelihood, double Strict, double ParseFailures, double Chance)
{
    /// <summary>By name, as printed and written.</summary>
    public IReadOnlyList<(string Name, double Value)> All =>
        [.. Likelihood is { } l ? [("accuracy-likelihood", l)] : Array.Empty<(string, double)>(), ("accuracy-strict", Strict),
            ("parse-failures", ParseFailures), ("chance", Chance)];

    /// <summary>Scores a file of predictions whose labels are all single letters of the options in the prompts; null for other predictions.</summary>
    public static ChoiceScores? OfPredictions(IReadOnlyList<Prediction> rows)
    {
        ArgumentNullException.ThrowIfNull(rows);
        var (right, unread, chance) = (0, 0, 0.0);
        foreach (var row in rows)
        {
            if (row.Label.Trim() is not [>= 'A' and <= 'Z' and var label] || ChoiceQuestion.LettersOf(row.Prompt) is not { } letters
                || !letters.Contains(label, StringComparison.Ordinal)) return null;
            var answer = ChoiceQuestion.Parse(row.Predict, letters);
            if (answer is null) unread++;
            if (answer == label) right++;
            chance += 1.0 / letters.Length;
        }
        return rows.Count == 0 ? null : new ChoiceScores(rows.Count, null, (double)right / rows.Count, (double)unread / rows.Count, chance / rows.Count);
    }
}
