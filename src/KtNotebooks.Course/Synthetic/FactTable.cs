using YamlDotNet.Core;
using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// A file of datasets/source: rows of cells, and relations that say how the cells are asked for and told in each language.
/// <code>
/// columns: 动物 | 叫声 | animal | sound
/// facts: |
///   猫 | 喵喵 | cat | meow
/// relations:
///   sound:
///     zh:
///       ask: |
///         {动物}怎么叫？
///       answer: |
///         {动物}的叫声是“{叫声}”。
/// </code>
/// The first cell names the row. A cell that is not known is "-"; sentences that need it are left out.
/// </summary>
internal sealed class FactTable
{
    public string Columns { get; set; } = "";
    public string Facts { get; set; } = "";

    /// <summary>True for greetings and the like: no "may I ask" before the question.</summary>
    public bool SmallTalk { get; set; }

    public Dictionary<string, Relation> Relations { get; set; } = [];

    internal sealed class Relation
    {
        public Wording? Zh { get; set; }
        public Wording? En { get; set; }
    }

    /// <summary>Each member holds one sentence a line.</summary>
    internal sealed class Wording
    {
        public string Ask { get; set; } = "";
        public string Answer { get; set; } = "";
        public string More { get; set; } = "";
        public string Follow { get; set; } = "";
        public string Neko { get; set; } = "";
        public string Option { get; set; } = "";
    }

    /// <summary>Reads one file into facts of both languages.</summary>
    /// <exception cref="InvalidDataException">The file is not such a table; the message names file and row.</exception>
    public static IEnumerable<Fact> Read(string path)
    {
        var name = Path.GetFileNameWithoutExtension(path);
        FactTable table;
        try
        {
            table = new DeserializerBuilder().WithNamingConvention(UnderscoredNamingConvention.Instance).Build()
                .Deserialize<FactTable>(File.ReadAllText(path));
        }
        catch (YamlException e)
        {
            throw new InvalidDataException($"{path}, line {e.Start.Line}: {e.InnerException?.Message ?? e.Message}", e);
        }

        var columns = Cells(table.Columns);
        var seen = new HashSet<string>();
        foreach (var line in Lines(table.Facts))
        {
            var cells = Cells(line);
            if (cells.Length != columns.Length)
                throw new InvalidDataException($"{path}: row '{line}' has {cells.Length} cells, expected {columns.Length}: {table.Columns}");
            if (!seen.Add(cells[0]))
                throw new InvalidDataException($"{path}: the row '{cells[0]}' is there twice; a row is named by its first cell");
            var row = columns.Zip(cells).ToDictionary(pair => pair.First, pair => pair.Second);
            foreach (var (relation, wording) in table.Relations)
            {
                if (wording.Zh is { } zh && Make(Language.Chinese, zh) is { } chinese)
                    yield return chinese;
                if (wording.En is { } en && Make(Language.English, en) is { } english)
                    yield return english;

                Fact? Make(Language language, Wording words)
                {
                    List<string> questions = Filled(words.Ask, row), answers = Filled(words.Answer, row);
                    return questions.Count == 0 || answers.Count == 0 ? null : new Fact
                    {
                        Id = $"{name}/{cells[0]}/{relation}",
                        Entity = $"{name}/{cells[0]}",
                        Word = cells[0],
                        Group = $"{name}/{relation}",
                        Language = language,
                        Questions = questions,
                        Answers = answers,
                        More = Filled(words.More, row),
                        FollowUps = Filled(words.Follow, row),
                        NekoAnswers = Filled(words.Neko, row),
                        Option = Filled(words.Option, row).FirstOrDefault(),
                        SmallTalk = table.SmallTalk,
                    };
                }
            }
        }
    }

    private static List<string> Filled(string templates, Dictionary<string, string> row) =>
        [.. Lines(templates).Select(template => Template.Fill(template, row)).OfType<string>().Distinct()];

    internal static string[] Lines(string text) => text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);

    private static string[] Cells(string line) => line.Split('|', StringSplitOptions.TrimEntries);
}
