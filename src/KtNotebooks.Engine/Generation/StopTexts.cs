namespace KtNotebooks.Generation;

/// <summary>
/// Finds of several texts the one that is complete first in a stream of pieces, wherever the pieces are cut: an end that may be the beginning of one
/// is held back until it is known.
/// </summary>
internal sealed class StopTexts(IReadOnlyList<string> stops)
{
    private string _held = "";

    /// <summary>Whether one has been found; nothing comes after it.</summary>
    public bool Found => Match is not null;

    /// <summary>The one that was found; null: none yet.</summary>
    public string? Match { get; private set; }

    /// <summary>Takes a piece; returns what is certain to stand before any stop text.</summary>
    public string Push(string piece)
    {
        if (Found || piece.Length == 0) return "";
        if (stops.Count == 0) return piece;
        var text = _held + piece;
        var (at, end) = (-1, int.MaxValue);
        foreach (var stop in stops)
            if (text.IndexOf(stop, StringComparison.Ordinal) is >= 0 and var i && (i + stop.Length, i).CompareTo((end, at)) < 0)
                (at, end, Match) = (i, i + stop.Length, stop);
        if (at >= 0)
        {
            _held = "";
            return text[..at];
        }
        var keep = 0;
        foreach (var stop in stops)
            for (var n = Math.Min(stop.Length - 1, text.Length); n > keep; n--)
                if (text.AsSpan(text.Length - n).SequenceEqual(stop.AsSpan(0, n))) keep = n;
        _held = text[^keep..];
        return text[..^keep];
    }

    /// <summary>The stream is over: what was held back.</summary>
    public string Flush()
    {
        var rest = _held;
        _held = "";
        return rest;
    }
}
