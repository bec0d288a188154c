using System.Text;
using KtNotebooks.Data;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Tests.Tokenizers;

/// <summary>
/// Some 8,000 texts for comparing tokenizers: ordinary ones, and whatever a pattern, a normaliser or a table of added tokens may trip over. Always the
/// same.
/// </summary>
internal static class OracleTexts
{
    private static readonly string[] Emoji = ["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇨🇳🇪🇬", "1️⃣", "❤️", "☃", "🫠"];
    private static readonly string[] Marks = ["e\u0301", "é", "ẹ̀", "Å", "\u212B", "q\u0307\u0323", "\u1100\u1161\u11A8", "각", "\u0958", "क्षि", "ﬁ", "ﾊﾟ", "パ",
        "\u0344", "\u2126", "שָׁ", "\u0E33", "A\u030A\u0327", "\u0301", " \u0301x"];
    private static readonly string[] Words =
    [
        "the", "The", "I'm", "WE'LL", "don't", "it’s", "naïve", "Straße", "ſ", "K", "主人", "喵", "今天天气", "你好，世界！", "ひらがな", "カタカナ", "ー", "한국어", "русский",
        "العربية", "עברית", "हिन्दी", "ไทย",
        "x=1;", "{}", "//", "=>", "a_b", "--help", "C#", "<b>", "&amp;", "1", "42", "3.14", "2024-01-31", "１２３", "Ⅷ", "½", "²", "٣٤", "“引号”", "…", "—", "~",
        "@", "。", "！？", "𠮷", "𝒜", "𐍈", "\u200B", "\u200D", "\uFEFF", "\u00A0", "\u3000", "\u2028", "\u0085", "\0", "\u007F",
    ];
    private static readonly string[] Blanks = ["", "", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", " \n ", "   "];

    public static IReadOnlyList<string> All(Tokenizer tokenizer) =>
        [.. Rows(), .. Sources(), .. Runs(), .. Marks, .. Emoji, .. Planes(), .. Combining(), .. Mixed(tokenizer), .. Surrogates(), .. Specials(tokenizer)];

    /// <summary>Questions and answers in Chinese and English.</summary>
    private static IEnumerable<string> Rows() =>
        DatasetLoader.Load(Path.Combine(Checkout.Root, "datasets"), "neko_qa_test,translationese_test,afrimed_style_mcq_test,afrimed_style_saq_test")
            .SelectMany(e => new[]
        {
            e.Prompt[0].Content, e.Answer
        });

    /// <summary>Code: each line of some files, then the files whole.</summary>
    private static IEnumerable<string> Sources()
    {
        string[] files = ["src/KtNotebooks.Engine/Tokenizers/Pattern.cs", "src/KtNotebooks.Native/gemm.cpp", "kt", "datasets/source/words.yaml",
            "tests/KtNotebooks.Tests/Tokenizers/OracleTexts.cs", "README.md"];
        string[] texts = [.. files.Select(file => File.ReadAllText(Path.Combine(Checkout.Root, file)))];
        return texts.SelectMany(text => text.Split('\n')).Where(line => line.Length > 0).Concat(texts);
    }

    /// <summary>One thing many times, bare and between words.</summary>
    private static IEnumerable<string> Runs() =>
        from unit in new[] { " ", "\n", "\r\n", "\t", " \n", "7", "a", "A", "哈", "e\u0301", "😀", "!", "=", "\u3000", "０", "'s", "ab", ". " }
        from count in new[] { 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 64, 100, 127, 129, 500 }
        let run = string.Concat(Enumerable.Repeat(unit, count))
        from text in new[] { run, $"x{run}y", $" {run} 好" }
        select text;

    /// <summary>Code points of every plane, assigned or not, beside a letter, a blank and a digit.</summary>
    private static IEnumerable<string> Planes()
    {
        var random = new StableRandom(7);
        for (var plane = 0; plane <= 16; plane++)
            for (var i = 0; i < (plane < 4 ? 150 : 20); i++)
                if (Rune.TryCreate((plane << 16) + random.Next(0x10000), out var rune))
                    yield return $"a{rune}b {rune}{rune} 1{rune}";
    }

    /// <summary>
    /// Marks in any order on bases that compose, also marks younger than the normaliser's Unicode version (9.0): those must not change places.
    /// </summary>
    private static IEnumerable<string> Combining()
    {
        (int First, int Last)[] marks = [(0x300, 0x36F), (0x5B0, 0x5C7), (0x64B, 0x65F), (0x8C8, 0x8FF), (0xF71, 0xF7D), (0x1AB0, 0x1ACE), (0x1DC0, 0x1DFF),
            (0x302A, 0x3030), (0x11D42, 0x11D45), (0x1E130, 0x1E136)];
        (int First, int Last)[] bases = [(0x41, 0x7A), (0xC0, 0x17F), (0x915, 0x939), (0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2), (0x1F00, 0x1F1D),
            (0xAC00, 0xAC40), (0xFB1D, 0xFB4E), (0x1D157, 0x1D164)];
        var random = new StableRandom(13);
        for (var i = 0; i < 1000; i++)
        {
            var text = new StringBuilder();
            for (var n = 1 + random.Next(3); n > 0; n--)
            {
                text.Append(One(bases));
                for (var m = random.Next(4); m > 0; m--)
                    text.Append(One(marks));
            }
            yield return text.ToString();
        }

        Rune One((int First, int Last)[] ranges)
        {
            var (first, last) = ranges[random.Next(ranges.Length)];
            return new Rune(first + random.Next(last - first + 1));
        }
    }

    /// <summary>Everything side by side, with and without blanks between.</summary>
    private static IEnumerable<string> Mixed(Tokenizer tokenizer)
    {
        var random = new StableRandom(11);
        string[] parts = [.. Words, .. Words, .. Marks, .. Emoji, .. Names(tokenizer).Take(4)];
        for (var i = 0; i < 1500; i++)
        {
            var text = new StringBuilder();
            for (var n = 1 + random.Next(12); n > 0; n--)
                text.Append(parts[random.Next(parts.Length)]).Append(Blanks[random.Next(Blanks.Length)]);
            yield return text.ToString();
        }
    }

    /// <summary>Halves of surrogate pairs, which become U+FFFD in both libraries.</summary>
    private static IEnumerable<string> Surrogates() => ["\uD800", "a\uDC00b", "\uD83D", "\uD83D\uD83D\uDE00", "\uDE00\uD83D 好", " \uD800\uD800 ", "x\uDBFF"];

    /// <summary>Special tokens inside text, broken ones, and ones with blanks around.</summary>
    private static IEnumerable<string> Specials(Tokenizer tokenizer) =>
        from name in Names(tokenizer)
        from text in new[] { name, $"a{name}b", $" {name} \n", name + name, name[..^1], name[1..], $"<{name}>" }
        select text;

    private static IEnumerable<string> Names(Tokenizer tokenizer) =>
        ((string[])["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁call▁begin｜>", "<|im_start|>", "<|im_end|>",
            "<|endoftext|>", "<think>", "</think>", "<tool_call>", "<|fim_prefix|>"])
        .Where(name => tokenizer.IdOf(name) is not null);
}
