using KtNotebooks.Data;
using KtNotebooks.Generation;

using Xunit;

namespace KtNotebooks.Tests.Generation;

public sealed class ChatSessionTests
{
    /// <summary>
    /// What the cache holds of a prompt cuts its rows into other passes, whose products may round otherwise: 5 of 160 greedy answers changed when they were
    /// asked for again.
    /// </summary>
    [Fact]
    public void A_question_that_is_asked_again_is_answered_alike()
    {
        using var chat = ChatSession.Open($"model_name_or_path={Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")}", "template=deepseek",
            "do_sample=false", "max_new_tokens=40");
        var questions = DatasetLoader.Load(Path.Combine(Checkout.Root, "datasets"), "neko_qa_test").Take(60).Select(row => row.Prompt[0].Content).ToArray();
        var stop = TestContext.Current.CancellationToken;
        var (first, rows) = (questions.Select(q => Ask(q)).ToArray(), chat.Rows);
        Assert.Equal(first, questions.Reverse().Select(q => Ask(q)).Reverse());
        foreach (var question in questions.Take(20)) Assert.Equal(Ask(question), Ask(question)); // the whole prompt is in the cache now
        Assert.InRange(chat.Rows - rows, 1, 3 * rows);

        string Ask(string question)
        {
            chat.Clear();
            return chat.Answer(question, stop);
        }
    }
}
