using System.Net;

namespace KtNotebooks.Server;

/// <summary>Who may ask, how much and how long.</summary>
public sealed record ApiSettings
{
    /// <summary>An address of this machine, or a name for it; 127.0.0.1 is asked by programs of this machine alone.</summary>
    public string Host { get; init; } = "127.0.0.1";

    /// <summary>0: any free one.</summary>
    public int Port { get; init; } = 8000;

    /// <summary>Keys of which a request must bring one; none: no request needs one.</summary>
    public IReadOnlyList<string> Keys { get; init; } = [];

    /// <summary>Pages of other origins that may call from a browser (`https://example.org`), or `*`; none: no other page.</summary>
    public IReadOnlyList<string> Origins { get; init; } = [];

    /// <summary>Bytes of a body at most.</summary>
    public long MaxBody { get; init; } = 4 << 20;

    /// <summary>An answer that takes longer is ended.</summary>
    public TimeSpan Timeout { get; init; } = TimeSpan.FromMinutes(10);

    /// <summary>A line a request on the console, where nothing else takes the log.</summary>
    public bool LogsToConsole { get; init; }

    /// <summary>Requests are logged with their texts.</summary>
    public bool Verbose { get; init; }

    /// <summary>After Ctrl-C, how long answers in the making may take.</summary>
    public TimeSpan Drain { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Only programs of this machine can ask.</summary>
    public bool IsLoopback => Host == "localhost" || (IPAddress.TryParse(Host, out var address) && IPAddress.IsLoopback(address));
}
