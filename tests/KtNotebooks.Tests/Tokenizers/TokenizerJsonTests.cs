using System.Text.Json;
using System.Text.Json.Nodes;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Tokenizers;

public class TokenizerJsonTests
{
    private const string ByteLevelOnly = """{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}""";

    [Fact]
    public void What_is_saved_loads_as_the_same_tokenizer()
    {
        using var folder = new Samples.Folder();
        Samples.Small.Save(folder.Path);
        var loaded = Tokenizer.Load(folder.Path);
        Assert.Equal(Samples.Small.VocabSize, loaded.VocabSize);
        Assert.Equal((Samples.Small.BosId, Samples.Small.EosId, Samples.Small.PadId), (loaded.BosId, loaded.EosId, loaded.PadId));
        Samples.Check(Samples.ValidText, text => loaded.Encode(text).SequenceEqual(Samples.Small.Encode(text)));
        Assert.Equal([TokenizerJson.FileName, TokenizerJson.ConfigName], Directory.GetFiles(folder.Path).Select(Path.GetFileName)
            .Order(StringComparer.Ordinal));

        using var again = new Samples.Folder();
        loaded.Save(again.Path);
        foreach (var name in new[] { TokenizerJson.FileName, TokenizerJson.ConfigName })
            Assert.Equal(File.ReadAllText(Path.Combine(folder.Path, name)), File.ReadAllText(Path.Combine(again.Path, name)));
    }

    [Fact]
    public void Merges_are_read_as_text_and_as_pairs()
    {
        var json = Json([("a", "b"), ("ab", "c")]);
        var asText = Load(json).Encode("abcab");
        json["model"]!["merges"] = new JsonArray([.. json["model"]!["merges"]!.AsArray()
            .Select(m => new JsonArray([.. m!.GetValue<string>().Split(' ').Select(t => JsonValue.Create(t))]))]);
        Assert.Equal(asText, Load(json).Encode("abcab"));
        Assert.Equal(2, asText.Length);
    }

    [Fact]
    public void Ignore_merges_takes_a_word_that_is_a_token_whole()
    {
        var json = Json([("a", "b"), ("b", "c")]);
        json["model"]!["vocab"]!["abc"] = 900;
        Assert.Equal(2, Load(json).Encode("abc").Length);
        json["model"]!["ignore_merges"] = true;
        Assert.Equal([900], Load(json).Encode("abc"));
    }

    [Theory]
    [InlineData("""{"single_word":true}""", "<x> a<x> <x>b", "T| a<x> <x>b")]
    [InlineData("""{"lstrip":true}""", "a \n<x> b", "a|T| b")]
    [InlineData("""{"rstrip":true}""", "a <x> \nb", "a |T|b")]
    [InlineData("{}", "a<x><x>b", "a|T|T|b")]
    public void Added_tokens_obey_their_flags(string flags, string text, string expected)
    {
        var json = Json([]);
        var token = JsonNode.Parse(flags)!.AsObject();
        token["id"] = 256;
        token["content"] = "<x>";
        token["special"] = true;
        json["added_tokens"] = new JsonArray(token);
        var tokenizer = Load(json);
        var parts = new List<string>();
        foreach (var id in tokenizer.Encode(text))
        {
            if (id == 256)
                parts.Add("T");
            else if (parts.Count == 0 || parts[^1] == "T")
                parts.Add(tokenizer.Decode([id]));
            else
                parts[^1] += tokenizer.Decode([id]);
        }
        Assert.Equal(expected, string.Join('|', parts));
    }

    [Fact]
    public void The_longest_of_several_added_tokens_wins()
    {
        var json = Json([]);
        json["added_tokens"] = JsonNode.Parse("""[{"id":256,"content":"<x"},{"id":257,"content":"<x>"},{"id":258,"content":"<x>>y"}]""");
        Assert.Equal([256, 257, 256], Load(json).Encode("<x<x><x"));
        Assert.Equal([257, .. Load(Json([])).Encode(">")], Load(json).Encode("<x>>"));
    }

    [Fact]
    public void Specials_are_added_when_asked_for()
    {
        var json = Json([]);
        json["added_tokens"] = JsonNode.Parse("""[{"id":256,"content":"<s>","special":true},{"id":257,"content":"</s>","special":true}]""");
        json["post_processor"] = JsonNode.Parse("""
            {"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",
             "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],
             "pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[256],"tokens":["<s>"]},"</s>":{"id":"</s>","ids":[257],"tokens":["</s>"]}}}]}
            """);
        var tokenizer = Load(json);
        Assert.Equal([256, .. tokenizer.Encode("a"), 257], tokenizer.Encode("a", addSpecial: true));
        Assert.Single(tokenizer.Encode("a"));
    }

