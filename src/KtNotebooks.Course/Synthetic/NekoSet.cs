using KtNotebooks.Files;

namespace KtNotebooks.Course.Synthetic;

/// <summary>The two committed files of cat-girl answers, in NekoQA-10K's layout; <see cref="StyledSet"/> chooses the questions.</summary>
public static class NekoSet
{
    public const string TrainFile = "neko_qa_train.json", TestFile = "neko_qa_test.json", StyleFile = "_neko_style.yaml";
    public const int TrainRows = 960, TestRows = 160;

    private const ulong Seed = 20260;

    /// <summary>The rows for training and for test, always the same for the same tables.</summary>
    public static (IReadOnlyList<QaRow> Train, IReadOnlyList<QaRow> Test) Make(KnowledgeBase knowledge)
    {
        var style = new NekoStyle(Path.Combine(knowledge.Folder, StyleFile));
        return StyledSet.Make(knowledge, Seed, TrainRows, TestRows, (fact, question) => new QaRow(question, style.Say(fact, SeededRandom.For(Seed, question))));
    }

    /// <summary>Writes both files as UTF-8 with LF into a folder.</summary>
    public static void Write(KnowledgeBase knowledge, string folder)
    {
        var (train, test) = Make(knowledge);
        AtomicFile.WriteText(Path.Combine(folder, TrainFile), QaRow.ToJsonArray(train));
        AtomicFile.WriteText(Path.Combine(folder, TestFile), QaRow.ToJsonArray(test));
    }
}
