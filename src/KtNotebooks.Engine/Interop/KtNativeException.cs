namespace KtNotebooks.Interop;

/// <summary>A native library refused a call or failed in it.</summary>
public sealed class KtNativeException : Exception
{
    public KtNativeException(string library, string call, int status, string text)
        : base($"{library}: {text} (status {status} of {Name(call)})")
    {
        Library = library;
        Call = call;
        Status = status;
        Text = text;
    }

    /// <summary>The library, for instance <c>ktnative</c>.</summary>
    public string Library { get; }

    /// <summary>The expression that was called, with its arguments as written in the source.</summary>
    public string Call { get; }

    /// <summary>The library's status: of ktnative 1 = invalid argument, 2 = not supported, 3 = out of memory, 4 = internal.</summary>
    public int Status { get; }

    /// <summary>The library's own text.</summary>
    public string Text { get; }

    private static string Name(string call)
    {
        var end = call.IndexOf('(');
        return end < 0 ? call : call[..end];
    }
}
