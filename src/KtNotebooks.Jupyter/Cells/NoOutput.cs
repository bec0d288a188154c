using KtNotebooks.Interactive;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>For silent cells and the kernel's own.</summary>
internal sealed class NoOutput : ICellOutput
{
    internal static readonly NoOutput Instance = new();

    public void Write(string stream, string text) { }

    public void Show(MimeBundle bundle, string? displayId) { }

    public void Update(MimeBundle bundle, string displayId) { }

    public void Clear(bool wait) { }

    public void Page(string text) { }

    public string ReadLine(string prompt, bool password, CancellationToken cancel) =>
        throw new NotSupportedException("[input] a silent cell cannot ask for input");
}
