using System.Text.RegularExpressions;

using KtNotebooks.Data;

namespace KtNotebooks.Evaluation;

/// <summary>
/// A multiple-choice question: a prompt whose last question lists options on lines `A. …`, `B. …`, and an answer of one of these letters. Letters go on
/// from A without a gap.
/// </summary>
public static partial class ChoiceQuestion
{
    /// <summary>The options' letters of an example, "ABCD…", or null when it is no multiple-choice question.</summary>
    public static string? LettersOf(Example example)
    {
        ArgumentNullException.ThrowIfNull(example);
        if (example.Responses.Count != 1) return null;
        var letters = LettersOf(example.Prompt[^1].Content);
        return letters is not null && Parse(example.Answer, letters) is { } answer && example.Answer.Trim().Length == 1
            && letters.Contains(answer, StringComparison.Ordinal) ? letters : null;
    }

    /// <summary>The options' letters of a question's text, or null when it has fewer than two options.</summary>
    public static string? LettersOf(string question)
    {
        var letters = "";
        foreach (Match line in OptionLine().Matches(question))
        {
            if (line.Groups[1].Value[0] == 'A') letters = ""; // the list that comes last is the one that is asked about
            if (line.Groups[1].Value[0] == 'A' + letters.Length) letters += line.Groups[1].Value;
        }
        return letters.Length >= 2 ? letters : null;
    }

    /// <summary>
    /// The strict reading of an answer: after white space one of the letters, and after it nothing, or a mark that ends a letter (`B.`, `B)`, `B:
    /// malaria`), or a line end. "Answer: B", "B or C" and "Because" are not read. Null: not readable.
    /// </summary>
    public static char? Parse(string text, string letters)
    {
        ArgumentNullException.ThrowIfNull(text);
        ArgumentNullException.ThrowIfNull(letters);
        var answer = text.AsSpan().Trim();
        if (answer.IsEmpty || !letters.Contains(answer[0], StringComparison.Ordinal)) return null;
        return answer.Length == 1 || answer[1] is '.' or ')' or ':' or '\r' or '\n' or '。' or '、' or '：' ? answer[0] : null;
    }

    [GeneratedRegex(@"^[ \t]*\(?([A-Z])[.):、．：][ \t]*\S", RegexOptions.Multiline)]
    private static partial Regex OptionLine();
}
