using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;

using KtNotebooks.Data;
using KtNotebooks.Segmentation;

using Xunit;

namespace KtNotebooks.Tests.Segmentation;

/// <summary>
/// The words are python3-jieba's, on text that the repository has, on random text, and on any data files named by KT_ORACLE_ROWS (with colons between).
/// </summary>
public class JiebaTests(ITestOutputHelper output)
{
    /// <summary>Cut by jieba 0.42.1 (python3-jieba 0.42.1-3); the first three are its own examples.</summary>
    [Theory]
    [InlineData("我来到北京清华大学", "我 来到 北京 清华大学")]
    [InlineData("他来到了网易杭研大厦", "他 来到 了 网易 杭研 大厦")]
    [InlineData("小明硕士毕业于中国科学院计算所", "小明 硕士 毕业 于 中国科学院 计算所")]
    [InlineData("主人，今天天气真好喵~", "主人 ， 今天天气 真好 喵 ~")]
    [InlineData("圆周率是3.14159，占50%。", "圆周率 是 3.14159 ， 占 50% 。")]
    [InlineData("abc......def", "abc ...... def")]
    [InlineData("", "")]
    public void Words_of_known_sentences(string text, string words)
    {
        Needed();
        Assert.Equal(words, string.Join(' ', Jieba.Default.Cut(text)));
    }

    [Fact]
    public void White_space_and_what_lies_beyond_sixteen_bits_are_words_of_one_character()
    {
        Needed();
        Assert.Equal(["a", " ", " ", "b", "\r\n", "\n", "😀", "𠮷", "\u3000"], Jieba.Default.Cut("a  b\r\n\n😀𠮷\u3000"));
    }

    [Fact]
    public void Words_joined_are_the_text()
    {
        Needed();
        var text = new BilingualText(7);
        for (var i = 0; i < 200; i++)
        {
            var sample = text.Next(40);
            Assert.Equal(sample, string.Concat(Jieba.Default.Cut(sample)));
        }
    }

    [Fact]
    public void Words_are_jiebas()
    {
        Python.Require();
        var random = new BilingualText(1);
        List<string> texts = [.. Enumerable.Range(0, 1500).Select(_ => random.Next(40)), .. new[]
        {
            "neko_qa_train", "neko_qa_test"
        }.SelectMany(name => DatasetLoader.Load(Path.Combine(Checkout.Root, "datasets"), name)).SelectMany(e => new[] { e.Prompt[0].Content, e.Answer })];
        foreach (var file in (Environment.GetEnvironmentVariable("KT_ORACLE_ROWS") ?? "").Split(':', StringSplitOptions.RemoveEmptyEntries))
            texts.AddRange(TextsOf(file));
        var expected = Python.Ask(texts.Select(text => (object)new Dictionary<string, object> { ["predict"] = text, ["label"] = "", ["only words"] = true }));
        _ = Jieba.Default.Cut("warm");
        var watch = Stopwatch.StartNew();
        List<string>[] words = [.. texts.Select(Jieba.Default.Cut)];
        output.WriteLine($"{texts.Count} texts, {texts.Sum(System.Text.Encoding.UTF8.GetByteCount) / 1e6:F1} MB of "
            + $"UTF-8, {words.Sum(w => w.Count)} words, {texts.Sum(System.Text.Encoding.UTF8.GetByteCount) / 1e6 / watch.Elapsed.TotalSeconds:F1} MB/s on one "
            + "thread");
        Assert.Equal(texts.Count, expected.Length);
        for (var i = 0; i < texts.Count; i++) Assert.Equal(((JsonArray)expected[i]["predict"]!).Select(w => (string)w!), words[i]);
    }

    [Fact]
    public void A_damaged_dictionary_is_named_with_its_line()
    {
        Needed();
        var folder = Directory.CreateTempSubdirectory("kt-jieba-");
        try
        {
            var dictionary = Path.Combine(folder.FullName, "dict.txt");
            File.WriteAllText(dictionary, "好 5 a\n坏人 many n\n");
            Assert.Equal($"{dictionary}:2: wanted `word frequency tag`, but the line is '坏人 many n'",
                Assert.Throws<InvalidDataException>(() => Jieba.Load(JiebaFiles.Find() with { Dictionary = dictionary })).Message);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static void Needed()
    {
        string? missing = null;
        try
        {
            _ = JiebaFiles.Find();
        }
        catch (FileNotFoundException error)
        {
            missing = error.Message;
        }
        Require.Hardware("jieba", missing);
    }

    /// <summary>Every string of every row of a data file.</summary>
    private static IEnumerable<string> TextsOf(string file) => RowReader.Read(file)
        .SelectMany(row => row.Fields.EnumerateObject().Where(p => p.Value.ValueKind == JsonValueKind.String).Select(p => p.Value.GetString()!))
        .Where(text => text.Length > 0);
}
