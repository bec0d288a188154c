using System.Buffers;

using KtNotebooks.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

/// <summary>Our tokenizer as Microsoft.ML.Tokenizers' abstract class, which .NET libraries take.</summary>
public sealed class MicrosoftTokenizerTests
{
    private static readonly Tokenizer Ours = Tokenizer.Load(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"));
    private static readonly Microsoft.ML.Tokenizers.Tokenizer Theirs = Ours;

    [Fact]
    public void The_ids_are_the_same_in_every_way_of_asking() => Samples.Check(Samples.ValidText, text =>
        Theirs.EncodeToIds(text).SequenceEqual(Ours.Encode(text)) && Theirs.CountTokens(text) == Ours.Encode(text).Length
        && Theirs.EncodeToTokens(text, out _).Select(t => t.Id).SequenceEqual(Ours.Encode(text)) && Theirs.Decode(Theirs.EncodeToIds(text)) == text);

    [Fact]
    public void Offsets_cover_the_text_and_each_token_lies_in_its_own() => Samples.Check(Samples.ValidText, text =>
    {
        var tokens = Theirs.EncodeToTokens(text, out var normalized);
        text = normalized ?? text;
        var at = 0;
        foreach (var token in tokens)
        {
            var (start, end) = (token.Offset.Start.Value, token.Offset.End.Value);
            if (start > at || end < at || !token.Value.Contains('\uFFFD') && text[token.Offset] != token.Value) return false;
            at = end;
        }
        return at == text.Length;
    });

    [Fact]
    public void A_cut_by_tokens_never_takes_more_than_it_may_nor_half_a_character() => Samples.Check(Samples.ValidText, text =>
        Enumerable.Range(0, 6).All(most =>
        {
            var index = Theirs.GetIndexByTokenCount(text, most, out var normalized, out var count);
            var last = Theirs.GetIndexByTokenCountFromEnd(text, most, out _, out var counted);
            var whole = normalized ?? text;
            return count <= most && counted <= most && IsBetween(whole, index) && IsBetween(whole, last)
                && Theirs.EncodeToTokens(text, out _).Count(t => t.Offset.End.Value <= index) >= count;
        }));

    [Fact]
    public void Special_tokens_are_whole_and_have_their_place()
    {
        var eos = Ours.EosId!.Value;
        var text = $"a{Ours.Decode([eos])}b";
        var token = Assert.Single(Theirs.EncodeToTokens(text, out _), t => t.Id == eos);
        Assert.Equal((1, text.Length - 1), (token.Offset.Start.Value, token.Offset.End.Value));
    }

    [Fact]
    public void Decoding_stops_where_the_room_ends()
    {
        var ids = Theirs.EncodeToIds("蓝色加黄色 is green 🚀");
        Span<char> room = stackalloc char[64];
        Assert.Equal(OperationStatus.Done, Theirs.Decode(ids, room, out var used, out var written));
        Assert.Equal((ids.Count, "蓝色加黄色 is green 🚀"), (used, new string(room[..written])));
        Assert.Equal(OperationStatus.DestinationTooSmall, Theirs.Decode(ids, room[..3], out used, out written));
        Assert.True(written <= 3 && Ours.Decode([.. ids.Take(used)]) == new string(room[..written]));
    }

    [Fact]
    public void Its_pieces_are_those_that_it_merges_within()
    {
        var pieces = Theirs.PreTokenizer!.PreTokenize("one two").ToArray();
        Assert.Equal(7, pieces.Sum(p => p.Length));
        Assert.True(pieces.Length > 1);
        Assert.Equal(Ours.Encode("one two").Length, Theirs.CountTokens("one two", considerPreTokenization: true, considerNormalization: false));
    }

    private static bool IsBetween(string text, int index) =>
        index <= text.Length && (index == 0 || index == text.Length || !char.IsLowSurrogate(text[index]) || !char.IsHighSurrogate(text[index - 1]));
}
