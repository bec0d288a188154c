using System.Buffers;
using System.Text;

using Microsoft.ML.Tokenizers;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// What .NET libraries ask of a tokenizer: Microsoft.ML.Tokenizers' abstract class. The ids are those of <see cref="Encode(string, bool)"/>, without a
/// beginning or an end. An offset is a place in the normalised text where there is a normaliser, else in the text; a token that is part of a character has
/// that character's place, so that neighbours may overlap.
/// </summary>
public sealed partial class Tokenizer
{
    /// <inheritdoc/>
    public override Microsoft.ML.Tokenizers.Normalizer? Normalizer => _parts.Normalizer is { } normalizer ? new NormalizerView(normalizer) : null;

    /// <inheritdoc/>
    public override Microsoft.ML.Tokenizers.PreTokenizer PreTokenizer => new PreTokenizerView(_parts.PreTokenizer);

    /// <inheritdoc/>
    public override string Decode(IEnumerable<int> ids) => Decode((ReadOnlySpan<int>)[.. ids]);

    /// <inheritdoc/>
    public override OperationStatus Decode(IEnumerable<int> ids, Span<char> destination, out int idsConsumed, out int charsWritten)
    {
        ArgumentNullException.ThrowIfNull(ids);
        (idsConsumed, charsWritten) = (0, 0);
        var stream = new StreamDecoder(this);
        var waiting = 0; // ids whose character is not whole yet
        foreach (var id in ids)
        {
            var text = stream.Push(id);
            waiting++;
            if (text.Length == 0 && Bytes(id).Length > 0) continue;
            if (!text.TryCopyTo(destination[charsWritten..])) return OperationStatus.DestinationTooSmall;
            (charsWritten, idsConsumed, waiting) = (charsWritten + text.Length, idsConsumed + waiting, 0);
        }
        if (waiting == 0) return OperationStatus.Done;
        var rest = stream.Flush();
        if (!rest.TryCopyTo(destination[charsWritten..])) return OperationStatus.DestinationTooSmall;
        (charsWritten, idsConsumed) = (charsWritten + rest.Length, idsConsumed + waiting);
        return OperationStatus.Done;
    }

