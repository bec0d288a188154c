using System.Collections.Concurrent;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// A byte-level BPE tokenizer as Hugging Face's tokenizer.json describes it: added tokens are cut out, the rest is normalised, cut into pieces by
/// the pre-tokenizer, and each piece's bytes are merged. Immutable and safe to use from many threads at once.
/// </summary>
public sealed partial class Tokenizer : Microsoft.ML.Tokenizers.Tokenizer
{
    private readonly TokenizerParts _parts;
    private readonly AddedTokenFinder _rawTokens;
    private readonly AddedTokenFinder _normalizedTokens;
    private readonly string?[] _texts;
    private readonly byte[]?[] _bytes;
    private readonly bool[] _special;
    private readonly Dictionary<string, int> _addedIds;
    private readonly ConcurrentBag<(BpeEncoder Encoder, PieceSink Pipe)> _encoders = [];

    internal Tokenizer(TokenizerParts parts)
    {
        _parts = parts;
        var size = Math.Max(parts.Model.Tokens.Length, parts.Added.Select(t => t.Id + 1).DefaultIfEmpty(0).Max());
        _texts = new string?[size];
        _bytes = new byte[size][];
        _special = new bool[size];
        parts.Model.Tokens.CopyTo(_texts, 0);
        foreach (var token in parts.Added)
        {
            _texts[token.Id] = token.Content;
            _special[token.Id] = token.Special;
        }
        _addedIds = parts.Added.ToDictionary(t => t.Content, t => t.Id, StringComparer.Ordinal);
        _rawTokens = new AddedTokenFinder(parts.Added.Where(t => !t.Normalized));
        _normalizedTokens = new AddedTokenFinder(parts.Added.Where(t => t.Normalized)
            .Select(t => parts.Normalizer is null ? t : t with { Content = parts.Normalizer.Apply(t.Content) }));
        BosId = Named("bos_token");
        EosId = Named("eos_token");
        PadId = Named("pad_token");
    }

    /// <summary>The number of ids, one more than the largest: the rows that an embedding needs.</summary>
    public int VocabSize => _texts.Length;

    /// <summary>The token that begins a text, or null when the tokenizer has none (Qwen3).</summary>
    public int? BosId { get; }

    /// <summary>add_bos_token of tokenizer_config.json: texts begin with <see cref="BosId"/>.</summary>
    public bool AddsBos => _parts.Config["add_bos_token"] is JsonValue value && value.TryGetValue<bool>(out var on) && on;

    /// <summary>The token that ends an answer, or null when tokenizer_config.json names none.</summary>
    public int? EosId { get; }

    /// <summary>The padding token, or null when tokenizer_config.json names none.</summary>
    public int? PadId { get; }

    /// <summary>
    /// Loads a folder with tokenizer.json or tiktoken.model and, if present, tokenizer_config.json; or that file itself; or the name of a model in Hugging
    /// Face's or ModelScope's cache.
    /// </summary>
    /// <exception cref="FileNotFoundException">There is no tokenizer.</exception>
    /// <exception cref="InvalidDataException">A file is not valid; the message names the file and the place.</exception>
    /// <exception cref="NotSupportedException">The tokenizer has a component of an unknown kind; the message names it.</exception>
    public static Tokenizer Load(string path) => new(TokenizerJson.Read(path));

    /// <summary>Writes tokenizer.json and tokenizer_config.json, which transformers loads too. Each file is renamed into place when whole.</summary>
    public void Save(string folder) => TokenizerJson.Write(_parts, folder);

    /// <summary>The same tokenizer with a chat template (Jinja) in its tokenizer_config.json.</summary>
    public Tokenizer WithChatTemplate(string jinja)
    {
        var config = _parts.Config.DeepClone().AsObject();
        config["chat_template"] = jinja;
        return new Tokenizer(_parts with { Config = config });
    }

    /// <summary>The ids of a text. Special tokens that stand in the text are recognised; none is added unless <paramref name="addSpecial"/>.</summary>
    public int[] Encode(ReadOnlySpan<char> text, bool addSpecial = false) => Encode(text.ToString(), addSpecial);

    /// <inheritdoc cref="Encode(ReadOnlySpan{char}, bool)"/>
    public int[] Encode(string text, bool addSpecial = false)
    {
        text = WithWholeSurrogates(text);
        if (!_encoders.TryTake(out var worker))
        {
            var encoder = new BpeEncoder(_parts.Model);
            worker = (encoder, _parts.PreTokenizer.Connect(encoder));
        }
        worker.Encoder.Clear();
        for (var at = 0; at < text.Length;)
        {
            var token = _rawTokens.Next(text, at, out var start, out var end);
            if (start > at)
                EncodeNamed(worker, at == 0 && start == text.Length ? text : text[at..start]);
            if (token is not null)
                worker.Encoder.Emit(token.Id);
            at = end;
        }
        var ids = worker.Encoder.Output;
        int[] result = addSpecial ? [.. _parts.Before, .. ids, .. _parts.After] : ids.ToArray();
        _encoders.Add(worker);
        return result;
    }

