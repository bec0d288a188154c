using System.Text;

using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;

namespace KtNotebooks.Tests.Jupyter;

/// <summary>What cells have shown and printed, in order.</summary>
internal sealed class CollectedOutput : ICellOutput
{
    private readonly StringBuilder _text = new();

    public List<(string What, MimeBundle Bundle, string? Id)> Seen { get; } = [];

    /// <summary>What a person answers to a cell that asks; null: nobody is there.</summary>
    public string? Answer { get; init; }

    public string Printed => _text.ToString();

    public void Write(string stream, string text) => _text.Append(text);

    public void Show(MimeBundle bundle, string? displayId) => Seen.Add(("show", bundle, displayId));

    public void Update(MimeBundle bundle, string displayId) => Seen.Add(("update", bundle, displayId));

    public void Clear(bool wait) => Seen.Clear();

    public void Page(string text) => Write("stdout", text);

    public string ReadLine(string prompt, bool password, CancellationToken cancel) => Answer ?? throw new NotSupportedException("nobody is there");
}
