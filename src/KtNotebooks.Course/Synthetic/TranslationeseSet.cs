using KtNotebooks.Files;

namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// The two committed files of plain Chinese questions answered like a badly dubbed Western film ("哦，我的老伙计，…"), in the layout of
/// Translational-Style-ChatLLM's TslDial.json: an empty instruction, the question in input. <see cref="StyledSet"/> chooses the questions.
/// </summary>
public static class TranslationeseSet
{
    public const string TrainFile = "translationese_train.json", TestFile = "translationese_test.json", StyleFile = "_translationese_style.yaml";
    public const int TrainRows = 960, TestRows = 160;

    private const ulong Seed = 19630;

    /// <summary>The rows for training and for test, always the same for the same tables.</summary>
    public static (IReadOnlyList<QaRow> Train, IReadOnlyList<QaRow> Test) Make(KnowledgeBase knowledge)
    {
        var style = new TranslationeseStyle(Path.Combine(knowledge.Folder, StyleFile));
        return StyledSet.Make(knowledge, Seed, TrainRows, TestRows,
            (fact, question) => new QaRow("", style.Say(fact, SeededRandom.For(Seed, question))) { Input = question });
    }

    /// <summary>Writes both files as UTF-8 with LF into a folder.</summary>
    public static void Write(KnowledgeBase knowledge, string folder)
    {
        var (train, test) = Make(knowledge);
        AtomicFile.WriteText(Path.Combine(folder, TrainFile), QaRow.ToJsonArray(train));
        AtomicFile.WriteText(Path.Combine(folder, TestFile), QaRow.ToJsonArray(test));
    }
}