    /// <summary>The text of ids. Bytes that are not UTF-8 become U+FFFD.</summary>
    /// <exception cref="ArgumentOutOfRangeException">An id is not in the vocabulary.</exception>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecial = false)
    {
        var bytes = new List<byte>(ids.Length * 4);
        foreach (var id in ids)
        {
            if (!(skipSpecial && IsSpecial(id)))
                bytes.AddRange(Bytes(id));
        }
        return Encoding.UTF8.GetString(System.Runtime.InteropServices.CollectionsMarshal.AsSpan(bytes));
    }

    /// <summary>
    /// A token as one can print it: its text, with control characters escaped as in C# and bytes that are only part of a character as \xE4.
    /// </summary>
    public string TokenText(int id)
    {
        var result = new StringBuilder();
        ReadOnlySpan<byte> bytes = Bytes(id);
        while (bytes.Length > 0)
        {
            var whole = Rune.DecodeFromUtf8(bytes, out var rune, out var used) == System.Buffers.OperationStatus.Done;
            if (!whole)
            {
                for (var i = 0; i < used; i++)
                    result.Append($"\\x{bytes[i]:X2}");
            }
            else if (Rune.IsControl(rune))
            {
                result.Append(rune.Value switch { '\n' => "\\n", '\r' => "\\r", '\t' => "\\t", var c => $"\\u{c:X4}" });
            }
            else
            {
                result.Append(rune);
            }
            bytes = bytes[used..];
        }
        return result.ToString();
    }

    /// <summary>The id of a token written as in tokenizer.json (for a special token: its text), or null.</summary>
    public int? IdOf(string token) => _addedIds.TryGetValue(token, out var id) ? id : _parts.Model.IdOf(token);

    /// <summary>True for special tokens: those that decoding with skipSpecial leaves out.</summary>
    public bool IsSpecial(int id) => (uint)id < (uint)_special.Length && _special[id];

    /// <summary>The vocabulary has a token of this number; some have gaps.</summary>
    public bool Has(int id) => (uint)id < (uint)_texts.Length && _texts[id] is not null;

    /// <summary>The bytes that a token stands for.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The id is not in the vocabulary.</exception>
    public ReadOnlySpan<byte> Bytes(int id)
    {
        if (!Has(id) || _texts[id] is not { } text)
            throw new ArgumentOutOfRangeException(null, $"The tokenizer has no token {id}; its ids go from 0 to {VocabSize - 1}.");
        return _bytes[id] ??= ByteLevel.Decode(text);
    }

    /// <summary>Half of a surrogate pair is no character: it becomes U+FFFD before anything looks at it, as it would in UTF-8.</summary>
    private static string WithWholeSurrogates(string text)
    {
        var at = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF');
        if (at < 0)
            return text;
        char[]? changed = null;
        for (; at < text.Length; at++)
        {
            if (!char.IsSurrogate(text[at]))
                continue;
            if (at + 1 < text.Length && char.IsSurrogatePair(text[at], text[at + 1]))
                at++;
            else
                (changed ??= text.ToCharArray())[at] = '\uFFFD';
        }
        return changed is null ? text : new string(changed);
    }

    /// <summary>What a text cannot be encoded for is the tokenizer's doing: its file is named.</summary>
    private void EncodeNamed((BpeEncoder Encoder, PieceSink Pipe) worker, string text)
    {
        try
        {
            EncodeOrdinary(worker, text);
        }
        catch (InvalidDataException error)
        {
            throw new InvalidDataException($"{_parts.Source}: {error.Message}", error);
        }
    }

    private void EncodeOrdinary((BpeEncoder Encoder, PieceSink Pipe) worker, string text)
    {
        if (_parts.Normalizer is not null)
            text = _parts.Normalizer.Apply(text);
        for (var at = 0; at < text.Length;)
        {
            var token = _normalizedTokens.Next(text, at, out var start, out var end);
            if (start > at)
                worker.Pipe.Add(text, at, start);
            if (token is not null)
                worker.Encoder.Emit(token.Id);
            at = end;
        }
    }

    private int? Named(string key)
    {
        if (TokenizerJson.TokenName(_parts.Config, key) is not { } name)
            return null;
        return IdOf(name) ?? throw new InvalidDataException($"{_parts.Source}: '{name}' is {key}, but has no id there");
    }
}

/// <summary>What a tokenizer is made of, and the parts of its files that are kept as they were for writing.</summary>
/// <param name="Source">The file that it was read from, for errors.</param>
/// <param name="Model">Vocabulary and merges.</param>
/// <param name="Added">Added tokens by rising id.</param>
/// <param name="Normalizer">Rewrites text, or null.</param>
/// <param name="PreTokenizer">Cuts text.</param>
/// <param name="Before">Ids put before a text when specials are asked for.</param>
/// <param name="After">Ids put after it.</param>
/// <param name="Components">normalizer, pre_tokenizer, post_processor and decoder of tokenizer.json.</param>
/// <param name="Config">tokenizer_config.json.</param>
internal sealed record TokenizerParts(
    string Source, BpeModel Model, AddedToken[] Added, Normalizer? Normalizer, PreTokenizer PreTokenizer, int[] Before, int[] After,
    IReadOnlyDictionary<string, JsonElement> Components, JsonObject Config);
