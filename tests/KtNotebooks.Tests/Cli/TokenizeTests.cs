using System.Text.Json;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Tokenizers;
using Xunit;

namespace KtNotebooks.Tests.Cli;

public sealed class TokenizeTests : IDisposable
{
    private static readonly string Model = Path.Combine(Checkout.Root, "notebooks", "models", "kt-tiny");

    private readonly Samples.Folder _folder = new();

    [Fact]
    public void Plain_lines_become_arrays_of_ids()
    {
        var tokenizer = Tokenizer.Load(Model);
        string[] texts = ["猫怎么叫？", "", "What is it?\r", "<｜end▁of▁sentence｜> 1234"];
        Assert.Equal(texts.Select(text => Json(tokenizer.Encode(text))), Lines(_folder.Write("a.txt", string.Join('\n', texts))));
    }

    [Fact]
    public void Json_lines_carry_line_ends_and_halves_of_characters()
    {
        var tokenizer = Tokenizer.Load(Model);
        Assert.Equal([Json(tokenizer.Encode("a\nb 😀")), Json(tokenizer.Encode("�x\\ud800 �"))],
            Lines(_folder.Write("a.jsonl", "\"a\\nb \\ud83d\\ude00\"\n\"\\ud83dx\\\\ud800 \\uDE00\"\n"), "--jsonl"));
    }

    [Fact]
    public void Decoding_gives_the_texts_back() =>
        Assert.Equal(["\"猫怎么叫？\\n\"", "\"\""], Lines(_folder.Write("ids", Json(Tokenizer.Load(Model).Encode("猫怎么叫？\n")) + "\n[]\n"), "--decode"));

    [Fact]
    public void A_line_that_is_no_text_is_named()
    {
        var file = _folder.Write("a.jsonl", "\"a\"\nplain\n");
        Assert.StartsWith($"{file}:2: not a JSON string", Kt.Refuses("tokenize", "--tokenizer", Model, "--file", file, "--jsonl"));
        Assert.StartsWith($"{file}:1: The tokenizer has no token 99999999; its ids go from 0 to ", Kt.Refuses("tokenize", "--tokenizer", Model, "--file",
            _folder.Write("a.jsonl", "[99999999]"), "--decode"));
        Assert.Equal($"{file}:1: not a JSON array of the tokenizer's ids, such as [1, 2, 3]: null", Kt.Refuses("tokenize", "--tokenizer", Model, "--file",
            _folder.Write("a.jsonl", "null"), "--decode"));
        Assert.Contains("/nowhere", Kt.Refuses("tokenize", "--tokenizer", Model, "--file", "/nowhere"));
    }

    public void Dispose() => _folder.Dispose();

    private static string[] Lines(string file, params string[] options)
    {
        var (exit, output, errors) = Kt.Run(["tokenize", "--tokenizer", Model, "--file", file, .. options]);
        Assert.True(exit == 0, errors);
        return output.Split('\n')[..^1];
    }

    private static string Json(int[] ids) => JsonSerializer.Serialize(ids);
}
