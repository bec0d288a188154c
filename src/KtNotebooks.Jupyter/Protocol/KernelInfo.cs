using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Protocol;

/// <summary>What the kernel tells about itself.</summary>
internal static class KernelInfo
{
    internal static JsonObject Reply() => new()
    {
        ["status"] = "ok",
        ["protocol_version"] = Wire.ProtocolVersion,
        ["implementation"] = "ktnotebooks",
        ["implementation_version"] = typeof(KernelInfo).Assembly.GetName().Version!.ToString(3),
        ["language_info"] = Language(),
        ["banner"] = "KtNotebooks: C# on .NET, with an engine that fine-tunes mixture-of-experts models. #!help lists what cells can do.",
        ["help_links"] = new JsonArray(),
    };

    /// <summary>Also stored in a notebook's metadata. Names are those of .NET Interactive, whose notebooks stay readable.</summary>
    internal static JsonObject Language() => new()
    {
        ["name"] = "C#",
        ["version"] = "14.0",
        ["mimetype"] = "text/x-csharp",
        ["file_extension"] = ".cs",
        ["pygments_lexer"] = "csharp",
        ["codemirror_mode"] = "text/x-csharp",
        ["nbconvert_exporter"] = "script",
    };
}
