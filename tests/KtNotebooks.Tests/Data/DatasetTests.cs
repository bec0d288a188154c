using KtNotebooks.Data;
using KtNotebooks.Tests.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Data;

public class DatasetTests
{
    private const string Info = """
        {
          "plain": {"file_name": "plain.json"},
          "lines": {"file_name": "lines.jsonl"},
          "table": {"file_name": "table.csv"},
          "parts": {"file_name": "parts"},
          "reset": {"file_name": "plain.json", "columns": {"prompt": "instruction"}},
          "mapped": {"file_name": "plain.json", "columns": {"prompt": "instruction", "response": "answer"}},
          "full": {"file_name": "full.json", "columns": {"prompt": "instruction", "query": "input", "response": "output", "history": "history", "system":
          "system"}},
          "far": {"hf_hub_url": "someone/something"},
          "gone": {"file_name": "gone.json"},
          "pairs": {"file_name": "plain.json", "ranking": true},
          "talk": {"file_name": "plain.json", "formatting": "telegram"},
          "drawn": {"file_name": "plain.json", "num_samples": 5}
        }
        """;

    [Fact]
    public void Rows_of_all_file_types_become_examples()
    {
        using var folder = Folder();
        folder.Write("lines.jsonl", "{\"instruction\":\"a\",\"output\":\"b\"}\n\n{\"instruction\":\"c\",\"output\":\"d\"}\r\n");
        folder.Write("table.csv", "\uFEFFinstruction,output\r\n\"a, \"\"x\"\"\nnext\",b\nc,\n");
        folder.Write("parts/2.jsonl", """{"instruction":"second","output":"2"}""");
        folder.Write("parts/1.jsonl", """{"instruction":"first","output":"1"}""");
        var plain = DatasetLoader.Load(folder.Path, "plain");
        Assert.Equal(("one\nmore", "eins", Source(folder, "plain.json", 1)), (plain[0].Prompt[0].Content, plain[0].Answer, plain[0].Source));
        Assert.Equal(["one\nmore", "two", "three"], plain.Select(e => e.Prompt[0].Content));

        var lines = DatasetLoader.Load(folder.Path, "lines");
        Assert.Equal([Source(folder, "lines.jsonl", 1), Source(folder, "lines.jsonl", 3)], lines.Select(e => e.Source));

        var table = DatasetLoader.Load(folder.Path, "table");
        Assert.Equal(["a, \"x\"\nnext", "c"], table.Select(e => e.Prompt[0].Content));
        Assert.Equal([Source(folder, "table.csv", 2), Source(folder, "table.csv", 4)], table.Select(e => e.Source));
        Assert.Empty(table[1].Responses); // an empty field is null

        Assert.Equal(["first", "second"], DatasetLoader.Load(folder.Path, "parts").Select(e => e.Prompt[0].Content));
        Assert.Equal(5, DatasetLoader.Load(folder.Path, " plain , lines ,").Count);
        Assert.Equal(["one\nmore", "a"], DatasetLoader.Load(folder.Path, "plain,lines", maxSamples: 1).Select(e => e.Prompt[0].Content));
    }

    [Fact]
    public void Lines_in_a_json_file_are_read_too()
    {
        using var folder = Folder();
        folder.Write("plain.json", "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":\"c\",\"output\":\"d\"}");
        Assert.Equal(2, DatasetLoader.Load(folder.Path, "plain").Count);
    }

    [Fact]
    public void History_and_system_are_taken()
    {
        using var folder = Folder();
        folder.Write("full.json",
            """[{"instruction":"c","input":null,"output":"d","system":"s","history":[["a","b"]]},{"instruction":"e","output":"f","history":null}]""");
        var examples = DatasetLoader.Load(folder.Path, "full");
        Assert.Equal([new Message(Role.User, "a"), new(Role.Assistant, "b"), new(Role.User, "c")], examples[0].Prompt);
        Assert.Equal("s", examples[0].System);
        Assert.Single(examples[1].Prompt);
        Assert.Null(examples[1].System);
    }

