using KtNotebooks.Data;
using KtNotebooks.Evaluation;
using KtNotebooks.Nn;
using KtNotebooks.Tests.Models;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Evaluation;

[Collection("cpu variant")]
public class ChoiceTests
{
    private const string Question = "What is it?\nA. one\nB. two\nC. three\nAnswer with the letter of the right option only.";

    [Theory]
    [InlineData(Question, "ABC")]
    [InlineData("(A) one\n(B) two", "AB")]
    [InlineData("甲\nA、一\nB、二\nC、三", "ABC")]
    [InlineData("A. one\nB. two\nC. three\nnow:\nA. x\nB. y", "AB")]
    [InlineData("A. only one option", null)]
    [InlineData("A. one\nC. three", null)]
    [InlineData("Who is A. Smith?", null)]
    public void Letters_of_a_question(string question, string? letters) => Assert.Equal(letters, ChoiceQuestion.LettersOf(question));

    [Theory]
    [InlineData("B", 'B')]
    [InlineData(" B\n", 'B')]
    [InlineData("B. two", 'B')]
    [InlineData("C)", 'C')]
    [InlineData("B\nbecause", 'B')]
    [InlineData("D", null)] // no such option
    [InlineData("b", null)]
    [InlineData("Answer: B", null)]
    [InlineData("B or C", null)]
    [InlineData("Because", null)]
    [InlineData("", null)]
    public void A_strict_reading(string text, char? answer) => Assert.Equal(answer, ChoiceQuestion.Parse(text, "ABC"));

    [Fact]
    public void Predictions_are_scored_with_their_failures()
    {
        Prediction[] rows = [new(Question, "B", "B"), new(Question, "A", "B"), new(Question, "I think B", "B"), new(Question, "C.", "C")];
        var scores = ChoiceScores.OfPredictions(rows)!;
        Assert.Equal((4, 0.5, 0.25), (scores.Rows, scores.Strict, scores.ParseFailures));
        Assert.Equal(1 / 3.0, scores.Chance, 12);
        Assert.Null(ChoiceScores.OfPredictions([.. rows, new("What?", "x", "y")]));
    }

    [Fact]
    public void The_likeliest_letter_is_that_of_the_prompt_alone()
    {
        using var model = Tiny.WithAdapter();
        var tokenizer = Samples.Small;
        (int[] Prompt, string Letters)[] questions = [.. Enumerable.Range(1, 9)
            .Select(n => (Enumerable.Range(0, n * 13).Select(i => i * 7 % 300).ToArray(), n % 2 == 0 ? "ABC" : "ABCDE"))];
        var seen = new List<int>();
        var chosen = new ChoiceLikelihood(model, tokenizer, chunkRows: 150).Choose(questions, seen.Add, TestContext.Current.CancellationToken);
        for (var q = 0; q < questions.Length; q++)
        {
            using var logits = model.Logits(TokenBatch.ForInference([questions[q].Prompt]));
            using var last = logits.Slice(logits.Rows - 1, 1);
            var values = last.ToFloats();
            Assert.Equal(questions[q].Letters.MaxBy(l => values[tokenizer.Encode($"{l}")[^1]]), chosen[q]);
        }
        Assert.True(seen.Count > 2 && seen[^1] == questions.Length);
    }

    [Fact]
    public void Token_accuracy_and_loss_are_those_of_the_definition()
    {
        using var model = Tiny.WithAdapter();
        var random = new Random(5);
        EncodedExample[] examples = [.. Enumerable.Range(2, 8).Select(n => Example(random, n * 5))];
        var (accuracy, loss) = new TokenAccuracy(model, chunkRows: 60, headRows: 7).Of(examples, TestContext.Current.CancellationToken);
        double shares = 0, sum = 0;
        var targets = 0;
        foreach (var example in examples)
        {
            using var logits = model.Logits(TokenBatch.ForInference([example.Ids]));
            var values = logits.ToFloats();
            var (right, all) = (0, 0);
            for (var t = 0; t + 1 < example.Ids.Length; t++)
            {
                if (example.Labels[t + 1] < 0) continue;
                var row = values[(t * Tiny.Vocabulary)..((t + 1) * Tiny.Vocabulary)];
                all++;
                if (Array.IndexOf(row, row.Max()) == example.Labels[t + 1]) right++;
                sum += Math.Log(row.Sum(v => Math.Exp(v - row.Max()))) + row.Max() - row[example.Labels[t + 1]];
            }
            shares += (double)right / all;
            targets += all;
        }
        Assert.Equal(shares / examples.Length, accuracy, 9);
        Assert.Equal(sum / targets, loss, 4);
        Assert.InRange(accuracy, 0.05, 0.95); // some are right by construction, some are not
    }

    /// <summary>Two of three tokens are labels; half of the labels are what the model would say, so that the accuracy is neither 0 nor 1.</summary>
    private static EncodedExample Example(Random random, int length)
    {
        using var model = Tiny.WithAdapter();
        var ids = new int[length];
        ids[0] = random.Next(300);
        for (var t = 1; t < length; t++)
        {
            using var logits = model.Logits(TokenBatch.ForInference([ids[..t]]));
            var last = logits.ToFloats()[^Tiny.Vocabulary..];
            ids[t] = random.Next(2) == 0 ? Array.IndexOf(last, last.Max()) : random.Next(300);
        }
        return new EncodedExample(ids, [.. ids.Select((id, t) => t % 3 == 0 ? -100 : id)], "test:1");
    }

    /// <summary>A set is scored by letters only where all of its rows are questions: the one that is none is named, with what is measured instead.</summary>
    [Fact]
    public void A_row_that_is_no_question_among_questions_is_named()
    {
        using var folder = new Samples.Folder();
        folder.Write("dataset_info.json", """{"mc":{"file_name":"mc.json"}}""");
        var file = folder.Write("mc.json", """
            [{"instruction":"Which colour?\nA. red\nB. blue\nAnswer:","output":"A"},{"instruction":"Which colour?\nA. red\nB. blue\nAnswer:","output":"b"}]
            """);
        using var run = EvalRun.Open("model_name_or_path=" + Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"), "template=deepseek",
            "dataset_dir=" + folder.Path, "eval_dataset=mc", "output_dir=" + Path.Combine(folder.Path, "out"));
        Assert.StartsWith($"1 of 2 rows are multiple-choice questions, but {file}:2 is not ", run.Notes[^1], StringComparison.Ordinal);
        Assert.EndsWith("'accuracy' is that of all rows' answer tokens, not of letters", run.Notes[^1], StringComparison.Ordinal);
    }
}
