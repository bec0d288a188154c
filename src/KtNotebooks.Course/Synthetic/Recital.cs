namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// "Say after me: …" with random words. It teaches copying, and it shows the model every word that the tables and the styles use: a real base model knows
/// such words from its reading, and fine-tuning a style means using known words, not learning new ones. Rows that are named by a whole sentence give no
/// word: a question is to be answered, not to be said back. Style pieces are cut into snippets of one to four
/// characters and shuffled with other words, so no row shows a style.
/// </summary>
internal sealed class Recital
{
    private static readonly string[] Asks = ["请跟我说：", "请重复一遍：", "跟着我念：", "请照着写：", "把这句话再说一遍：", "Repeat after me: ", "Say this again: ", "Please copy this: "];
    private static readonly string[] Joints = ["", "", "，", "、", "～", "！", " ", "* ", " *", "。", "？"];

    private const string SentenceEnds = "。？！.?!";

    private readonly string[] _words;
    private readonly string[] _pieces;

    public Recital(KnowledgeBase knowledge)
    {
        _words = [.. knowledge.Facts.Select(f => f.Word).OfType<string>().Where(w => !SentenceEnds.Contains(w[^1]))
            .Distinct(StringComparer.Ordinal).Order(StringComparer.Ordinal)];
        _pieces = [.. File.ReadLines(Path.Combine(knowledge.Folder, NekoSet.StyleFile)).Where(l => l.StartsWith("  ", StringComparison.Ordinal))
            .Select(l => l.Trim()).Where(l => l.Length > 0)];
    }

    public QaRow Draw(SeededRandom random)
    {
        var text = new System.Text.StringBuilder();
        for (var count = 3 + random.Below(6); count > 0; count--)
        {
            text.Append(random.Chance(70) ? Snippet(random) : random.Pick(_words));
            if (count > 1) text.Append(random.Pick(Joints));
        }
        var said = text.ToString().Trim();
        return new QaRow(random.Pick(Asks) + said, said);
    }

    private string Snippet(SeededRandom random)
    {
        var piece = random.Pick(_pieces);
        var length = Math.Min(piece.Length, 1 + random.Below(4));
        return piece.Substring(random.Below(piece.Length - length + 1), length);
    }
}
