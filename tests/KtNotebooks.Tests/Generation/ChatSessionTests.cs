using KtNotebooks.Data;
using KtNotebooks.Generation;

using Xunit;

namespace KtNotebooks.Tests.Generation;

public sealed class ChatSessionTests
{
    /// <summary>
    /// What the cache held of a prompt cut its rows into other passes, whose products round otherwise: 5 of 160 greedy answers changed when they were asked
    /// for again.
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
        Assert.Equal(2 * rows, chat.Rows); // nothing of an earlier conversation was used
        var outside = questions.Take(10).SelectMany(q => new[] { chat.Answer(q, stop), chat.Answer(q, stop) }).ToArray();
        Assert.Equal(first.Take(10).SelectMany(answer => new[] { answer, answer }), outside);

        string Ask(string question)
        {
            chat.Clear();
            return chat.Answer(question, stop);
        }
    }
}
