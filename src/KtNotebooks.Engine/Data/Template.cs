using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>
/// How a conversation becomes ids: LLaMA-Factory's templates as immutable data. A format is a list of slots; each text slot is tokenised on its
/// own, so no token spans the border between prompt and answer, or between system prompt and question.
/// </summary>
public sealed record Template
{
    public required string Name { get; init; }

    /// <summary>What stands once before everything; the only place a beginning-of-sequence token comes from.</summary>
    public IReadOnlyList<Slot> Prefix { get; init; } = [];

    /// <summary>The system prompt; left out when it is empty.</summary>
    public IReadOnlyList<Slot> System { get; init; } = [Slot.Content];

    /// <summary>A question with everything up to where the answer begins.</summary>
    public IReadOnlyList<Slot> User { get; init; } = [Slot.Content];

    /// <summary>What <see cref="User"/> and <see cref="Observation"/> end with because an answer follows: left out where another question does.</summary>
    public string AnswerHeader { get; init; } = "";

    /// <summary>An answer with what ends it.</summary>
    public IReadOnlyList<Slot> Assistant { get; init; } = [Slot.Content, Slot.Eos];

    /// <summary>A call of functions; null: the call and an end token.</summary>
    public IReadOnlyList<Slot>? Function { get; init; }

    /// <summary>What a tool returned; null: like a question.</summary>
    public IReadOnlyList<Slot>? Observation { get; init; }

    /// <summary>How tools are described and called; null: the template has no form for them.</summary>
    public ToolForm? Tools { get; init; } = ToolForm.Plain;

    /// <summary>The marks of a reasoning model's thought; null: the model does not think.</summary>
    public Thinking? Thinking { get; init; }

    /// <summary>
    /// enable_thinking: true, the model thinks by itself; false, it does not and thoughts in the data are removed; null, thoughts stay and answers without
    /// one get an empty one that is not learned.
    /// </summary>
    public bool? EnableThinking { get; init; } = true;

    /// <summary>The system prompt when a conversation brings none.</summary>
    public string? DefaultSystem { get; init; }

    /// <summary>Tokens that end an answer besides the tokenizer's eos.</summary>
    public IReadOnlyList<string> StopWords { get; init; } = [];

    /// <summary>The first stop word takes the place of the tokenizer's eos.</summary>
    public bool ReplaceEos { get; init; }

    /// <summary>template: auto: the model's own chat template tells conversations, and the formats here count for nothing; null for all others.</summary>
    public ChatForm? Chat { get; init; }

    /// <summary>No end token after each answer: the next turn's first token ends it, and one eos closes the row.</summary>
    public bool EfficientEos { get; init; }

    /// <summary>
    /// The turns as pairs of (source ids, target ids): question and answer of each round. Prefix and system prompt belong to the first source.
    /// </summary>
    /// <param name="tokenizer">The model's tokenizer.</param>
    /// <param name="messages">Questions and answers in turn.</param>
    /// <param name="system">System prompt, or null for the template's own.</param>
    /// <param name="tools">JSON list of tools, or null.</param>
    /// <param name="bareHistory">Earlier answers lose their thoughts, as in a prompt.</param>
    /// <exception cref="ArgumentException">The number of messages is odd, or their roles do not alternate.</exception>
    public List<(int[] Source, int[] Target)> EncodeTurns(Tokenizer tokenizer, IReadOnlyList<Message> messages, string? system = null, string? tools = null,
        bool bareHistory = false)
    {
        if (messages.Count % 2 != 0)
            throw new ArgumentException($"A conversation has questions and answers in turn, so an even number of messages, but it has {messages.Count}.",
                nameof(messages));
        if (Chat is not null) return Chat.EncodeTurns(tokenizer, messages, NotEmpty(system), tools);
        var turns = new List<(int[], int[])>(messages.Count / 2);
        messages = WithoutThoughts(messages, bareHistory ? messages.Count - 2 : 0);
        if (EnableThinking == false)
            messages = WithoutThoughts(messages, messages.Count);
        for (var i = 0; i < messages.Count; i += 2)
        {
            var (source, target) = (EncodeMessage(tokenizer, messages, i, system, tools), EncodeMessage(tokenizer, messages, i + 1, system, tools));
            if (Thinking is { } thinking && !thinking.IsIn(messages[i + 1].Content))
            {
                if (EnableThinking == true)
                    target = [.. tokenizer.Encode(thinking.Empty), .. target];
                else
                    source = [.. source, .. tokenizer.Encode(thinking.Empty)];
            }
            turns.Add((source, target));
        }
        return turns;
    }

    /// <summary>
    /// The ids of a conversation that ends with a question, up to where the answer begins: earlier answers without their thoughts, and an empty thought
    /// unless the model may think.
    /// </summary>
    /// <exception cref="ArgumentException">The number of messages is even, or their roles do not alternate.</exception>
    public int[] EncodePrompt(Tokenizer tokenizer, IReadOnlyList<Message> messages, string? system = null, string? tools = null)
    {
        if (messages.Count % 2 == 0)
            throw new ArgumentException($"A prompt ends with a question, so it has an odd number of messages, but it has {messages.Count}.", nameof(messages));
        if (Chat is not null) return tokenizer.Encode(Chat.Render(messages, NotEmpty(system), tools, prompt: true));
        messages = WithoutThoughts(messages, messages.Count);
        int[] thought = Thinking is { } thinking && EnableThinking != true ? tokenizer.Encode(thinking.Empty) : [];
        return [.. Enumerable.Range(0, messages.Count).SelectMany(i => EncodeMessage(tokenizer, messages, i, system, tools)), .. thought];
    }

