using System.Text;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>A change of the code before it is compiled: <paramref name="Removed"/> characters at a place give way to a text. Never a new line.</summary>
internal readonly record struct Edit(int Position, string Text, int Removed = 0);

/// <summary>A cell as its author wrote it, and what was woven into it, so that places in the compiled code can be shown in the written one.</summary>
internal sealed class CellText(string written, IReadOnlyList<Edit>? woven = null)
{
    internal string Written { get; } = written;

    /// <summary>The code with all edits made, which must be sorted by position.</summary>
    internal static string Weave(string code, IReadOnlyList<Edit> edits)
    {
        if (edits.Count == 0) return code;
        var text = new StringBuilder();
        var done = 0;
        foreach (var edit in edits)
        {
            text.Append(code, done, edit.Position - done).Append(edit.Text);
            done = edit.Position + edit.Removed;
        }
        return text.Append(code, done, code.Length - done).ToString();
    }

    internal string? Line(int line) => Written.Split('\n').ElementAtOrDefault(line - 1)?.TrimEnd('\r');

    /// <summary>The column, from 1, in the written line, of one in the compiled line.</summary>
    internal int Column(int line, int column)
    {
        var start = 0;
        for (var l = 1; l < line && start >= 0; l++) start = Written.IndexOf('\n', start) + 1;
        var shift = 0;
        foreach (var edit in woven ?? [])
        {
            var at = edit.Position - start; // in the written line, from 0
            if (at < 0 || Written.IndexOf('\n', start, Math.Min(at, Written.Length - start)) >= 0) continue;
            if (column - 1 < at + shift) break;
            if (column - 1 < at + shift + edit.Text.Length) return at + 1;
            shift += edit.Text.Length - edit.Removed;
        }
        return column - shift;
    }
}