    [Fact]
    public void Config_names_tokens_as_text_or_as_objects()
    {
        using var folder = new Samples.Folder();
        var json = Json([]);
        json["added_tokens"] = JsonNode.Parse("""[{"id":256,"content":"<s>","special":true},{"id":257,"content":"</s>","special":true}]""");
        folder.Write("tokenizer.json", json.ToJsonString());
        folder.Write("tokenizer_config.json",
            """{"add_bos_token":true,"bos_token":{"__type":"AddedToken","content":"<s>"},"eos_token":"</s>","pad_token":null}""");
        var tokenizer = Tokenizer.Load(folder.Path);
        Assert.Equal((256, 257, null), (tokenizer.BosId, tokenizer.EosId, tokenizer.PadId));
        Assert.Equal([256], tokenizer.Encode("", addSpecial: true));

        folder.Write("tokenizer_config.json", """{"bos_token":"<nope>"}""");
        var nameless = Assert.Throws<InvalidDataException>(() => Tokenizer.Load(folder.Path)).Message;
        Assert.Contains("/tokenizer.json: '<nope>' is bos_token, but none of tokenizer.json, added_tokens_decoder of tokenizer_config.json", nameless);
        Assert.EndsWith("gives that token an id", nameless);
    }

    [Theory]
    [InlineData("normalizer", """{"type":"NFC"}""", "e\u0301", "é")]
    [InlineData("normalizer",
        """{"type":"Sequence","normalizers":[{"type":"Replace","pattern":{"String":"x"},"content":"yy"},{"type":"Prepend","prepend":">"}]}""", "axb", ">ayyb")]
    [InlineData("normalizer", """{"type":"Replace","pattern":{"Regex":" +"},"content":"_"}""", "a  b ", "a_b_")]
    public void Normalizers_rewrite_the_text(string name, string component, string text, string expected)
    {
        var json = Json([]);
        json[name] = JsonNode.Parse(component);
        var tokenizer = Load(json);
        Assert.Equal(expected, tokenizer.Decode(tokenizer.Encode(text)));
    }

    [Theory]
    [InlineData("normalizer", """{"type":"BertNormalizer"}""", "normalizer 'BertNormalizer'")]
    [InlineData("pre_tokenizer", """{"type":"Metaspace"}""", "pre_tokenizer 'Metaspace'")]
    [InlineData("decoder", """{"type":"WordPiece"}""", "decoder 'WordPiece'")]
    [InlineData("post_processor", """{"type":"BertProcessing"}""", "post_processor 'BertProcessing'")]
    [InlineData("model", """{"type":"Unigram","vocab":[]}""", "'Unigram'")]
    public void An_unknown_component_is_named(string name, string component, string expected)
    {
        var json = Json([]);
        json[name] = JsonNode.Parse(component);
        Assert.Contains(expected, Assert.Throws<NotSupportedException>(() => Load(json)).Message);
    }

    [Fact]
    public void A_merge_of_tokens_that_do_not_exist_is_named()
    {
        var json = Json([("a", "b")]);
        json["model"]!["merges"]!.AsArray().Add("b zz");
        Assert.Contains("merge 1 needs the token 'zz'", Assert.Throws<InvalidDataException>(() => Load(json)).Message);
    }

    [Fact]
    public void A_byte_without_a_token_is_an_error_and_not_lost()
    {
        var json = Json([]);
        json["model"]!["vocab"]!.AsObject().Remove("a");
        Assert.Contains("0x61", Assert.Throws<InvalidDataException>(() => Load(json).Encode("a")).Message);
    }

