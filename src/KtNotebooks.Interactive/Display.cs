using System.Text.Json.Nodes;

namespace KtNotebooks.Interactive;

/// <summary>
/// One thing to show, in several MIME types at once; the front end picks the richest that it can draw.
/// Values are strings, byte[] for binary types (image/png), or a JsonNode for JSON types. text/plain is always there.
/// </summary>
public sealed class MimeBundle
{
    private readonly Dictionary<string, object> _data = [];
    private readonly Dictionary<string, JsonObject> _metadata = [];

    public MimeBundle(string text) => _data["text/plain"] = text;

    public IReadOnlyDictionary<string, object> Data => _data;

    public string Text => (string)_data["text/plain"];

    /// <summary>The message's `metadata`, by MIME type. Pictures of double density say here how large they are meant to be.</summary>
    public IReadOnlyDictionary<string, JsonObject> Metadata => _metadata;

    public MimeBundle With(string mimeType, object value)
    {
        _data[mimeType] = value;
        return this;
    }

    /// <summary>The size in CSS pixels at which front ends shall show the picture of this type.</summary>
    public MimeBundle WithSize(string mimeType, double width, double height)
    {
        _metadata[mimeType] = new() { ["width"] = width, ["height"] = height };
        return this;
    }
}

/// <summary>Something that can draw itself. Notebooks and `kt tour` show it through <see cref="Display"/>.</summary>
public interface IShowable
{
    MimeBundle Show();
}

/// <summary>Where shown things go: the Jupyter kernel sets a host at start; without one the text form goes to standard output.</summary>
public interface IDisplayHost
{
    /// <summary>Shows a bundle. A non-null id lets later calls of <see cref="Update"/> replace it in place.</summary>
    void Show(MimeBundle bundle, string? displayId);

    void Update(MimeBundle bundle, string displayId);
}

/// <summary>The door between the drawing code and whatever front end is there.</summary>
public static class Display
{
    /// <summary>Null outside a notebook.</summary>
    public static IDisplayHost? Host { get; set; }

    public static void Show(IShowable what)
    {
        ArgumentNullException.ThrowIfNull(what);
        var bundle = what.Show();
        if (Host is { } host) host.Show(bundle, null);
        else Console.WriteLine(bundle.Text);
    }
}