    [Fact]
    public void Giving_columns_resets_those_that_are_not_given()
    {
        using var folder = Folder();
        var example = DatasetLoader.Load(folder.Path, "reset", maxSamples: 1)[0];
        Assert.Equal("one", example.Prompt[0].Content);
        Assert.Empty(example.Responses);
        var info = DatasetInfo.Load(folder.Path);
        Assert.Equal(new Columns(Prompt: "instruction"), info.Get("reset").Columns);
        Assert.Equal(Columns.Default, info.Get("plain").Columns);
        Assert.Equal(Tags.Default, info.Get("plain").Tags);
    }

    [Fact]
    public void Giving_tags_resets_those_that_are_not_given()
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"x":{"file_name":"x.json","formatting":"sharegpt","tags":{"role_tag":"role","content_tag":"content"}}}""");
        Assert.Equal(new Tags(Role: "role", Content: "content"), DatasetInfo.Load(folder.Path).Get("x").Tags);
    }

    [Fact]
    public void Num_samples_draws_the_same_rows_each_time()
    {
        using var folder = Folder();
        var drawn = DatasetLoader.Load(folder.Path, "drawn").Select(e => e.Source).ToArray();
        Assert.Equal(5, drawn.Length);
        Assert.Equal(3, drawn.Distinct().Count());
        Assert.Equal(drawn, DatasetLoader.Load(folder.Path, "drawn").Select(e => e.Source));
    }

    /// <summary>A file of plain text has empty lines, and a large set of questions a few without one: no reason to refuse the others.</summary>
    [Theory]
    [InlineData("{\"instruction\":\"\",\"input\":\"\",\"output\":\"b\"}")]
    [InlineData("{\"output\":\"b\"}")]
    public void A_row_without_a_question_is_left_out_and_said(string row)
    {
        using var folder = Folder();
        var file = folder.Write("plain.json", "[{\"instruction\":\"a\",\"output\":\"b\"}," + row + "]");
        var rows = Assert.Single(DatasetLoader.Read(folder.Path, "plain", need: Need.Answer, cancel: TestContext.Current.CancellationToken));
        Assert.Single(rows.Examples);
        Assert.Equal($"{file}:2: the question is empty (columns 'instruction' and 'input')", Assert.Single(rows.Skipped));
    }

    [Theory]
    [InlineData("plain.json", "plain", "[\n{\"instruction\":\"a\",\"output\":\"b\"},\n{\"instruction\":\"c\" \"output\"}\n]", ":2:", "line 3, byte 20")]
    [InlineData("plain.json", "plain", "[{\"instruction\":\"a\",\"output\":\"b\"}", ":2:", "not valid JSON")]
    [InlineData("plain.json", "plain", "[1]", ":1:", "a row must be an object of columns, but is a number")]
    [InlineData("plain.json", "plain", "7", "plain.json:", "expected a list of rows")]
    [InlineData("plain.json", "plain", "[]", "plain.json:", "no rows")]
    [InlineData("plain.json", "plain", "", "plain.json:", "the dataset 'plain' has no rows")]
    [InlineData("plain.json", "plain", "[{\"instruction\":\"a\",\"output\":5}]", ":1:", "column 'output' must be a string, but is a number")]
    [InlineData("plain.json", "plain", "[{\"instrution\":\"a\",\"output\":\"b\"}]", ":1:", "no column 'instruction'. Did you mean 'instrution'?")]
    [InlineData("plain.json", "mapped", "[{\"instruction\":\"a\",\"output\":\"b\"}]", ":1:", "no column 'answer'. Known: instruction, output.")]
    [InlineData("full.json", "full", "[{\"instruction\":\"a\",\"output\":\"b\",\"input\":\"\",\"system\":\"\",\"history\":[[\"x\"]]}]", ":1:",
        "pairs of strings")]
    [InlineData("lines.jsonl", "lines", "{\"instruction\":\"a\",\"output\":\"b\"}\n{\"instruction\":", ":2:", "not valid JSON at byte")]
    [InlineData("lines.jsonl", "lines", "{\"instruction\":\"a\"} {}", ":1:", "something follows")]
    [InlineData("lines.jsonl", "lines", "{\"instruction\":\"a\",\"output\":\"\\uD83D\"}\n[", ":1:", "half of a surrogate pair")]
    [InlineData("table.csv", "table", "instruction,output\na,b\nc\n", ":3:", "1 fields, the header 2")]
    [InlineData("table.csv", "table", "instruction,output\n\"a,b\n", ":2:", "never closed")]
    [InlineData("table.csv", "table", "instruction,output\n\"a\"b,c\n", ":2:", "follows the closing quote")]
    [InlineData("table.csv", "table", "a,a\n1,2\n", ":1:", "same name")]
    public void A_wrong_row_is_one_clear_line(string file, string name, string text, string place, string what)
    {
        using var folder = Folder();
        var path = folder.Write(file, text);
        var error = Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(folder.Path, name));
        Assert.StartsWith(path, error.Message);
        Assert.Contains(place, error.Message);
        Assert.Contains(what, error.Message);
        Assert.DoesNotContain('\n', error.Message);
    }

    [Fact]
    public void Text_that_is_not_utf8_is_an_error()
    {
        using var folder = Folder();
        File.WriteAllBytes(Path.Combine(folder.Path, "table.csv"), [.. "instruction,output\n"u8, 0xC4, 0xE3, (byte)',', (byte)'b']);
        Assert.Contains("table.csv:2: not UTF-8", Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(folder.Path, "table")).Message);
        File.WriteAllBytes(Path.Combine(folder.Path, "lines.jsonl"), [.. "{\"instruction\":\""u8, 0xC4, 0xE3, .. "\"}"u8]);
        Assert.Contains("lines.jsonl:1:", Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(folder.Path, "lines")).Message);
        folder.Write("plain.json", """[{"instruction":"a","output":"b"},{"instruction":"\ud83d","output":"b"}]""");
        Assert.Contains("plain.json:2:", Assert.Throws<InvalidDataException>(() => DatasetLoader.Load(folder.Path, "plain")).Message);
    }

    [Fact]
    public void Unknown_names_come_with_the_nearest()
    {
        using var folder = Folder();
        Assert.Contains("Did you mean 'plain'?", Assert.Throws<ArgumentException>(() => DatasetLoader.Load(folder.Path, "lines,plian")).Message);
        Assert.Contains("'telegram'", Assert.Throws<NotSupportedException>(() => DatasetLoader.Load(folder.Path, "talk")).Message);
        Assert.Contains("has no file_name", Assert.Throws<NotSupportedException>(() => DatasetLoader.Load(folder.Path, "far")).Message);
        Assert.Contains("ranking", Assert.Throws<NotSupportedException>(() => DatasetLoader.Load(folder.Path, "pairs")).Message);
        Assert.Contains("empty", Assert.Throws<ArgumentException>(() => DatasetLoader.Load(folder.Path, " , ")).Message);
    }

    [Fact]
    public void Missing_files_are_named_with_their_entry()
    {
        using var folder = Folder();
        var error = Assert.Throws<FileNotFoundException>(() => DatasetLoader.Load(folder.Path, "gone"));
        Assert.Contains(Path.Combine(folder.Path, "gone.json"), error.Message);
        Assert.Contains("'gone'", error.Message);
        Assert.Contains("dataset_info.json", Assert.Throws<FileNotFoundException>(() => DatasetInfo.Load("/nowhere")).Message);
    }

    [Theory]
    [InlineData("""{"a":{"file_nam":"x"}}""", "Did you mean 'file_name'?")]
    [InlineData("""{"a":{"file_name":"x","columns":{"promt":"x"}}}""", "Did you mean 'prompt'?")]
    [InlineData("""{"a":{"file_name":7}}""", "'file_name': expected string, found a number")]
    [InlineData("""{"a":3}""", "'a': expected object")]
    [InlineData("""[]""", "must be a JSON object, but is a list")]
    [InlineData("""{"a":""", ":1: not valid JSON")]
    [InlineData("""{"a":{"file_name":"x","ranking":"true"}}""", "'a': ranking must be true or false, but is \"true\"")]
    [InlineData("""{"a":{"file_name":"x","num_samples":-2}}""", "num_samples")]
    public void A_wrong_dataset_info_is_one_clear_line(string text, string expected)
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", text);
        Assert.Contains(expected, Assert.Throws<InvalidDataException>(() => DatasetInfo.Load(folder.Path).Get("a")).Message);
    }

    /// <summary>A file of another program's has keys of its own, which are nobody's affair while their set is not asked for.</summary>
    [Fact]
    public void An_entry_that_nobody_asks_for_is_not_looked_at()
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"a":{"file_name":"a.json"},"b":{"file_name":"b.json","comment":"mine"}}""");
        var info = DatasetInfo.Load(folder.Path);
        Assert.Equal(Path.Combine(folder.Path, "a.json"), info.Get("a").Path);
        Assert.Contains("unknown key 'comment'", Assert.Throws<InvalidDataException>(() => info.Get("b")).Message);
    }

    [Fact]
    public void A_split_of_a_file_is_refused_and_lines_of_text_are_rows()
    {
        using var folder = new Samples.Folder();
        folder.Write("a.txt", "one\r\n\n  \nzwei 二\nthree");
        folder.Write("dataset_info.json", """
            {"a":{"file_name":"a.txt","split":"train","columns":{"prompt":"text"}},"b":{"file_name":"a.txt","split":"train[:10]"},
            "c":{"file_name":"a.txt","split":"test"}}
            """);
        var info = DatasetInfo.Load(folder.Path);
        Assert.Contains("split 'train[:10]' of a.txt: a file is one split", Assert.Throws<NotSupportedException>(() => info.Get("b")).Message);
        Assert.Contains("split 'test'", Assert.Throws<NotSupportedException>(() => info.Get("c")).Message);
        Assert.Equal([("one", 1), ("zwei 二", 4), ("three", 5)], RowReader.Read(info.Get("a").Path)
            .Select(r => (r.Fields.GetProperty("text").GetString()!, int.Parse(r.Source.Split(':')[^1], System.Globalization.CultureInfo.InvariantCulture))));
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(0.1, 10)]
    [InlineData(0.001, 1)]
    [InlineData(7, 7)]
    public void Some_rows_are_split_off(double size, int expected)
    {
        Example[] examples = [.. Enumerable.Range(0, 100).Select(i => new Example([new(Role.User, "x")], [], null, null, $"f:{i}"))];
        var (train, evaluation) = DatasetLoader.Split(examples, size, seed: 3);
        Assert.Equal(expected, evaluation.Count);
        Assert.Equal(examples.Select(e => e.Source).Order(), train.Concat(evaluation).Select(e => e.Source).Order());
        Assert.Equal(evaluation, DatasetLoader.Split(examples, size, seed: 3).Evaluation);
    }

    [Theory]
    [InlineData(-0.1)]
    [InlineData(1)]
    [InlineData(100)]
    [InlineData(double.NaN)]
    public void A_split_that_leaves_nothing_is_refused(double size) => Assert.Throws<ArgumentException>(() =>
        DatasetLoader.Split([.. Enumerable.Range(0, 100).Select(i => new Example([], [], null, null, $"f:{i}"))], size, seed: 1));

    [Fact]
    public void The_real_sets_load()
    {
        var real = Shared("datasets");
        Assert.SkipUnless(real is not null, "../shared/datasets is not on this machine");
        using var folder = new Samples.Folder();
        foreach (var file in new[] { "NekoQA-516.json", "TslDial.json" })
            File.CreateSymbolicLink(Path.Combine(folder.Path, file), Path.Combine(real, file));
        folder.Write("dataset_info.json", """{"neko":{"file_name":"NekoQA-516.json"},"tsl":{"file_name":"TslDial.json"}}""");
        var examples = DatasetLoader.Load(folder.Path, "neko,tsl");
        Assert.Equal(516 + 11243, examples.Count);
        var encoded = new SftEncoder(Templates.Get("deepseek"), Samples.Small, cutoffLength: 256).EncodeAll(examples, TestContext.Current.CancellationToken);
        Assert.All(encoded, e => Assert.InRange(e.Targets, 1, 256));
    }

    [Fact]
    public void The_same_seed_gives_the_same_order_on_every_machine()
    {
        // xoshiro256** from splitmix64(0): the first values of the authors' C code.
        var random = new StableRandom(0);
        Assert.Equal([0x99EC5F36CB75F2B4, 0xBF6E1F784956452A, 0x1A5F849D4933E6E0], new[] { random.NextBits(), random.NextBits(), random.NextBits() });
        var order = EpochOrder.Of(seed: 42, epoch: 0, 1000);
        Assert.Equal(Enumerable.Range(0, 1000), order.Order());
        Assert.Equal(order, EpochOrder.Of(42, 0, 1000));
        Assert.NotEqual(order, EpochOrder.Of(42, 1, 1000));
        Assert.NotEqual(order, EpochOrder.Of(43, 0, 1000));
        Assert.Empty(EpochOrder.Of(1, 0, 0));
    }

    [Fact]
    public void Every_place_is_equally_likely()
    {
        // 6 orders of 3, 60,000 shuffles: 10,000 each, standard deviation 91; five of them are allowed.
        var counts = Enumerable.Range(0, 60_000).Select(epoch => string.Join("", EpochOrder.Of(7, epoch, 3))).CountBy(o => o).ToDictionary();
        Assert.Equal(6, counts.Count);
        Assert.All(counts.Values, c => Assert.InRange(c, 10_000 - 456, 10_000 + 456));
    }

    [Theory]
    [InlineData("kitten", "sitting", 3)]
    [InlineData("", "abc", 3)]
    [InlineData("Alpha", "alpha", 0)]
    [InlineData("plian", "plain", 1)]
    public void Distances_are_levenshteins(string a, string b, int expected) => Assert.Equal(expected, Nearest.Distance(a, b));

    [Fact]
    public void Only_near_names_are_suggested()
    {
        string[] known = ["learning_rate", "lora_rank", "lora_alpha", "cutoff_len"];
        Assert.Equal("learning_rate", Nearest.Find("learnig_rate", known));
        Assert.Equal("lora_rank", Nearest.Find("rank", known));
        Assert.Null(Nearest.Find("completely_else", known));
        Assert.Equal(" Known: cutoff_len, learning_rate, lora_alpha, lora_rank.", Nearest.Hint("zzz", known));
    }

    private static Samples.Folder Folder()
    {
        var folder = new Samples.Folder();
        folder.Write("dataset_info.json", Info);
        folder.Write("plain.json", """
            [
              {"instruction": "one", "input": "more", "output": "eins"},
              {"instruction": "two", "input": "", "output": "zwei"},
              {"instruction": "", "input": "three", "output": "drei"}
            ]
            """);
        return folder;
    }

    private static string Source(Samples.Folder folder, string file, int row) => $"{Path.Combine(folder.Path, file)}:{row}";

    /// <summary>A folder of ../shared, seen from the repository's root; null when there is none.</summary>
    private static string? Shared(string name)
    {
        for (var folder = new DirectoryInfo(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (!File.Exists(Path.Combine(folder.FullName, "KtNotebooks.sln")))
                continue;
            var shared = Path.Combine(folder.FullName, "..", "shared", name);
            return Directory.Exists(shared) ? shared : null;
        }
        return null;
    }
}
