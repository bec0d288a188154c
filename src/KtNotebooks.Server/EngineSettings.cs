using KtNotebooks.Generation;

namespace KtNotebooks.Server;

/// <summary>How an engine shares its model among requests.</summary>
public sealed record EngineSettings
{
    /// <summary>A name for what the config describes: the first adapter, or the base without one. null: no such name.</summary>
    public string? ModelName { get; init; }

    /// <summary>The adapter that <see cref="ModelName"/> means; null: the base.</summary>
    public string? FirstAdapter { get; init; }

    /// <summary>The name of the base.</summary>
    public string BaseName { get; init; } = "base";

    /// <summary>Sequences that are computed at once.</summary>
    public int Slots { get; init; } = 64;

    /// <summary>Requests that may wait for a slot; one more is told to come back (429).</summary>
    public int Waiting { get; init; } = 256;

    /// <summary>Rows of prompts in one pass: a longer prompt runs in pieces, between which the others draw their tokens.</summary>
    public int PromptRows { get; init; } = 512;

    /// <summary>Tokens that the cache holds at most, of running sequences and of earlier ones that a request may begin like.</summary>
    public long CacheTokens { get; init; } = 131072;

    /// <summary>What is drawn how where a request says nothing.</summary>
    public Sampling Sampling { get; init; } = new();

    /// <summary>Draws begin with <see cref="Sampling"/>'s seed where a request has none; else with another one every time.</summary>
    public bool SeedGiven { get; init; }

    /// <summary>Folders whose adapters may be loaded by request; none: not at all.</summary>
    public IReadOnlyList<string> AdapterFolders { get; init; } = [];
}
