using System.Diagnostics;
using System.Text;
using System.Text.Json;
using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

/// <summary>
/// Data files as they come: of any size, in other encodings, with JSON of another build, outside of the folder, and things that are no files.
/// </summary>
public sealed class DataFilesTests : IDisposable
{
    private const string Json = """[{"instruction":"猫喜欢吃什么？","output":"鱼 🐟"},{"instruction":"b","output":"c"}]""";

    private readonly Samples.Folder _folder = new();

    [Theory]
    [InlineData("utf-8")]
    [InlineData("utf-16")]
    [InlineData("utf-16BE")]
    [InlineData("utf-32")]
    public void The_byte_order_mark_says_how_text_is_stored(string name)
    {
        var encoding = Encoding.GetEncoding(name);
        var texts = new Dictionary<string, string>
        {
            ["d.json"] = Json,
            ["d.jsonl"] = Json[1..^1].Replace("},{", "}\n{"),
            ["d.csv"] = "instruction,output\n猫喜欢吃什么？,鱼 🐟\nb,c\n",
        };
        foreach (var (file, text) in texts)
        {
            File.WriteAllBytes(Path.Combine(_folder.Path, file), [.. encoding.GetPreamble(), .. encoding.GetBytes(text)]);
            Assert.Equal(["猫喜欢吃什么？|鱼 🐟", "b|c"], Rows(file));
        }
    }

    [Theory]
    [InlineData("d.json")]
    [InlineData("d.jsonl")]
    [InlineData("d.csv")]
    public void UTF_16_without_a_mark_and_half_a_character_are_one_clear_line(string file)
    {
        var path = Path.Combine(_folder.Path, file);
        File.WriteAllBytes(path, Encoding.Unicode.GetBytes(Json));
        Assert.Equal($"{path}: looks like UTF-16 without a byte order mark; save the file as UTF-8, or as UTF-16 with the"
            + $" mark", Refused<InvalidDataException>(file));
        File.WriteAllBytes(path, [0xFF, 0xFE, .. Encoding.Unicode.GetBytes("[{\"instruction\":\""), 0x00, 0xD8, 0x20]);
        Assert.Contains("says UTF-16 or UTF-32, but what follows is not", Refused<InvalidDataException>(file));
    }

    [Fact]
    public void A_CSV_with_semicolons_is_told_from_one_with_a_strange_column()
    {
        _folder.Write("semi.csv", "instruction;input;output\nq;;a\n");
        Assert.Equal($"{Path.Combine(_folder.Path, "semi.csv")}:1: the header 'instruction;input;output' is one column: its fields are separated by "
            + "semicolons, as Excel writes them in many countries. Save the file with commas.", Refused<InvalidDataException>("semi.csv"));
    }

    /// <summary>As a set of the Hub is cloned: a README, and the rows in data/.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_folder_whose_rows_lie_one_level_down_says_where(bool readme)
    {
        _folder.Write("hf/data/train-00000.jsonl", Json[1..^1].Replace("},{", "}\n{"));
        if (readme) _folder.Write("hf/README.md", "# rows");
        Assert.Equal($"The folder '{Path.Combine(_folder.Path, "hf")}' of the data set holds no rows itself; they are in "
            + $"{Path.Combine(_folder.Path, "hf/data")}: give that folder as file_name.", Refused<FileNotFoundException>("hf"));
        Assert.Equal(2, Rows("hf/data").Length);
    }

