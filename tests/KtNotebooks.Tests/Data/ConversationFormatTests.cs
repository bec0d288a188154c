using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

public sealed class ConversationFormatTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    [Fact]
    public void Sharegpt_rows_with_a_leading_system_message_tools_and_function_calls()
    {
        var rows = Read("""{"file_name":"d.json","formatting":"sharegpt","columns":{"messages":"conversations","tools":"tools","system":"system"}}""", """
            [{"conversations":[{"from":"system","value":"s"},{"from":"human","value":"q"},{"from":"function_call",
            "value":"{\"name\": \"f\", \"arguments\": {}}"},{"from":"observation","value":"o"},{"from":"gpt","value":"a"}],"tools":"[]","system":"column"},
             {"conversations":[{"from":"human","value":"q2"},{"from":"gpt","value":"a2"}],"tools":[{"name":"f","x":1}],"system":"column"}]
            """);
        Assert.Empty(rows.Skipped);
        var first = rows.Examples[0];
        Assert.Equal([new(Role.User, "q"), new(Role.Function, """{"name": "f", "arguments": {}}"""), new(Role.Observation, "o")], first.Prompt);
        Assert.Equal(("a", "s", null), (first.Answer, first.System, first.Tools)); // an empty list is no tool
        Assert.Equal(("a2", "column", """[{"name": "f", "x": 1}]"""), (rows.Examples[1].Answer, rows.Examples[1].System, rows.Examples[1].Tools));
    }

    [Fact]
    public void Rows_that_do_not_alternate_are_listed_with_their_place()
    {
        var rows = Read("""{"file_name":"d.jsonl","formatting":"sharegpt"}""", """
            {"conversations":[{"from":"human","value":"q"},{"from":"human","value":"q"}]}
            {"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}
            {"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"},{"from":"human","value":"q"}]}
            {"conversations":[]}
            {"conversations":null}
            {"conversations":[{"from":"human","value":"q"},{"from":"robot","value":"a"}]}
            {"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":null}]}
            {"conversations":[{"from":"human","value":null},{"from":"gpt","value":"a"}]}
            {"conversations":[{"from":null,"value":"q"},{"from":"gpt","value":"a"}]}
            """, "d.jsonl");
        Assert.Single(rows.Examples);
        Assert.Equal([1, 3, 4, 5, 6, 7, 8, 9], rows.Skipped.Select(line => int.Parse(line.Split(':')[1])));
        Assert.Contains("message 2 is of role 'human'", rows.Skipped[0]);
        Assert.Contains("3 messages; it must end with an answer", rows.Skipped[1]);
        Assert.Contains("message 2 is of role 'robot'", rows.Skipped[4]);
        Assert.Contains("the answer is null or missing", rows.Skipped[5]);
        Assert.Contains("message 1 has no text ('value' is null)", rows.Skipped[6]);
        Assert.Contains("message 1 has no role ('from' is null)", rows.Skipped[7]);
    }

    [Fact]
    public void Giving_tags_without_system_tag_leaves_a_system_message_among_the_turns()
    {
        const string Rows = """[{"m":[{"r":"sys","c":"s"},{"r":"u","c":"q"}]},{"m":[{"r":"u","c":"q"},{"r":"b","c":"a"}]}]""";
        const string Tags = "\"role_tag\":\"r\",\"content_tag\":\"c\",\"user_tag\":\"u\",\"assistant_tag\":\"b\"";
        var rows = Read($$$"""{"file_name":"d.json","formatting":"sharegpt","columns":{"messages":"m"},"tags":{{{{Tags}}}}}""", Rows);
        Assert.Contains("message 1 is of role 'sys'", Assert.Single(rows.Skipped));
        Assert.Equal("a", Assert.Single(rows.Examples).Answer);
    }

    [Fact]
    public void Openai_rows_with_tool_calls_and_several_results()
    {
        var rows = Read("""{"file_name":"d.json","formatting":"openai"}""", """
            [{"messages":[{"role":"system","content":"s"},{"role":"user","content":"q"},
              {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\": 1}"}},
              {"function":{"name":"g","arguments":"{}"}}]},
              {"role":"tool","content":"one"},{"role":"tool","content":"two"},{"role":"assistant","content":"a"}]}]
            """);
        var example = Assert.Single(rows.Examples);
        Assert.Equal("s", example.System); // and no phrase about thinking is added, unlike upstream
        Assert.Equal([
            new(Role.User, "q"),
            new(Role.Function, """[{"name": "f", "arguments": "{\"x\": 1}"}, {"name": "g", "arguments": "{}"}]"""),
            new(Role.Observation, "one\n</tool_response>\n<tool_response>\ntwo"),
        ], example.Prompt);
    }

    [Fact]
    public void A_list_of_text_parts_is_their_text()
    {
        var rows = Read("""{"file_name":"d.json","formatting":"openai"}""", """
            [{"messages":[{"role":"user","content":[{"type":"text","text":"What is"},{"type":"text","text":" this?"}]},{"role":"assistant","content":"a"}]}]
            """);
        Assert.Equal(("What is this?", null), (Assert.Single(rows.Examples).Prompt[0].Content, rows.Examples[0].Media));
    }

    [Fact]
    public void A_part_that_is_no_text_is_noted()
    {
        var rows = Read("""{"file_name":"d.json","formatting":"openai"}""", """
            [{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}},{"type":"text","text":"q"}]},
              {"role":"assistant","content":"a"}]}]
            """);
        Assert.Contains("holds a part of type 'image_url'", Assert.Single(rows.Examples).Media);
    }

    [Theory]
    [InlineData(",\"images\":\"pictures\"", """[{"q":"x","a":"y","pictures":["a.jpg","b.jpg"]}]""", "column 'pictures' holds 2 values")]
    [InlineData("", """[{"q":"x","a":"y","audios":"a.wav"}]""", "column 'audios' holds 1 value")]
    [InlineData(",\"videos\":\"v\"", """[{"q":"<video>x","a":"y","v":[]}]""", "the text holds <video>, which stands for a value of column 'v'")]
    [InlineData(",\"images\":\"i\"", """[{"q":"x","a":"y","i":[]},{"q":"x","a":"y","i":null},{"q":"x","a":"y","i":""},{"q":"x","a":"y"}]""", null)]
    [InlineData("", """[{"q":"What does <image> mean in HTML?","a":"y"}]""", null)]
    public void Rows_with_media_are_told_from_rows_of_text(string column, string rows, string? expected) => Assert.All(
        Read($$$"""{"file_name":"d.json","columns":{"prompt":"q","response":"a"{{{column}}}}}""", rows).Examples,
        example => Assert.Equal(expected, example.Media));

    [Theory]
    [InlineData("""{"role":"user","content":7}""", "'content' of a message must be a string, but is a number")]
    [InlineData("""{"role":{},"content":"q"}""", "'role' of a message must be a string, but is an object")]
    [InlineData("""{"role":"user","content":["q"]}""", "is a list, but one of its parts is no")]
    [InlineData("""{"role":"assistant","content":null,"tool_calls":["f"]}""", "'tool_calls' must be a list of objects, but holds a string")]
    [InlineData("7", "has no 'role'")]
    public void Other_types_are_one_clear_line(string message, string expected)
    {
        var row = $$"""[{"messages":[{{message}},{"role":"assistant","content":"a"}]}]""";
        var error = Assert.Throws<InvalidDataException>(() => Read("""{"file_name":"d.json","formatting":"openai"}""", row));
        Assert.StartsWith($"{_folder.Path}/d.json:1: ", error.Message);
        Assert.Contains(expected, error.Message);
    }

    [Theory]
    [InlineData("""{"file_name":"d.json","ranking":true,"columns":{"prompt":"instruction","chosen":"good","rejected":"bad"}}""",
        """[{"instruction":"q","good":"yes","bad":"no"},{"instruction":"q","good":"yes","bad":null}]""")]
    [InlineData("""{"file_name":"d.json","ranking":true,"formatting":"sharegpt","columns":{"messages":"m","chosen":"good","rejected":"bad"}}""",
        """[{"m":[{"from":"human","value":"q"}],"good":{"from":"gpt","value":"yes"},"bad":{"from":"gpt","value":"no"}},"""
        + """{"m":[{"from":"human","value":"q"}],"good":{"from":"human","value":"yes"},"bad":{"from":"gpt","value":"no"}}]""")]
    public void Ranking_rows_have_the_better_answer_first(string entry, string text)
    {
        var rows = Read(entry, text, need: Need.Ranking);
        Assert.Equal(["yes", "no"], Assert.Single(rows.Examples).Responses.Select(r => r.Content));
        Assert.Contains(":2: ", Assert.Single(rows.Skipped));
        Assert.Contains("ranking: true", Assert.Throws<NotSupportedException>(() => Read(entry, text)).Message);
        var nameless = entry.Replace(",\"chosen\":\"good\"", "", StringComparison.Ordinal);
        Assert.EndsWith("do not say which column is 'chosen' and which is 'rejected'.",
            Assert.Throws<NotSupportedException>(() => Read(nameless, text, need: Need.Ranking)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"file_name":"d.json","columns":{"prompt":"instruction","response":"output","kto_tag":"label"}}""",
        """[{"instruction":"q","output":"a","label":true},{"instruction":"q","output":"a","label":false},{"instruction":"q","output":"a","label":null}]""")]
    [InlineData("""{"file_name":"d.json","formatting":"sharegpt","columns":{"messages":"m","kto_tag":"label"}}""",
        """[{"m":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"label":true},"""
        + """{"m":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"label":false},"""
        + """{"m":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"label":null}]""")]
    public void Kto_rows_have_the_wanted_answer_first_and_the_other_empty(string entry, string text)
    {
        var rows = Read(entry, text, need: Need.Liking);
        Assert.Equal(["a|", "|a"], rows.Examples.Select(e => string.Join('|', e.Responses.Select(r => r.Content))));
        Assert.Contains(":3: whether its answer is wanted", Assert.Single(rows.Skipped));
    }

    [Theory]
    [InlineData("""{"file_name":"d.json","formatting":"sharegpt","columns":{"system":"s"}}""", "add \"messages\"")]
    [InlineData("""{"file_name":"d.json","formatting":"sharegpt","tags":{"role_tag":"from"}}""", "add \"content_tag\"")]
    [InlineData("""{"file_name":"d.json","formatting":"sharegpt","tags":{"role_tag":"form","content_tag":"value"}}""", "has no 'form'. Did you mean 'from'?")]
    public void What_dataset_info_lacks_is_said(string entry, string expected) =>
        Assert.Contains(expected, Assert.Throws<InvalidDataException>(() =>
            Read(entry, """[{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}]""")).Message);

    [Fact]
    public void A_null_answer_is_counted_and_listed()
    {
        var rows = Read("""{"file_name":"d.json"}""",
            """[{"instruction":"q","output":null},{"instruction":"q","output":"a"},{"instruction":"q","output":" "}]""");
        Assert.Single(rows.Examples);
        Assert.Equal([$"{_folder.Path}/d.json:1: the answer is null or missing", $"{_folder.Path}/d.json:3: the answer is empty"], rows.Skipped);
        Assert.Contains("none is of use",
            Assert.Throws<InvalidDataException>(() => Read("""{"file_name":"d.json"}""", """[{"instruction":"q","output":null}]""")).Message);
        Assert.EndsWith("d.json:1: it has no answer: 'columns' of 'd' in dataset_info.json names no response", Assert.Throws<InvalidDataException>(() =>
            Read("""{"file_name":"d.json","columns":{"prompt":"instruction"}}""", """[{"instruction":"q","output":"a"}]""")).Message);
    }

    public void Dispose() => _folder.Dispose();

    private DatasetRows Read(string entry, string rows, string file = "d.json", Need need = Need.Answer)
    {
        _folder.Write(file, rows);
        _folder.Write("dataset_info.json", $$"""{"d":{{entry}}}""");
        return DatasetLoader.Read(_folder.Path, "d", need: need)[0];
    }
}
