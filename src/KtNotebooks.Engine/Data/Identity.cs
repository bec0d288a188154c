
namespace KtNotebooks.Data;

/// <summary>
/// The places in LLaMA-Factory's identity set where a model's name and its maker's are to stand, {{name}} and {{author}}. Upstream leaves them to the user's
/// editor; here two keys fill them.
/// </summary>
internal sealed class Identity(string? name, string? author)
{
    private const string Name = "{{name}}", Author = "{{author}}";

    /// <summary>Rows that had a place which was filled.</summary>
    public int Filled { get; private set; }

    /// <summary>Answers with places that stay open.</summary>
    public int Open { get; private set; }

    /// <summary>The example with its places filled.</summary>
    public Example Fill(Example example)
    {
        Message[] prompt = [.. example.Prompt.Select(Fill)], responses = [.. example.Responses.Select(Fill)];
        var system = Fill(example.System);
        if (responses.Any(m => m.Content.Contains(Name, StringComparison.Ordinal) || m.Content.Contains(Author, StringComparison.Ordinal)))
            Open++;
        if (prompt.SequenceEqual(example.Prompt) && responses.SequenceEqual(example.Responses) && system == example.System)
            return example;
        Filled++;
        return example with { Prompt = prompt, Responses = responses, System = system };
    }

    /// <summary>What a person should know: places that stay open are learned as they are, and keys that fill nothing are a slip.</summary>
    public IEnumerable<string> Notes()
    {
        foreach (var note in OpenPlaces()) yield return note;
        if (Filled == 0 && (name ?? author) is not null)
            yield return $"identity_name and identity_author have no effect: no row holds {Name} or {Author}";
    }

    /// <summary>Those of the places that stay open.</summary>
    public IEnumerable<string> OpenPlaces() => Open == 0 ? []
        : [$"{Open:N0} answers hold {Name} or {Author}, which the model would learn to say: fill them with identity_name=… and identity_author=…"];

    private Message Fill(Message message) => message with { Content = Fill(message.Content)! };

    private string? Fill(string? text)
    {
        if (text is null || !text.Contains("{{", StringComparison.Ordinal))
            return text;
        if (name is not null)
            text = text.Replace(Name, name, StringComparison.Ordinal);
        return author is null ? text : text.Replace(Author, author, StringComparison.Ordinal);
    }
}
