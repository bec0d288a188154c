using System.Text.RegularExpressions;

namespace KtNotebooks.Data;

/// <summary>
/// The thought that a reasoning model writes before its answer. Upstream's rules: whether it thinks is <see cref="Template.EnableThinking"/>; an answer
/// without a thought gets an empty one, learned (at the start of the answer) when thinking is on, given (at the end of the question) when it is off or
/// undecided; earlier answers of a prompt carry none.
/// </summary>
/// <param name="Open">What begins a thought.</param>
/// <param name="Close">What ends it.</param>
public sealed record Thinking(string Open = "<think>\n", string Close = "\n</think>\n\n")
{
    /// <summary>A thought of nothing.</summary>
    public string Empty => Open + Close;

    /// <summary>True when an answer holds a mark of a thought; line ends around the marks do not count.</summary>
    public bool IsIn(string answer) => answer.Contains(Open.Trim(), StringComparison.Ordinal) || answer.Contains(Close.Trim(), StringComparison.Ordinal);

    /// <summary>The answer without its thoughts, and without the line ends before what is left.</summary>
    public string Remove(string answer) => Regex.Replace(answer, $"{Regex.Escape(Open)}(.*?){Regex.Escape(Close)}", "", RegexOptions.Singleline)
        .TrimStart('\n');

    /// <summary>The thought at the beginning of a message with marks and all, and the rest; an empty thought when there is none.</summary>
    public (string Thought, string Message) Split(string message)
    {
        var match = Regex.Match(message, $"{Regex.Escape(Open)}(.*?){Regex.Escape(Close)}", RegexOptions.Singleline);
        return match.Success ? (match.Value, message.Replace(match.Value, "", StringComparison.Ordinal)) : ("", message);
    }
}
