using System.Collections.Concurrent;
using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Tokenizers;

using static KtNotebooks.Generation.Grammars.Rule;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// The forms that an answer can be given: any JSON object, JSON of a schema, a call of a tool. One for a tokenizer; a form that was asked for before is found
/// again with all that it has learned of the vocabulary. Masks of one form are used by one thread: that which steps the scheduler.
/// </summary>
public sealed class AnswerGrammars(Tokenizer tokenizer)
{
    private const int Kept = 64;

    private readonly Lazy<TokenTrie> _trie = new(() => new TokenTrie(tokenizer));
    private readonly ConcurrentDictionary<string, Grammar> _grammars = new(StringComparer.Ordinal);

    /// <summary>Any JSON object.</summary>
    /// <param name="thinking">A thought comes before it.</param>
    public AnswerGrammar Json(Thinking? thinking = null) => Find("json", thinking, () => JsonRules.AnyObject);

    /// <summary>JSON of a schema.</summary>
    /// <exception cref="ArgumentException">The schema has something that is not known here; it is named.</exception>
    public AnswerGrammar Schema(JsonElement schema, Thinking? thinking = null) =>
        Find("schema " + schema.GetRawText(), thinking, () => JsonSchema.Compile(schema));

    /// <summary>The same schema without `$ref` and `allOf` at its own level, as generators put them there.</summary>
    /// <param name="schema">An object; `#/…` is looked up in it.</param>
    /// <exception cref="ArgumentException">A `$ref` that leads nowhere, or schemas that cannot be put together; the keyword is named.</exception>
    public static JsonElement Flatten(JsonElement schema) => new Conjunction(schema).Flatten(schema, "#");

    /// <summary>Calls of tools: at least one, or text with calls in it whose arguments are of their schemas.</summary>
    /// <param name="spelling">The template's.</param>
    /// <param name="tools">Names and the schemas of arguments.</param>
    /// <param name="required">The answer is calls and nothing else.</param>
    /// <param name="several">More than one call.</param>
    /// <exception cref="ArgumentException">A schema has something that is not known here; the tool is named.</exception>
    public AnswerGrammar Calls(CallSpelling spelling, IReadOnlyList<(string Name, JsonElement Parameters)> tools, bool required, bool several,
        Thinking? thinking = null)
    {
        ArgumentNullException.ThrowIfNull(spelling);
        ArgumentNullException.ThrowIfNull(tools);
        var key = $"calls {spelling.Marks} {required} {several} {string.Join('\n', tools.Select(t => $"{t.Name} {t.Parameters.GetRawText()}"))}";
        return Find(key, thinking, () => Calls(spelling, [.. tools.Select(t => (t.Name, Arguments(t.Name, t.Parameters)))], required, several));
    }

    /// <summary>Either JSON (of a schema, where one is given), or calls of tools.</summary>
    /// <exception cref="ArgumentException">A schema has something that is not known here.</exception>
    public AnswerGrammar JsonOrCalls(JsonElement? schema, CallSpelling spelling, IReadOnlyList<(string Name, JsonElement Parameters)> tools, bool several,
        Thinking? thinking = null)
    {
        ArgumentNullException.ThrowIfNull(spelling);
        ArgumentNullException.ThrowIfNull(tools);
        var key = $"either {schema?.GetRawText()} {spelling.Marks} {several} {string.Join('\n', tools.Select(t => $"{t.Name} {t.Parameters.GetRawText()}"))}";
        return Find(key, thinking, () => Any(schema is { } s ? JsonSchema.Compile(s) : JsonRules.AnyObject,
            Calls(spelling, [.. tools.Select(t => (t.Name, Arguments(t.Name, t.Parameters)))], required: true, several)));
    }

    private static Rule Calls(CallSpelling spelling, (string Name, Rule Arguments)[] tools, bool required, bool several)
    {
        var (before, between, end) = spelling.Marks;
        var call = Of(Any([.. tools.Select(t => Of(Literal(t.Name + between), t.Arguments))]), Literal(end));
        var more = several && spelling.Separator is { } separator ? new Repeat(Of(Literal(separator + before), call), 0, 15) : null;
        var calls = more is null ? call : Of(call, more);
        return required ? Of(Literal(before), calls)
            : Of(new Until(spelling.Begin, mayEnd: true), Literal(before[spelling.Begin.Length..]), calls);
    }

    private static Rule Arguments(string name, JsonElement schema)
    {
        try
        {
            return JsonSchema.Compile(schema);
        }
        catch (ArgumentException error)
        {
            throw new ArgumentException($"the parameters of '{name}': {error.Message}", error);
        }
    }

    private AnswerGrammar Find(string key, Thinking? thinking, Func<Rule> make)
    {
        key = thinking is null ? key : $"{thinking} {key}";
        if (!_grammars.TryGetValue(key, out var grammar))
        {
            var rule = make();
            // "\n" is what most answers begin with behind a thought.
            if (thinking is not null) rule = Of(Literal(thinking.Open), new Until(thinking.Close.Trim()), new Repeat(Literal("\n"), 0, 2), rule);
            grammar = new Grammar(rule);
            if (_grammars.Count >= Kept) _grammars.Clear();
            _grammars[key] = grammar;
        }
        return new AnswerGrammar(grammar, _trie.Value, tokenizer);
    }
}

/// <summary>A form of answers.</summary>
public sealed class AnswerGrammar
{
    private readonly Grammar _grammar;
    private readonly TokenTrie _trie;
    private readonly Tokenizer _tokenizer;

    internal AnswerGrammar(Grammar grammar, TokenTrie trie, Tokenizer tokenizer) => (_grammar, _trie, _tokenizer) = (grammar, trie, tokenizer);

    /// <summary>The mask of one answer.</summary>
    /// <param name="stops">Tokens that end it.</param>
    /// <param name="room">Tokens that it may have at most, with the one that ends it: it is whole by then.</param>
    public ITokenMask Mask(IReadOnlySet<int> stops, int room) => new GrammarMask(_grammar, _trie, _tokenizer, stops, room);
}
