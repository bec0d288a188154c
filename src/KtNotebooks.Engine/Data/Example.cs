namespace KtNotebooks.Data;

/// <summary>Who speaks. The system prompt is not a turn; it stands beside the turns.</summary>
public enum Role
{
    User,
    Assistant,
    Observation,
    Function,
}

/// <summary>One turn of a conversation.</summary>
public sealed record Message(Role Role, string Content)
{
    /// <summary>
    /// A question of another kind that stands right before this one, with no answer between: what a tool returned, before what a person says to it. Null, as
    /// in every row of a data set: an answer stands before it, or nothing.
    /// </summary>
    public Message? Behind { get; init; }
}

/// <summary>A row of a data set in the form that every format is converted to.</summary>
/// <param name="Prompt">Turns up to and with the last question: an odd number, users (or observations) and assistants (or functions) in turn.</param>
/// <param name="Responses">One answer; none for rows without (prediction only); two for preference data, the better first.</param>
/// <param name="System">System prompt, or null.</param>
/// <param name="Tools">Description of tools as JSON text, or null.</param>
/// <param name="Source">Where it came from, "file:row", rows counted from 1 (for JSON lines and CSV: of the line where it begins).</param>
public sealed record Example(IReadOnlyList<Message> Prompt, IReadOnlyList<Message> Responses, string? System, string? Tools, string Source)
{
    /// <summary>Of the row in the mean of the loss: twice as much counts as two rows. 1 where the set names no column of weights.</summary>
    public float Weight { get; init; } = 1;

    /// <summary>What the row holds besides text, where it says so: "column 'images' holds 1 value". Null for rows of text.</summary>
    public string? Media { get; init; }

    /// <summary>The answer that a prediction is compared with; "" where the row has none.</summary>
    public string Label => Responses.Count == 1 ? Responses[0].Content : "";

    /// <summary>The answer to learn.</summary>
    /// <exception cref="InvalidDataException">The row has none.</exception>
    public string Answer => Responses.Count == 1
        ? Responses[0].Content
        : throw new InvalidDataException($"{Source}: the row has {Responses.Count} answers where exactly one is needed. Fill the answer column or remove "
        + "the row.");
}
