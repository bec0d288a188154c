using System.Buffers.Text;
using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Files;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Tokenizers that ship as tiktoken.model, as Kimi-K2's and Moonlight's do: a line a token, its bytes in base64 and its rank, which is its id. The cutting
/// pattern and the special tokens stand in the model's Python code
/// (tokenization_kimi.py), which is not run: both are written here as they are there. One thing differs: that code cuts texts of more than 25,000 characters
/// without white space, for tiktoken's sake; here they stay whole.
/// </summary>
internal static class TikTokenFile
{
    public const string FileName = "tiktoken.model";

    /// <summary>Special tokens after the last rank. Those that tokenizer_config.json does not name are `&lt;|reserved_token_ID|&gt;`.</summary>
    private const int Reserved = 256;

    private const string TokenizerClass = "TikTokenTokenizer";
    private const long LongestFile = 64_000_000;
    private const int LongestToken = 1024;

    /// <summary>
    /// Han alone; words, with their contractions and what is written before them, in two ways by their case; one to three digits; punctuation with the line
    /// ends after it; white space.
    /// </summary>
    private static readonly string KimiPattern = string.Join('|',
        @"[\p{Han}]+",
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        @"\p{N}{1,3}",
        @" ?[^\s\p{L}\p{N}]+[\r\n]*",
        @"\s*[\r\n]+",
        @"\s+(?!\S)",
        @"\s+");

    /// <exception cref="InvalidDataException">A damaged line; file and line are named.</exception>
    /// <exception cref="NotSupportedException">tokenizer_config.json names another kind of tokenizer.</exception>
    public static TokenizerParts Read(string file)
    {
        var beside = SpecialTokenFiles.Read(Path.GetDirectoryName(Path.GetFullPath(file))!);
        if (beside.Config["tokenizer_class"] is JsonValue named && named.ToString() is var name and not TokenizerClass)
        {
            throw new NotSupportedException($"{file}: tokenizer_class of {TokenizerJson.ConfigName} is '{name}'; "
                + $"a {FileName} is read for {TokenizerClass} (Kimi-K2, Moonlight), whose pattern is known. {TokenizerJson.HowToSave}");
        }
        var tokens = Tokens(file);
        var model = new BpeModel(tokens, Merges(tokens), ignoreMerges: true, rankIsId: true);
        var names = beside.DecoderNames;
        AddedToken[] reserved = [.. Enumerable.Range(tokens.Length, Reserved).Where(id => !names.ContainsKey(id)).Select(id =>
            new AddedToken(id, $"<|reserved_token_{id}|>", Special: true))];
        if (names.Keys.FirstOrDefault(id => id < tokens.Length, -1) is >= 0 and var taken)
        {
            throw new InvalidDataException($"{TokenizerJson.ConfigName} of {file}: added_tokens_decoder gives '{names[taken]}' the id {taken}, "
                + $"but the ids up to {tokens.Length - 1} are ranks of {FileName}");
        }
        var byteLevel = new JsonObject { ["type"] = "ByteLevel", ["add_prefix_space"] = false, ["trim_offsets"] = true, ["use_regex"] = false };
        var pattern = new JsonObject { ["Regex"] = KimiPattern };
        var split = new JsonObject { ["type"] = "Split", ["pattern"] = pattern, ["behavior"] = "Isolated", ["invert"] = false };
        var cut = new JsonObject { ["type"] = "Sequence", ["pretokenizers"] = new JsonArray(split, byteLevel.DeepClone()) };
        Dictionary<string, JsonElement> components = new() { ["pre_tokenizer"] = Json(cut), ["decoder"] = Json(byteLevel) };
        return new TokenizerParts(file, model, beside.Complete(reserved, model, FileName), null,
            TokenizerComponents.ReadPreTokenizer(components["pre_tokenizer"]), [], [], components, beside.Config);
    }

    /// <summary>Token texts in the byte alphabet, by rank.</summary>
    private static string[] Tokens(string file)
    {
        var bytes = RegularFile.ReadAllBytes(file, "a file of tiktoken's ranks", LongestFile);
        Dictionary<int, string> byRank = [];
        HashSet<string> seen = new(StringComparer.Ordinal);
        Span<byte> token = stackalloc byte[LongestToken];
        var line = 0;
        foreach (var range in bytes.AsSpan().Split((byte)'\n'))
        {
            line++;
            var text = bytes.AsSpan(range).TrimEnd("\r "u8);
            if (text.Length == 0) continue;
            var space = text.IndexOf((byte)' ');
            if (space < 1 || !Utf8Parser.TryParse(text[(space + 1)..], out int rank, out var used) || used != text.Length - space - 1 || rank < 0)
                throw Wrong("must be a token in base64, a space and its rank, but is", text);
            if (Base64.DecodeFromUtf8(text[..space], token, out _, out var length) != System.Buffers.OperationStatus.Done || length == 0)
                throw Wrong($"the token is not base64 of 1 to {LongestToken} bytes:", text[..space]);
            var written = ByteLevel.Encode(token[..length]);
            if (!byRank.TryAdd(rank, written)) throw new InvalidDataException($"{file}:{line}: the rank {rank} stands there twice");
            if (!seen.Add(written)) throw new InvalidDataException($"{file}:{line}: the token of rank {rank} stands there twice");
        }
        for (var b = 0; b < 256; b++)
        {
            if (!seen.Contains(ByteLevel.CharOf((byte)b).ToString()))
                throw new InvalidDataException($"{file}: has no token for the byte 0x{b:X2}; a whole file has all 256, so it may be cut off");
        }
        if (Enumerable.Range(0, byRank.Count).FirstOrDefault(rank => !byRank.ContainsKey(rank), -1) is >= 0 and var missing)
            throw new InvalidDataException(string.Create(CultureInfo.InvariantCulture,
                $"{file}: has {byRank.Count:N0} tokens, but none of rank {missing}; ranks go from 0 without a gap"));
        return [.. Enumerable.Range(0, byRank.Count).Select(rank => byRank[rank])];

        InvalidDataException Wrong(string what, ReadOnlySpan<byte> found) => new($"{file}:{line}: {what} '{Pattern.Short(Encoding.UTF8.GetString(found))}'");
    }

    /// <summary>Every way in which a token is made of two others: what tiktoken finds while it merges, by trying.</summary>
    private static List<(int Left, int Right, int Id)> Merges(string[] tokens)
    {
        Dictionary<string, int> ids = new(tokens.Length, StringComparer.Ordinal);
        for (var id = 0; id < tokens.Length; id++) ids.Add(tokens[id], id);
        var parts = ids.GetAlternateLookup<ReadOnlySpan<char>>();
        List<(int, int, int)> merges = [];
        for (var id = 0; id < tokens.Length; id++)
            for (var cut = 1; cut < tokens[id].Length; cut++)
            {
                if (parts.TryGetValue(tokens[id].AsSpan(0, cut), out var left) && parts.TryGetValue(tokens[id].AsSpan(cut), out var right))
                    merges.Add((left, right, id));
            }
        return merges;
    }

    private static JsonElement Json(JsonNode node) => JsonSource.Parse(Encoding.UTF8.GetBytes(node.ToJsonString()), FileName);
}
