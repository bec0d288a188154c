using KtNotebooks.Data;
using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>
/// Splits the text of an answer, wherever its pieces are cut, into a thought (between the template's marks, at the beginning), text, and calls of tools in
/// the template's spelling. What may yet become a mark is held back; what looked like a call and is none stays text.
/// </summary>
/// <param name="thinking">The marks of a thought; null: there is none.</param>
/// <param name="calls">How calls are spelled; null: there are none.</param>
internal sealed class AnswerReader(Thinking? thinking, CallSpelling? calls)
{
    private State _state = thinking is null ? State.Text : State.Start;
    private string _held = "";
    private bool _trim;

    private enum State
    {
        Start,
        Thought,
        Text,
        Call,
    }

    public bool IsThinking => _state == State.Thought;

    public IEnumerable<AnswerPart> Push(string piece)
    {
        if (piece.Length == 0) return [];
        _held += piece;
        return Split(last: false);
    }

    /// <summary>The answer is over: what was held back.</summary>
    public IEnumerable<AnswerPart> Flush() => Split(last: true);

    private List<AnswerPart> Split(bool last)
    {
        List<AnswerPart> parts = [];
        while (Next(parts, last))
        {
        }
        return parts;
    }

    /// <summary>Takes one thing from what is held; false: more must come.</summary>
    private bool Next(List<AnswerPart> parts, bool last)
    {
        if (_trim && (_held = _held.TrimStart('\n')).Length == 0) return false;
        _trim = false;
        if (_held.Length == 0) return false;
        switch (_state)
        {
            case State.Start:
                var (open, begin) = (thinking!.Open.Trim(), _held.TrimStart());
                if (begin.StartsWith(open, StringComparison.Ordinal))
                {
                    (_held, _state, _trim) = (begin[open.Length..], State.Thought, true);
                    return true;
                }
                if (!last && open.StartsWith(begin, StringComparison.Ordinal)) return false;
                _state = State.Text;
                return true;
            case State.Thought:
                return Until(thinking!.Close.Trim(), text => parts.Add(new ThoughtPart(text)), last, trimEnd: true, State.Text);
            case State.Call:
                if (calls!.TryRead(_held, last, out var found, out var rest) is false) return false;
                if (found is null) // it was none
                {
                    if (calls.Begin.Length > 0) parts.Add(new TextPart(calls.Begin));
                    (_held, _state) = (_held[calls.Begin.Length..], State.Text);
                    return true;
                }
                parts.Add(new CallPart(NewId(), found.Value.Name, found.Value.Arguments));
                (_held, _state) = (rest, State.Text);
                _trim = true; // line ends between calls are theirs
                return true;
            default:
                if (calls is null)
                {
                    parts.Add(new TextPart(_held));
                    _held = "";
                    return false;
                }
                return UntilCall(parts, last);
        }
    }

    private bool UntilCall(List<AnswerPart> parts, bool last)
    {
        var at = calls!.Find(_held, last, out var held);
        if (at >= 0)
        {
            if (_held[..at].TrimEnd('\n') is { Length: > 0 } before) parts.Add(new TextPart(before));
            (_held, _state) = (_held[at..], State.Call);
            return true;
        }
        if (_held.Length > held) parts.Add(new TextPart(_held[..^held]));
        _held = _held[^held..];
        return false;
    }

    /// <summary>Text up to a mark; what may be its beginning, and line ends before it, are held back.</summary>
    private bool Until(string mark, Action<string> say, bool last, bool trimEnd, State next)
    {
        var at = _held.IndexOf(mark, StringComparison.Ordinal);
        var text = at >= 0 ? _held[..at] : last ? _held : _held[..^CallSpelling.Overlap(_held, mark)];
        var shown = trimEnd && !(last && at < 0) ? text.TrimEnd('\n') : text;
        if (shown.Length > 0) say(shown);
        if (at < 0)
        {
            _held = last ? "" : _held[shown.Length..];
            return false;
        }
        (_held, _state, _trim) = (_held[(at + mark.Length)..], next, true);
        return true;
    }

    private static string NewId() => $"call_{Guid.NewGuid():N}"[..29];
}
