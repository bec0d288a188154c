using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>
/// A message as it came over the wire.
/// <paramref name="Header"/> stays as bytes, because every answer carries it back verbatim as its parent header.
/// </summary>
internal sealed record Message(byte[][] Identities, byte[] Header, string Type, string Session, JsonObject Content)
{
    /// <summary>The header of the request that this answers.</summary>
    public byte[] Parent { get; init; } = [];

    public string Text(string name, string otherwise = "") => Content[name] is JsonValue v && v.TryGetValue(out string? s) ? s : otherwise;

    public bool Flag(string name, bool otherwise) => Content[name] is JsonValue v && v.TryGetValue(out bool b) ? b : otherwise;

    public int Number(string name, int otherwise) => Content[name] is JsonValue v && v.TryGetValue(out int n) ? n : otherwise;
}
