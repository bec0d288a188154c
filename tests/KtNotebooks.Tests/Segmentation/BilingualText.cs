using System.Text;

namespace KtNotebooks.Tests.Segmentation;

/// <summary>
/// Random text in Chinese and English with everything that cutting has rules for: rare characters, numbers, marks, blank lines, code points beyond 16 bits.
/// </summary>
internal sealed class BilingualText(int seed)
{
    private static readonly string[] Pieces =
    [
        " ", "  ", "\n", "\n\n", "\r\n", "\t", "。", "，", "！", "？", "?", ".", "......", ".......", "……", "”", "’", "。”", "、", "—", "\u3000", "\u001C", "3.14",
        "50%", "2024", "1,000", "-5", "+", "#", "&", "_", "%", "A+B", "C#", "T恤",
        "😀", "𠮷", "é", "ß", "한국", "か", "〇", "AT&T", "B超", "the", "a", "the cat", "model", "is", "not", "DeepSeek-V3", "x_1", "喵~", "主人", "你好", "的", "了", "我们",
        "中华人民共和国", "研究生命起源", "南京市长江大桥", "小明硕士毕业于中国科学院计算所", "韩冰是个好人", "龘靐齉", "鿕",
    ];

    private readonly Random _random = new(seed);

    /// <summary>At most so many pieces: fixed ones, single ideographs, or random letters.</summary>
    public string Next(int most)
    {
        var text = new StringBuilder();
        for (var i = _random.Next(most); i >= 0; i--)
        {
            switch (_random.Next(4))
            {
                case 0 or 1:
                    text.Append(Pieces[_random.Next(Pieces.Length)]);
                    break;
                case 2:
                    for (var n = _random.Next(1, 5); n > 0; n--) text.Append((char)_random.Next(0x4E00, 0x9FFF));
                    break;
                default:
                    for (var n = _random.Next(1, 4); n > 0; n--) text.Append((char)('a' + _random.Next(26)));
                    break;
            }
        }
        return text.ToString();
    }

    /// <summary>A text and another that shares much of it: characters dropped, doubled and replaced.</summary>
    public (string Predict, string Label) Pair()
    {
        var label = Next(_random.Next(4) == 0 ? 3 : 30);
        if (_random.Next(5) == 0) return (_random.Next(4) == 0 ? "" : Next(20), label);
        var predict = new StringBuilder();
        foreach (var rune in label.EnumerateRunes())
            for (var n = _random.Next(12) switch { 0 => 0, 1 => 2, _ => 1 }; n > 0; n--) predict.Append(_random.Next(12) == 0 ? Next(1) : rune.ToString());
        return (predict.ToString(), label);
    }
}
