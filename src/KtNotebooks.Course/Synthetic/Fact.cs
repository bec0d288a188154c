namespace KtNotebooks.Course.Synthetic;

public enum Language
{
    Chinese,
    English,
}

/// <summary>
/// One thing that is known, in one language, with every way to ask for it and every way to say it.
/// </summary>
public sealed record Fact
{
    /// <summary>table/row/relation. The same in both languages.</summary>
    public required string Id { get; init; }

    /// <summary>table/row: what a split must keep together, since other relations of a row may give the fact away (capital and country).</summary>
    public required string Entity { get; init; }

    /// <summary>The row's first cell: a word or sentence that people say, where <see cref="Entity"/> is a key that no text may hold. Null for sums.</summary>
    public string? Word { get; init; }

    /// <summary>table/relation: facts of one group answer the same kind of question, so that "and the dog?" can follow.</summary>
    public required string Group { get; init; }

    public required Language Language { get; init; }

    public required IReadOnlyList<string> Questions { get; init; }

    /// <summary>Each is complete alone: its first sentence carries the fact.</summary>
    public required IReadOnlyList<string> Answers { get; init; }

    /// <summary>Sentences that may follow an answer; often none.</summary>
    public IReadOnlyList<string> More { get; init; } = [];

    /// <summary>Short questions that are only clear after another question of the same group.</summary>
    public IReadOnlyList<string> FollowUps { get; init; } = [];

    /// <summary>What a cat-girl would say instead, where the plain answer does not fit her (who she is, how she feels).</summary>
    public IReadOnlyList<string> NekoAnswers { get; init; } = [];

    /// <summary>The answer as one of several options to choose from, or null.</summary>
    public string? Option { get; init; }

    /// <summary>Small talk is not led in by "may I ask".</summary>
    public bool SmallTalk { get; init; }
}