    [Theory]
    [InlineData("")]
    [InlineData("garbage")]
    [InlineData("[]")]
    [InlineData("{}")]
    [InlineData("null")]
    [InlineData("""{"model":3}""")]
    [InlineData("""{"model":{"type":"BPE"}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":"x"},"merges":[]}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":2147483647},"merges":[]}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{"a":0},"merges":[7]}}""")]
    [InlineData("""{"model":{"type":"BPE","vocab":{},"merges":[]}}""")]
    [InlineData("""{"model":{"type":7,"vocab":{"a":0},"merges":[]}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[["a"]]}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[[1,2]]}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[],"dropout":0.1}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"normalizer":7}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"normalizer":{"type":"Replace"}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Sequence"}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"3"}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"decoder":{"type":null}}""")]
    [InlineData("""{"model":{"vocab":{"a":0},"merges":[]},"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}]}}""")]
    [InlineData("""
        {"model":{"vocab":{"a":0},"merges":[]},"pre_tokenizer":{"type":"ByteLevel"},
         "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[77]}}}}
        """)]
    [InlineData("""{"added_tokens":7,"model":{"vocab":{"a":0},"merges":[]}}""")]
    [InlineData("""{"added_tokens":[{"id":1,"content":"x"},{"id":2,"content":"x"}],"model":{"vocab":{"a":0},"merges":[]}}""")]
    [InlineData("""{"added_tokens":[{"id":1,"content":"x"},{"id":1,"content":"y"}],"model":{"vocab":{"a":0},"merges":[]}}""")]
    [InlineData("""{"added_tokens":[{"id":1,"content":"\ud800"}],"model":{"vocab":{"a":0},"merges":[]}}""")]
    [InlineData("""{"added_tokens":[{"id":1}],"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}""")]
    public void Garbage_is_an_error_that_names_the_file(string text)
    {
        using var folder = new Samples.Folder();
        var file = folder.Write("tokenizer.json", text);
        var error = Assert.ThrowsAny<Exception>(() => Tokenizer.Load(file));
        Assert.True(error is InvalidDataException or NotSupportedException, error.ToString());
        Assert.Contains(file, error.Message);
        foreach (var sentence in new[] { "The given key", "same key", "requires an element", "Nullable", "(Parameter" }) Assert.DoesNotContain(sentence,
            error.Message);
    }

    /// <summary>Old tokenizers name their special tokens beside tokenizer.json.</summary>
    [Theory]
    [InlineData("tokenizer_config.json",
        """{"eos_token":"<end>","added_tokens_decoder":{"260":{"content":"<end>","lstrip":true,"special":true},"261":{"content":"<tool>","special":false}}}""",
        null)]
    [InlineData("added_tokens.json", """{"<end>":260,"<tool>":261}""", """{"eos_token":{"content":"<end>","lstrip":false}}""")]
    public void Special_tokens_beside_the_tokenizer_are_read(string name, string text, string? map)
    {
        using var folder = new Samples.Folder();
        folder.Write("tokenizer.json", Json([]).ToJsonString());
        folder.Write(name, text);
        if (map is not null) folder.Write("special_tokens_map.json", map);
        var tokenizer = Tokenizer.Load(folder.Path);
        Assert.Equal(260, tokenizer.EosId);
        Assert.Equal(262, tokenizer.VocabSize);
        Assert.True(tokenizer.IsSpecial(260));
        Assert.False(tokenizer.IsSpecial(261));
        var spaces = tokenizer.Encode(" ")[0];
        Assert.Equal(map is null ? [260, 261] : [spaces, 260, 261], tokenizer.Encode(" <end><tool>"));
        using var again = new Samples.Folder();
        tokenizer.Save(again.Path);
        Assert.Equal(tokenizer.Encode(" <end><tool>"), Tokenizer.Load(again.Path).Encode(" <end><tool>"));
        Assert.Equal(260, Tokenizer.Load(again.Path).EosId);
    }

