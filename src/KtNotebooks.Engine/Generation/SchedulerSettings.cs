namespace KtNotebooks.Generation;

/// <summary>How a <see cref="Scheduler"/> shares a model.</summary>
public sealed record SchedulerSettings
{
    /// <summary>Sequences at once.</summary>
    public int Slots { get; init; } = 1;

    /// <summary>Requests that may wait; one more is refused.</summary>
    public int Waiting { get; init; } = int.MaxValue;

    /// <summary>Rows of prompts in one pass; a longer prompt joins alone, or is cut where <see cref="CutPrompts"/> says so.</summary>
    public int PromptRows { get; init; } = 4096;

    /// <summary>Prompts run in pieces of at most <see cref="PromptRows"/>, so that a long one does not hold up others.</summary>
    public bool CutPrompts { get; init; }

    /// <summary>Tokens that the cache holds at most; null: as many as all slots can need. A sequence that finds no room waits.</summary>
    public long? CacheTokens { get; init; }

    /// <summary>Tokens that are kept in the cache for requests that begin alike, when no sequence uses them.</summary>
    public long IdleTokens { get; init; } = 16384;

    /// <summary>
    /// On the CPU a sequence becomes the same, bit for bit, whatever runs beside it, wherever prompts are cut and whatever the cache held already. Slower where
    /// few rows run: for one conversation this is off.
    /// </summary>
    public bool RowsAlike { get; init; } = true;

    /// <summary>Steps of one token a sequence are recorded as CUDA graphs and replayed, where the model is on one card: the same bits, sooner.</summary>
    public bool RecordSteps { get; init; } = true;
}