    /// <summary>The ids that end an answer: the stop words, and the tokenizer's eos, with which a base model ends also where a template has another.</summary>
    public int[] StopIds(Tokenizer tokenizer)
    {
        var ids = new SortedSet<int>(StopWords.Select(word => Id(tokenizer, word)));
        if (tokenizer.EosId is int eos) ids.Add(eos);
        if (Chat is not null) ids.UnionWith(Chat.StopIds);
        return [.. ids];
    }

    /// <summary>What a person should know who trains with it: answers whose end is no token of the tokenizer; null: nothing.</summary>
    public string? Doubt(Tokenizer tokenizer) => StopWords.Where(word => tokenizer.IdOf(word) is null).ToArray() is { Length: > 0 } missing
        ? $"the tokenizer has no token {string.Join(", ", missing.Select(word => $"'{word}'"))}, with which the template '{Name}' ends answers: it is learned "
            + "as pieces of text, and kt chat, kt predict and kt api will refuse this template. Choose the one that belongs to the model"
        : null;

    private string? NotEmpty(string? system) => string.IsNullOrEmpty(system) ? DefaultSystem : system;

    /// <summary>The id that closes an answer in this template.</summary>
    /// <exception cref="InvalidDataException">Neither the template nor the tokenizer has one.</exception>
    public int EosId(Tokenizer tokenizer) => ReplaceEos ? Id(tokenizer, StopWords[0]) : tokenizer.EosId
        ?? throw new InvalidDataException($"The template '{Name}' ends answers with the tokenizer's eos token, but the tokenizer names none. Set eos_token in "
        + "tokenizer_config.json.");

    // The answers among the first `count` messages without their thoughts.
    private IReadOnlyList<Message> WithoutThoughts(IReadOnlyList<Message> messages, int count) => Thinking is not { } thinking || count <= 0
        ? messages
        : [.. messages.Select((m, i) => i < count && m.Role is (Role.Assistant or Role.Function) ? m with { Content = thinking.Remove(m.Content) } : m)];

    private string Call(string content)
    {
        if (Tools is null)
            throw new NotSupportedException($"The template '{Name}' has no form for function calls.");
        var (thought, call) = (Thinking ?? new Thinking()).Split(content);
        return thought + Tools.Call(call);
    }

    private int[] EncodeMessage(Tokenizer tokenizer, IReadOnlyList<Message> messages, int i, string? system, string? tools)
    {
        var (role, content) = messages[i];
        if (role is Role.User or Role.Observation != (i % 2 == 0))
            throw new ArgumentException($"Message {i + 1} of the conversation is of role {role}; questions and answers must alternate, a question first.",
                nameof(messages));
        var ids = new List<int>();
        if (i == 0)
        {
            Append(Prefix, "");
            if (string.IsNullOrEmpty(system))
                system = DefaultSystem;
            if (tools is not null && !ToolForm.IsNone(tools))
                system += (Tools ?? throw new NotSupportedException($"The template '{Name}' has no form for tools.")).Describe(tools);
            if (!string.IsNullOrEmpty(system))
                Append(System, system);
        }
        if (messages[i].Behind is { } earlier) Append(Unanswered(earlier.Role == Role.Observation ? Observation ?? User : User), earlier.Content);
        Append(role switch
        {
            Role.User => User,
            Role.Observation => Observation ?? User,
            Role.Function => Function ?? (EfficientEos ? [Slot.Content] : [Slot.Content, Slot.Eos]),
            _ => Assistant,
        }, role == Role.Function ? Call(content) : content);
        return [.. ids];

        void Append(IReadOnlyList<Slot> slots, string text)
        {
            foreach (var slot in slots)
            {
                switch (slot)
                {
                    case Slot.Text(var before, var after):
                        ids.AddRange(tokenizer.Encode(after is null ? before : before + text + after));
                        break;
                    case Slot.Token(var token):
                        ids.Add(Id(tokenizer, token));
                        break;
                    // As upstream, a tokenizer without a bos token simply gets none.
                    case Slot.BosToken when tokenizer.BosId is int bos:
                        ids.Add(bos);
                        break;
                    case Slot.EosToken:
                        ids.Add(EosId(tokenizer));
                        break;
                }
            }
        }
    }

    /// <summary>A question's slots without what an answer begins with.</summary>
    private IReadOnlyList<Slot> Unanswered(IReadOnlyList<Slot> slots) => slots is [.., Slot.Text(var before, { } after)]
        && after.EndsWith(AnswerHeader, StringComparison.Ordinal) ? [.. slots.SkipLast(1), Slot.Around(before, after[..^AnswerHeader.Length])] : slots;

    private int Id(Tokenizer tokenizer, string token) => tokenizer.IdOf(token)
        ?? throw new InvalidDataException($"The template '{Name}' needs the token '{token}', which the tokenizer does not have. Choose the template that "
        + "belongs to the model.");
}

/// <summary>One element of a format.</summary>
public abstract record Slot
{
    /// <summary>The content alone.</summary>
    public static Slot Content { get; } = new Text("", "");

    /// <summary>The tokenizer's beginning-of-sequence token.</summary>
    public static Slot Bos { get; } = new BosToken();

    /// <summary>The tokenizer's end-of-sequence token.</summary>
    public static Slot Eos { get; } = new EosToken();

    /// <summary>A fixed text.</summary>
    public static Slot Fixed(string text) => new Text(text, null);

    /// <summary>The content between two fixed texts.</summary>
    public static Slot Around(string before, string after) => new Text(before, after);

    /// <summary>One token by its text.</summary>
    public static Slot Named(string token) => new Token(token);

    /// <summary>Text: before + content + after, or only before when after is null. Tokenised as one.</summary>
    internal sealed record Text(string Before, string? After) : Slot;

    internal sealed record Token(string Name) : Slot;

    internal sealed record BosToken : Slot;

    internal sealed record EosToken : Slot;
}