    [Theory]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder":{"7":{"content":"<x>"}}}""",
        "tokenizer_config.json gives '<x>' the id 7, which tokenizer.json gives to")]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder":{"x":{"content":"<x>"}}}""", "added_tokens_decoder 'x' must be an id")]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder":{"300":{}}}""", "added_tokens_decoder '300': has no 'content'")]
    [InlineData("tokenizer_config.json", """{"added_tokens_decoder":[]}""", "'added_tokens_decoder' must be an object, but is a list")]
    [InlineData("tokenizer_config.json", """{"additional_special_tokens":["<x>"]}""", "'<x>' stands in additional_special_tokens, but none of")]
    [InlineData("tokenizer_config.json", """{"eos_token":7}""", "'eos_token' must be a text, but is a number")]
    [InlineData("added_tokens.json", """{"<x>":"7"}""", "'<x>' must have an id")]
    [InlineData("special_tokens_map.json", """{"eos_token":"<x>"}""", "'<x>' is eos_token, but none of")]
    [InlineData("special_tokens_map.json", "[]", "must be a JSON object, but is a list")]
    public void Special_tokens_that_cannot_be_are_named_with_their_file(string name, string text, string message)
    {
        using var folder = new Samples.Folder();
        folder.Write("tokenizer.json", Json([]).ToJsonString());
        folder.Write(name, text);
        Assert.Contains(message, Assert.Throws<InvalidDataException>(() => Tokenizer.Load(folder.Path)).Message);
    }

    [Fact]
    public void A_key_that_stands_twice_counts_once()
    {
        using var folder = new Samples.Folder();
        folder.Write("tokenizer.json", Json([]).ToJsonString());
        folder.Write("tokenizer_config.json", """{"eos_token":"<y>","eos_token":"<x>","added_tokens_decoder":{"300":{"content":"<x>","content":"<x>"}}}""");
        Assert.Equal(300, Tokenizer.Load(folder.Path).EosId);
    }

    /// <summary>What a downloaded tokenizer may ask for is bounded.</summary>
    [Fact]
    public void A_normalizer_that_grows_and_a_pattern_without_end_are_stopped()
    {
        var json = Json([]);
        const string Doubles = """{"type":"Replace","pattern":{"String":"a"},"content":"aa"}""";
        json["normalizer"] = Sequence("normalizers", Doubles, 40);
        Assert.Contains("the normalizer makes a text of more than 65,556 characters", Assert.Throws<InvalidDataException>(() =>
            Load(json).Encode("a")).Message);
        json = Json([]);
        const string Split = """{"type":"Split","pattern":{"Regex":"a*a*a*a*a*a*a*a*b"},"behavior":"Isolated"}""";
        json["pre_tokenizer"] = JsonNode.Parse($$"""{"type":"Sequence","pretokenizers":[{{Split}},{{ByteLevelOnly}}]}""");
        Assert.Matches(@"tokenizer\.json: the pattern 'a\*a.*b' takes more than 1,400,000 steps on a text of 2,000 characters",
            Assert.Throws<InvalidDataException>(() => Load(json).Encode(new string('a', 2000))).Message);
        json["pre_tokenizer"] = Sequence("pretokenizers", ByteLevelOnly, 1000);
        Assert.Contains("the pre_tokenizer has 1000 stages; at most 64 are taken", Assert.Throws<NotSupportedException>(() => Load(json)).Message);
    }

    private static JsonObject Sequence(string key, string stage, int count) =>
        new() { ["type"] = "Sequence", [key] = new JsonArray([.. Enumerable.Range(0, count).Select(_ => JsonNode.Parse(stage))]) };

    [Theory]
    [InlineData("qwen.tiktoken", "belongs to the first Qwen models")]
    [InlineData("tokenizer.model", "is SentencePiece's")]
    [InlineData("vocab.json", "save_pretrained")]
    public void What_stands_there_instead_is_named(string file, string message)
    {
        using var folder = new Samples.Folder();
        folder.Write(file, "");
        Assert.Contains(message, Assert.Throws<FileNotFoundException>(() => Tokenizer.Load(folder.Path)).Message);
    }

    [Fact]
    public void A_file_cut_off_anywhere_is_an_error_that_names_it()
    {
        using var folder = new Samples.Folder();
        var whole = Json([("a", "b")]).ToJsonString();
        for (var length = 0; length < whole.Length; length += 97)
        {
            var file = folder.Write("tokenizer.json", whole[..length]);
            Assert.Contains(file, Assert.Throws<InvalidDataException>(() => Tokenizer.Load(folder.Path)).Message);
        }
    }

    [Fact]
    public void A_missing_file_is_named() =>
        Assert.Contains("/nowhere", Assert.Throws<FileNotFoundException>(() => Tokenizer.Load("/nowhere")).Message);

    /// <summary>A tokenizer of all bytes and these merges, which cuts nothing.</summary>
    internal static Tokenizer Make((string, string)[] merges) => Load(Json(merges));

    private static JsonObject Json((string Left, string Right)[] merges)
    {
        var vocab = new JsonObject();
        for (var b = 0; b < 256; b++)
            vocab[ByteLevel.CharOf((byte)b).ToString()] = b;
        for (var i = 0; i < merges.Length; i++)
            vocab[merges[i].Left + merges[i].Right] = 300 + i;
        return new JsonObject
        {
            ["pre_tokenizer"] = JsonNode.Parse(ByteLevelOnly),
            ["decoder"] = JsonNode.Parse(ByteLevelOnly),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["vocab"] = vocab,
                ["merges"] = new JsonArray([.. merges.Select(m => JsonValue.Create($"{m.Left} {m.Right}"))]),
            },
        };
    }

    private static Tokenizer Load(JsonObject json)
    {
        using var folder = new Samples.Folder();
        return Tokenizer.Load(folder.Write("tokenizer.json", json.ToJsonString(new JsonSerializerOptions())));
    }
}