    [Fact]
    public void Rows_may_end_anywhere_in_what_is_read_at_once()
    {
        // Rows from 10 bytes to 300 KB, over a window that begins with 64 KB.
        var random = new Random(5);
        var texts = Enumerable.Range(0, 120).Select(i => $"{i}"
            + $" " + new string((char)('a' + (i % 26)), random.Next(i % 10 == 0 ? 300_000 : 3000)) + "\"é\\").ToArray();
        var rows = texts.Select(text => JsonSerializer.Serialize(new { instruction = text, output = "x" })).ToArray();
        var expected = texts.Select(text => $"{text}|x").ToArray();
        Write("d.json", $" [ {string.Join(" ,\n", rows)} ] ");
        Assert.Equal(expected, Rows("d.json"));
        Write("d.jsonl", string.Join('\n', rows));
        Assert.Equal(expected, Rows("d.jsonl"));
        Write("d.csv", "instruction,output\r\n" + string.Join("\r\n", texts.Select(text => $"\"{text.Replace("\"", "\"\"")}\",x")));
        Assert.Equal(expected, Rows("d.csv"));
    }

    [Theory]
    [InlineData("d.json", "[{\"instruction\":\"a\",\"output\":\"b\"},{\"instruction\":\"c\",\"output\":\"d\"},")]
    [InlineData("d.jsonl", "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"c\",\"output\":\"d\"}\n")]
    [InlineData("d.csv", "instruction,output\na,b\nc,d\n")]
    public void Of_a_file_of_3_GB_only_the_rows_wanted_are_read(string file, string start)
    {
        using (var stream = File.Create(Path.Combine(_folder.Path, file)))
        {
            stream.Write(Encoding.UTF8.GetBytes(start));
            stream.SetLength(3L << 30); // a hole, which takes no disk; zeros are no rows
        }
        Entry(file);
        Assert.Equal(["a|b", "c|d"], DatasetLoader.Load(_folder.Path, "d", maxSamples: 2).Select(Text));
    }

    [Theory]
    [InlineData("""{"instruction":"a","output":"b"}""", "a|b")]
    [InlineData("{\n \"instruction\": \"a\",\n \"output\": \"b\"\n}\n", "a|b")]
    [InlineData("""{"version":2,"data":[{"instruction":"a","output":"b"},{"instruction":"c","output":"d"}]}""", "a|b c|d")]
    [InlineData("""{"instruction":["a","c"],"output":["b","d"]}""", "a|b c|d")]
    [InlineData("""{"instruction":{"0":"a","7":"c"},"output":{"0":"b","7":"d"}}""", "a|b c|d")]
    [InlineData("{\"instruction\":\"a\",\"output\":\"b\"}\n\n{\"instruction\":\"c\",\"output\":\"d\"}", "a|b c|d")]
    public void One_object_is_a_row_a_box_of_rows_or_columns(string text, string rows)
    {
        Write("d.json", text);
        Assert.Equal(rows.Split(' '), Rows("d.json"));
    }

    [Fact]
    public void One_object_with_a_conversation_is_a_row_and_a_list_of_conversations_a_column()
    {
        const string Talk = """[{"from":"human","value":"a"},{"from":"gpt","value":"b"}]""";
        foreach (var text in new[] { $$"""{"conversations":{{Talk}}}""", $$"""{"conversations":[{{Talk}}]}""", $$"""{"rows":[{"conversations":{{Talk}}}]}""" })
        {
            Write("d.json", text);
            Assert.Equal(["a|b"], Rows("d.json", ",\"formatting\":\"sharegpt\""));
        }
    }

    [Fact]
    public void A_list_in_a_file_of_lines_is_read()
    {
        Write("d.jsonl", Json.Replace("},", "},\n"));
        Assert.Equal(2, Rows("d.jsonl").Length);
    }

    [Theory]
    [InlineData("d.json", """{"train":[{"a":1}],"test":[{"a":1}]}""", "one object with several lists of rows ('train', 'test')")]
    [InlineData("d.json", """{"instruction":["a","c"],"output":["b"]}""", "they differ in length: 'instruction' has 2, 'output' has 1")]
    [InlineData("d.json", """{"instruction":["a","c"],"output":"b"}""", "'output' is a string, no list of cells")]
    [InlineData("d.json", "{\n\"instruction\":\"a\"}\n{\n\"instruction\":\"b\"}", "objects one after another, the first on 2 lines")]
    [InlineData("d.json", """{"instruction":"a"},{"instruction":"b"}""", "not the brackets of a list around them")]
    [InlineData("d.json", "\"text\"", "expected a list of rows")]
    [InlineData("d.json", """["a"]""", "a row must be an object of columns, but is a string")]
    [InlineData("d.json", "[{\"instruction\":\"a\",\"output\":\"b\"}", "not valid JSON in row 2, line 1")]
    [InlineData("d.json", "[{\"instruction\":\"a\",\"output\":\"b\"}] x", "not valid JSON in row 2, line 1")]
    [InlineData("d.json", "[{\"instruction\":\"a\",\n\"output\":b}]", "not valid JSON in row 1, line 2, byte 10")]
    [InlineData("d.json", " \n", "the dataset 'd' has no rows")]
    [InlineData("d.json", "[]", "the dataset 'd' has no rows")]
    [InlineData("d.jsonl", "", "the dataset 'd' has no rows")]
    [InlineData("d.csv", "instruction,output\n", "the dataset 'd' has no rows")]
    public void What_cannot_be_understood_is_one_line_about_it(string file, string text, string expected)
    {
        Write(file, text);
        var message = Refused<InvalidDataException>(file);
        Assert.StartsWith(Path.Combine(_folder.Path, file), message);
        Assert.Contains(expected, message);
    }

    [Theory]
    [InlineData("d.json.gz", "Unpack it first")]
    [InlineData("d.odt", "cannot be read; .json, .jsonl, .csv, .txt, .parquet and .arrow can")]
    public void Other_types_come_with_what_to_do(string file, string expected)
    {
        Write(file, "PAR1");
        Assert.Contains(expected, Refused<NotSupportedException>(file));
    }

    [Theory]
    [InlineData("../other/d.json")]
    [InlineData("/etc/hostname")]
    public void A_file_outside_of_the_folder_is_refused_and_a_link_inside_followed(string name)
    {
        Assert.Contains("Put the file there, or a link to it", Refused<InvalidDataException>(name));
        using var other = new Samples.Folder();
        File.CreateSymbolicLink(Path.Combine(_folder.Path, "link.json"), other.Write("d.json", Json));
        Assert.Equal(2, Rows("link.json").Length);
        File.Delete(Path.Combine(other.Path, "d.json"));
        Assert.Contains($"is a link to {other.Path}/d.json, which is not there", Refused<FileNotFoundException>("link.json"));
    }

    [Fact]
    public void Only_the_entry_that_is_asked_for_has_to_lie_inside()
    {
        Write("d.json", Json);
        _folder.Write("dataset_info.json", """{"far":{"file_name":"/data/x.json"},"d":{"file_name":"d.json"}}""");
        Assert.Equal(2, DatasetLoader.Load(_folder.Path, "d").Count);
    }

    [Fact]
    public void Pipes_and_devices_are_refused_wherever_they_stand()
    {
        Directory.CreateDirectory(Path.Combine(_folder.Path, "parts"));
        foreach (var (file, name) in new[] { ("pipe.jsonl", "pipe.jsonl"), ("parts/1.json", "parts") })
        {
            using (var made = Process.Start("mkfifo", Path.Combine(_folder.Path, file))) made.WaitForExit();
            Assert.Contains("is a pipe, a device or a socket", Refused<InvalidDataException>(name));
        }
        File.CreateSymbolicLink(Path.Combine(_folder.Path, "zero.csv"), "/dev/zero");
        Assert.Contains("is a pipe, a device or a socket", Refused<InvalidDataException>("zero.csv"));
        using var info = new Samples.Folder();
        using (var made = Process.Start("mkfifo", Path.Combine(info.Path, DatasetInfo.FileName))) made.WaitForExit();
        Assert.Contains("is a pipe, a device or a socket", Assert.Throws<InvalidDataException>(() => DatasetInfo.Load(info.Path)).Message);
    }

    [Fact]
    public void A_set_of_the_folder_beside_is_named()
    {
        _folder.Write("data/dataset_info.json", """{"identity":{"file_name":"x.json"}}""");
        _folder.Write("datasets/dataset_info.json", """{"neko":{"file_name":"x.json"}}""");
        var (data, datasets) = (Path.Combine(_folder.Path, "data"), Path.Combine(_folder.Path, "datasets"));
        Assert.EndsWith($"dataset_dir={data}", Assert.Throws<ArgumentException>(() => DatasetLoader.Load(datasets, "identity")).Message);
        Assert.EndsWith($"dataset_dir={datasets}", Assert.Throws<ArgumentException>(() => DatasetLoader.Load(data, "neko")).Message);
    }

    [Fact]
    public void A_sample_too_large_for_the_memory_is_refused_with_numbers()
    {
        Write("d.json", Json);
        Entry("d.json", ",\"num_samples\":2147483647");
        var message = Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(_folder.Path, "d")).Message;
        Assert.Contains("num_samples is 2,147,483,647", message);
        Assert.Contains("The set has 2 rows", message);
        // Only as many as are wanted are drawn, and they are the first of the same draw.
        var five = DatasetLoader.Load(_folder.Path, "d", maxSamples: 5).Select(Text);
        Entry("d.json", ",\"num_samples\":20");
        Assert.Equal(five, DatasetLoader.Load(_folder.Path, "d").Take(5).Select(Text));
    }

    public void Dispose() => _folder.Dispose();

    private void Write(string file, string text) => _folder.Write(file, text);

    private void Entry(string file, string more = "") => _folder.Write("dataset_info.json", $$$"""{"d":{"file_name":"{{{file}}}"{{{more}}}}}""");

    private string[] Rows(string file, string more = "")
    {
        Entry(file, more);
        return [.. DatasetLoader.Load(_folder.Path, "d").Select(Text)];
    }

    private string Refused<T>(string file)
        where T : Exception
    {
        Entry(file);
        return Assert.Throws<T>(() => DatasetLoader.Load(_folder.Path, "d")).Message;
    }

    private static string Text(Example example) => $"{example.Prompt[0].Content}|{example.Answer}";
}
