using System.Text;
using System.Text.Json;

using KtNotebooks.Data;
using KtNotebooks.Generation;
using KtNotebooks.Generation.Grammars;
using KtNotebooks.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>
/// A model that knows nothing, drawing at random from what a mask allows, writes what the form says: always valid, always whole. Its tokenizer is kt-tiny's.
/// </summary>
public sealed class AnswerGrammarTests
{
    private static readonly Tokenizer Tokenizer = Tokenizer.Load(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"));
    private static readonly AnswerGrammars Grammars = new(Tokenizer);

    private const string Person = """
        {"type": "object", "properties": {
          "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
          "tags": {"type": "array", "items": {"enum": ["a", "ü", "c d"]}, "minItems": 1, "maxItems": 3},
          "mail": {"anyOf": [{"type": "null"}, {"type": "string", "format": "email"}]},
          "next": {"$ref": "#"}}, "required": ["name", "age", "tags"], "additionalProperties": false}
        """;

    [Fact]
    public void Any_object_is_valid_JSON_of_whatever_length()
    {
        for (var seed = 0; seed < 60; seed++)
        {
            var text = Draw(Grammars.Json(), room: 4 + (seed * 3), seed);
            using var document = JsonDocument.Parse(text);
            Assert.Equal(JsonValueKind.Object, document.RootElement.ValueKind);
            _ = Strings(document.RootElement); // no half characters
        }
    }

    [Fact]
    public void A_schema_is_kept_down_to_the_last_token()
    {
        for (var seed = 0; seed < 60; seed++)
        {
            using var document = JsonDocument.Parse(Draw(Form(Person), room: 40 + (seed * 2), seed));
            Check(document.RootElement);
        }

        static void Check(JsonElement person)
        {
            Assert.True(person.GetProperty("name").GetString()!.EnumerateRunes().Count() <= 12);
            Assert.InRange(person.GetProperty("age").GetInt32(), 0, 120);
            var tags = person.GetProperty("tags").EnumerateArray().Select(t => t.GetString()).ToList();
            Assert.InRange(tags.Count, 1, 3);
            Assert.All(tags, t => Assert.Contains(t, (string[])["a", "ü", "c d"]));
            Assert.All(person.EnumerateObject(), p => Assert.Contains(p.Name, (string[])["name", "age", "tags", "mail", "next"]));
            if (person.TryGetProperty("mail", out var mail) && mail.ValueKind == JsonValueKind.String)
                Assert.Matches("^[^@ ]+@[^@ ]+[.][^@ ]+$", mail.GetString()!);
            if (person.TryGetProperty("next", out var next)) Check(next);
        }
    }

    [Theory]
    [InlineData("""{"type":"integer","minimum":-37,"maximum":1205}""", -37, 1205, true)]
    [InlineData("""{"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":11}""", 10, 10, true)]
    [InlineData("""{"type":"integer","maximum":-5}""", -1e15, -5, true)]
    [InlineData("""{"type":"number","minimum":0,"maximum":1}""", 0, 1, false)]
    [InlineData("""{"type":"number","minimum":-2.5,"exclusiveMaximum":3}""", -2.5, 2.99999999999999999, false)]
    [InlineData("""{"type":"number","minimum":99.5}""", 99.5, 1e15, false)]
    public void Numbers_stay_between_their_bounds(string schema, double least, double most, bool whole)
    {
        HashSet<double> seen = [];
        for (var seed = 0; seed < 80; seed++)
        {
            using var document = JsonDocument.Parse(Draw(Form(schema), room: 24, seed));
            var number = document.RootElement.GetDouble();
            Assert.InRange(number, least, most);
            if (whole) Assert.Equal(Math.Floor(number), number);
            seen.Add(number);
        }
        Assert.True(seen.Count > 5 || least == most);
    }

    /// <summary>Every number of a range can be written, and no other.</summary>
    [Fact]
    public void A_range_is_all_of_it_and_nothing_else()
    {
        var form = Form("""{"type":"integer","minimum":-12,"maximum":123}""");
        for (var n = -200; n < 300; n++) Assert.Equal(n is >= -12 and <= 123, Takes(form, n.ToString()));
        Assert.False(Takes(form, "007"));
        Assert.False(Takes(form, "-0"));
    }

    [Theory]
    [InlineData(@"^[A-Z]{2}-\d{3,4}(x|yz)?$", "AB-123yz", "AB-12", "aB-123", "AB-123xyz")]
    [InlineData(@"colou?r", "my colour is", "my color", null, "colouur")]
    [InlineData("^[^\"a-c]+é\\\\$", "dé\\", "xyzé\\", "aé\\", "d\"é\\")]
    [InlineData(@"^(?:\w+ ){2}end\.$", "one two end.", null, "one end.", "one two endx")]
    public void Patterns_match_what_they_say(string pattern, string? good, string? alsoGood, string? bad, string? alsoBad)
    {
        var form = Form(JsonSerializer.Serialize(new { type = "string", pattern }));
        foreach (var text in (string?[])[good, alsoGood])
            if (text is not null) Assert.Equal(System.Text.RegularExpressions.Regex.IsMatch(text, pattern), Takes(form, Json(text)));
        foreach (var text in (string?[])[bad, alsoBad])
            if (text is not null) Assert.Equal(System.Text.RegularExpressions.Regex.IsMatch(text, pattern), Takes(form, Json(text)));

        static string Json(string text) => JsonSerializer.Serialize(text, GrammarJson.Readable.String);
    }

    [Theory]
    [InlineData("""{"type":"string","format":"uuid","maxLength":40}""", "#/format beside a length or a pattern is not supported")]
    [InlineData("""{"type":"string","minLenght":4}""", "#/minLenght is not supported; did you mean minLength?")]
    [InlineData("""{"type":"array","uniqueItems":true}""", "#/uniqueItems true is not supported")]
    [InlineData("""{"type":"string","enum":[1,2]}""", "#: the values of enum are none of its type")]
    [InlineData("""{"anyOf":[{"type":"null"}],"type":"string"}""", "#/anyOf allows no value")]
    [InlineData("""{"allOf":[{"pattern":"a","type":"string"},{"pattern":"b"}]}""", "#/pattern of two schemas at once is not supported")]
    [InlineData("""{"allOf":[{"minimum":"a"},{"minimum":1}]}""", "# has a keyword whose value is of the wrong type")]
    [InlineData("""{"properties":{"a":{}},"required":["b"]}""", "#/required names 'b', which is no property")]
    [InlineData("""{"type":"object","minProperties":2}""", "#/minProperties 2 without names is not supported")]
    [InlineData("""{"type":"object","properties":{"a":{"type":"number","multipleOf":3}}}""", "#/properties/a/multipleOf 3 is not supported")]
    [InlineData("""{"not":{}}""", "#/not is not supported")]
    [InlineData("""{"$ref":"#"}""", "the form refers to itself without anything between")]
    [InlineData("""{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}""", "nothing of finite length is of that form")]
    [InlineData("""{"$ref":"https://x/y"}""", "#: $ref 'https://x/y' must name a place in the schema itself: #/$defs/NAME")]
    [InlineData("""{"type":"strin"}""", "#/type: there is no type 'strin'; types are string, number, integer, boolean, null, array and object")]
    [InlineData("""{"oneOf":[{"type":"number"},{"type":"integer"}]}""",
        "#/oneOf: a value could be of 0 and of 1, which oneOf forbids and which cannot be ruled out here; write anyOf")]
    [InlineData("""{"type":"string","pattern":"(?=x)y"}""", "#/pattern: '(?' in a pattern is not supported")]
    [InlineData("""{"type":"string","pattern":"(a?)*"}""", "#/pattern: a repetition of what may be empty in a pattern is not supported")]
    public void What_is_not_known_is_refused_by_name(string schema, string message) =>
        Assert.Equal(message, Assert.Throws<ArgumentException>(() => Form(schema)).Message);

    /// <summary>What tools write (Pydantic, zod, .NET's own exporter): each takes the values of its schema and no others, by their validators.</summary>
    [Theory]
    [InlineData("""{"type":"string","format":"x-made-up","maxLength":3}""", "\"abc\"", "\"abcd\"")] // a format that is not known only describes
    [InlineData("""{"type":"integer","format":"int128","x-note":1,"xml":{}}""", "12", "1.5")]
    [InlineData("""{"type":"string","format":"uri"}""", "\"https://example.org:80/a%20b?c=d#e\"", "\"example.org\"")]
    [InlineData("""{"type":"string","format":"duration"}""", "\"PT1H30M\"", "\"1 hour\"")]
    [InlineData("""{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false}""", "[1,\"a\"]", "[1,\"a\",2]")]
    [InlineData("""{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"minItems":2,"maxItems":2}""", "[1,\"a\"]", "[1]")]
    [InlineData("""{"type":"array","prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2}""", "[1,null,null]", "[1]")]
    [InlineData("""{"prefixItems":[{"type":"integer"},{"type":"integer"}]}""", "[]", "[null]")]
    [InlineData("""{"type":"object","propertyNames":{"enum":["x","y"]},"additionalProperties":{"type":"integer"}}""", "{\"y\":1}", "{\"z\":1}")]
    [InlineData("""{"type":"object","patternProperties":{"^k\\d$":{"type":"integer"}},"additionalProperties":false}""", "{\"k1\":1}", "{\"k\":1}")]
    [InlineData("""{"type":"object","minProperties":1,"maxProperties":2}""", "{\"a\":1,\"b\":2}", "{}")]
    [InlineData("""{"properties":{"a":{"type":"null"},"b":{"type":"null"}},"minProperties":1}""", "{\"b\":null}", "{}")]
    [InlineData("""{"properties":{"a":false,"b":{"type":"null"}}}""", "{\"b\":null}", "{\"a\":null}")]
    [InlineData("""{"allOf":[{"type":"number","minimum":2},{"type":"integer","maximum":4}]}""", "3", "5")]
    [InlineData("""{"allOf":[{"$ref":"#/$defs/x"},{"required":["b"],"properties":{"b":{}}}],"$defs":{"x":{"properties":{"a":{}},"required":["a"]}}}""",
        "{\"a\":null,\"b\":1}", "{\"b\":1}")]
    [InlineData("""{"allOf":[{"properties":{"a":{"type":"null"}},"additionalProperties":false},{"properties":{"b":{"type":"integer"}}}]}""", "{\"a\":null}",
        "{\"b\":1}")]
    [InlineData("""{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"anyOf":[{"required":["a"]},{"required":["b"]}]}""",
        "{\"b\":null}", "{}")]
    [InlineData("""{"type":"string","anyOf":[{"maxLength":1},{"type":"null"}]}""", "\"a\"", "null")]
    [InlineData("""{"type":"string","enum":["a",1]}""", "\"a\"", "1")]
    [InlineData("""{"$ref":"#/$defs/n","maximum":5,"$defs":{"n":{"type":"integer","minimum":3}}}""", "4", "2")]
    [InlineData("""{"type":"object","properties":{"children":{"type":"array","items":{"$ref":"#","items":{}}}},"required":["children"]}""",
        "{\"children\":[{\"children\":[]}]}", "{\"children\":[{}]}")]
    [InlineData("""{"type":"object","properties":{"next":{"allOf":[{"$ref":"#"},{"properties":{"v":{"type":"integer"}},"required":["v"]}]}}}""",
        "{\"next\":{\"next\":{\"v\":2},\"v\":1}}", "{\"next\":{}}")]
    public void Schemas_that_tools_write_are_kept(string schema, string good, string bad)
    {
        var form = Form(schema);
        Assert.True(Takes(form, good));
        Assert.False(Takes(form, bad));
    }

    [Fact]
    public void A_uri_is_one()
    {
        for (var seed = 0; seed < 60; seed++)
        {
            var text = JsonDocument.Parse(Draw(Form("""{"type":"string","format":"uri"}"""), room: 30, seed)).RootElement.GetString()!;
            Assert.True(Uri.TryCreate(text, UriKind.Absolute, out _), text);
        }
    }

    [Fact]
    public void A_discriminated_union_is_exclusive() => Form("""
        {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}, "$defs": {
          "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
          "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]}}}
        """);

    [Fact]
    public void A_thought_comes_before_and_ends_in_time()
    {
        for (var seed = 0; seed < 20; seed++)
        {
            var text = Draw(Grammars.Json(new Thinking()), room: 30 + seed, seed);
            Assert.StartsWith("<think>\n", text, StringComparison.Ordinal);
            var end = text.IndexOf("</think>", StringComparison.Ordinal);
            using var document = JsonDocument.Parse(text[(end + 8)..]);
        }
    }

    [Theory]
    [InlineData("qwen3")]
    [InlineData("deepseek")]
    [InlineData("glm4")]
    public void A_call_is_read_back_as_it_was_drawn(string template)
    {
        var parameters = JsonDocument.Parse("""
            {"type":"object","properties":{"city":{"type":"string","maxLength":9},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city","days"]}
            """).RootElement;
        for (var seed = 0; seed < 20; seed++)
        {
            var spelling = CallSpelling.Of(Templates.Get(template).Tools!, ["weather", "time"]);
            var form = Grammars.Calls(spelling, [("weather", parameters), ("time", JsonDocument.Parse("""{"type":"object","properties":{}}""").RootElement)],
                required: true, several: true);
            var reader = new KtNotebooks.Server.AnswerReader(null, spelling);
            KtNotebooks.Server.AnswerPart[] parts = [.. Draw(form, room: 60, seed).SelectMany(c => reader.Push(c.ToString())), .. reader.Flush()];
            Assert.NotEmpty(parts);
            Assert.All(parts, part =>
            {
                var call = Assert.IsType<KtNotebooks.Server.CallPart>(part);
                using var arguments = JsonDocument.Parse(call.Arguments);
                if (call.Name == "weather") Assert.InRange(arguments.RootElement.GetProperty("days").GetInt32(), 1, 9);
                else Assert.Equal("time", call.Name);
            });
        }
    }

    private static AnswerGrammar Form(string schema) => Grammars.Schema(JsonDocument.Parse(schema).RootElement);

    /// <summary>Draws at random from what the mask allows until it ends, or there is no room.</summary>
    private static string Draw(AnswerGrammar form, int room, int seed)
    {
        var random = new Random(seed);
        var stop = Tokenizer.EosId!.Value;
        var mask = form.Mask(new HashSet<int> { stop }, room);
        List<int> drawn = [];
        var logits = new float[Tokenizer.VocabSize];
        while (true)
        {
            Assert.True(drawn.Count < room, $"not whole after {room} tokens: {Tokenizer.Decode([.. drawn])}");
            Array.Clear(logits);
            mask.Apply(logits, drawn);
            int[] allowed = [.. Enumerable.Range(0, logits.Length).Where(id => !float.IsNegativeInfinity(logits[id]))];
            Assert.NotEmpty(allowed);
            var token = allowed[random.Next(allowed.Length)];
            if (token == stop) return Tokenizer.Decode([.. drawn]);
            drawn.Add(token);
        }
    }

    /// <summary>Whether a text is of a form, byte by byte and to its end.</summary>
    private static bool Takes(AnswerGrammar form, string text)
    {
        var stop = Tokenizer.EosId!.Value;
        var mask = form.Mask(new HashSet<int> { stop }, 1000);
        List<int> drawn = [];
        var logits = new float[Tokenizer.VocabSize];
        foreach (var b in Encoding.UTF8.GetBytes(text))
        {
            Array.Clear(logits);
            mask.Apply(logits, drawn);
            var id = Enumerable.Range(0, Tokenizer.VocabSize).First(i => !Tokenizer.IsSpecial(i) && Tokenizer.Bytes(i) is [var only] && only == b);
            if (float.IsNegativeInfinity(logits[id])) return false;
            drawn.Add(id);
        }
        Array.Clear(logits);
        mask.Apply(logits, drawn);
        return !float.IsNegativeInfinity(logits[stop]);
    }

    private static int Strings(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => value.EnumerateObject().Sum(p => p.Name.Length + Strings(p.Value)),
        JsonValueKind.Array => value.EnumerateArray().Sum(Strings),
        JsonValueKind.String => value.GetString()!.Length,
        _ => 0,
    };
}