    /// <inheritdoc/>
    protected override EncodeResults<EncodedToken> EncodeToTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        var written = WithWholeSurrogates(text ?? textSpan.ToString());
        var result = new Placed(this, settings);
        for (var at = 0; at < written.Length;)
        {
            var token = _rawTokens.Next(written, at, out var start, out var end);
            if (start > at) result.Ordinary(written[at..start]);
            if (token is not null) result.Token(token.Id, written.AsSpan(start, end - start));
            at = end;
        }
        return result.End();
    }

    /// <inheritdoc/>
    protected override EncodeResults<int> EncodeToIds(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings)
    {
        if (!settings.ConsiderNormalization || !settings.ConsiderPreTokenization || settings.MaxTokenCount != int.MaxValue || _parts.Normalizer is not null)
            return base.EncodeToIds(text, textSpan, settings);
        text ??= textSpan.ToString();
        return new EncodeResults<int> { Tokens = Encode(text), CharsConsumed = text.Length };
    }

    /// <inheritdoc/>
    protected override int CountTokens(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings) =>
        EncodeToIds(text, textSpan, settings).Tokens.Count;

    /// <summary>The base class would cut inside a character where a token ends there.</summary>
    protected override int GetIndexByTokenCount(string? text, ReadOnlySpan<char> textSpan, EncodeSettings settings, bool fromEnd, out string? normalizedText,
        out int tokenCount)
    {
        var most = settings.MaxTokenCount;
        settings.MaxTokenCount = int.MaxValue;
        var result = EncodeToTokens(text, textSpan, settings);
        var (tokens, length) = (result.Tokens, (result.NormalizedText ?? text)?.Length ?? textSpan.Length);
        normalizedText = result.NormalizedText;
        tokenCount = Math.Min(most, tokens.Count);
        if (fromEnd)
        {
            while (tokenCount > 0 && tokenCount < tokens.Count && !IsCut(tokens, tokens.Count - tokenCount)) tokenCount--;
            return tokenCount == 0 ? length : tokens[^tokenCount].Offset.Start.Value;
        }
        while (tokenCount > 0 && tokenCount < tokens.Count && !IsCut(tokens, tokenCount)) tokenCount--;
        return tokenCount == 0 ? 0 : tokens[tokenCount - 1].Offset.End.Value;
    }

    /// <summary>Whether a text may be cut before a token: not inside a character.</summary>
    private static bool IsCut(IReadOnlyList<EncodedToken> tokens, int before) => tokens[before].Offset.Start.Value >= tokens[before - 1].Offset.End.Value;

    /// <summary>Gathers tokens with their places.</summary>
    private sealed class Placed(Tokenizer tokenizer, EncodeSettings settings)
    {
        private readonly Normalizer? _normalizer = settings.ConsiderNormalization ? tokenizer._parts.Normalizer : null;
        private readonly List<EncodedToken> _tokens = [];
        private readonly StringBuilder _text = new();

        public void Token(int id, ReadOnlySpan<char> text)
        {
            _tokens.Add(new EncodedToken(id, tokenizer._texts[id]!, new Range(_text.Length, _text.Length + text.Length)));
            _text.Append(text);
        }

        public void Ordinary(string text)
        {
            if (_normalizer is not null) text = _normalizer.Apply(text);
            for (var at = 0; at < text.Length;)
            {
                var token = tokenizer._normalizedTokens.Next(text, at, out var start, out var end);
                if (start > at) Pieces(text, at, start);
                if (token is not null) Token(token.Id, text.AsSpan(start, end - start));
                at = end;
            }
        }

        public EncodeResults<EncodedToken> End()
        {
            var count = Math.Min(_tokens.Count, settings.MaxTokenCount);
            while (count > 0 && count < _tokens.Count && !IsCut(_tokens, count)) count--;
            return new EncodeResults<EncodedToken>
            {
                Tokens = _tokens.GetRange(0, count),
                NormalizedText = _normalizer is null ? null : _text.ToString(),
                CharsConsumed = count == 0 ? 0 : _tokens[count - 1].Offset.End.Value,
            };
        }

        private void Pieces(string text, int from, int to)
        {
            if (!tokenizer._encoders.TryTake(out var worker))
            {
                var encoder = new BpeEncoder(tokenizer._parts.Model);
                worker = (encoder, tokenizer._parts.PreTokenizer.Connect(encoder));
            }
            worker.Encoder.Clear();
            (settings.ConsiderPreTokenization ? worker.Pipe : worker.Encoder).Add(text, from, to);
            int[] ids = [.. worker.Encoder.Output];
            tokenizer._encoders.Add(worker);
            // The bytes of the tokens are those of the text, unless its pre-tokenizer adds or drops some: then each has the place of all.
            var whole = ids.Sum(id => tokenizer.Bytes(id).Length) == Encoding.UTF8.GetByteCount(text.AsSpan(from, to - from));
            var place = new Walk(text, from);
            foreach (var id in ids)
            {
                var (start, end) = whole ? place.Next(tokenizer.Bytes(id).Length) : (from, to);
                var offset = new Range(_text.Length + start - from, _text.Length + end - from);
                _tokens.Add(new EncodedToken(id, Encoding.UTF8.GetString(tokenizer.Bytes(id)), offset));
            }
            _text.Append(text, from, to - from);
        }
    }

    /// <summary>Goes along a text by bytes of its UTF-8.</summary>
    private sealed class Walk(string text, int at)
    {
        private int _bytesLeft; // of the character before at

        /// <summary>The characters that the next bytes lie in.</summary>
        public (int Start, int End) Next(int bytes)
        {
            var start = _bytesLeft > 0 ? at - Rune.GetRuneAt(text, at - (char.IsLowSurrogate(text[at - 1]) ? 2 : 1)).Utf16SequenceLength : at;
            for (bytes -= _bytesLeft; bytes > 0;)
            {
                var rune = Rune.GetRuneAt(text, at);
                at += rune.Utf16SequenceLength;
                bytes -= rune.Utf8SequenceLength;
            }
            _bytesLeft = -bytes;
            return (start, at);
        }
    }

    private sealed class NormalizerView(Normalizer normalizer) : Microsoft.ML.Tokenizers.Normalizer
    {
        public override string Normalize(string original) => normalizer.Apply(original);

        public override string Normalize(ReadOnlySpan<char> original) => normalizer.Apply(original.ToString());
    }

    private sealed class PreTokenizerView(PreTokenizer preTokenizer) : Microsoft.ML.Tokenizers.PreTokenizer
    {
        public override IEnumerable<(int Offset, int Length)> PreTokenize(string text)
        {
            ArgumentNullException.ThrowIfNull(text);
            var pieces = new Pieces();
            if (text.Length > 0) preTokenizer.Connect(pieces).Add(text, 0, text.Length);
            return pieces.Found;
        }

        public override IEnumerable<(int Offset, int Length)> PreTokenize(ReadOnlySpan<char> text) => PreTokenize(text.ToString());

        private sealed class Pieces : PieceSink
        {
            public List<(int, int)> Found { get; } = [];

            public override void Add(string text, int start, int end) => Found.Add((start, end - start));
        }
    }
}
