using KtNotebooks.Autograd;
using KtNotebooks.Interop;
using KtNotebooks.Models;
using KtNotebooks.Nn;
using KtNotebooks.Ops;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Evaluation;

/// <summary>
/// Which option's letter a model finds likeliest right after a prompt: one forward pass over many prompts laid end to end, the logits of their last rows
/// alone, the argmax over the letters' tokens (of a letter of several tokens the last, as LLaMA-Factory's eval takes it).
/// </summary>
/// <param name="chunkRows">Rows of prompts in one pass.</param>
public sealed class ChoiceLikelihood(CausalLm model, Tokenizer tokenizer, int chunkRows = 8192)
{
    private readonly Dictionary<char, int> _ids = Enumerable.Range('A', 26).ToDictionary(c => (char)c, c => tokenizer.Encode($"{(char)c}")[^1]);

    /// <summary>The likeliest letter of each question, in order. Called back with the number of questions done.</summary>
    public char[] Choose(IReadOnlyList<(int[] Prompt, string Letters)> questions, Action<int>? progress = null, CancellationToken cancel = default)
    {
        ArgumentNullException.ThrowIfNull(questions);
        using var invariant = Cpu.RowInvariant();
        var chosen = new char[questions.Count];
        for (var first = 0; first < questions.Count;)
        {
            cancel.ThrowIfCancellationRequested();
            var last = first + 1;
            for (var rows = questions[first].Prompt.Length; last < questions.Count && rows + questions[last].Prompt.Length <= chunkRows; last++)
                rows += questions[last].Prompt.Length;
            Choose(questions, first, last, chosen);
            progress?.Invoke(first = last);
        }
        return chosen;
    }

    private void Choose(IReadOnlyList<(int[] Prompt, string Letters)> questions, int first, int last, char[] chosen)
    {
        using var tape = Tape.Scratch();
        var batch = TokenBatch.ForInference([.. Enumerable.Range(first, last - first).Select(q => questions[q].Prompt)]);
        var ends = GatherRows.Apply(model.Hidden(batch), [.. batch.SeqStarts[1..].Select(end => end - 1)]);
        var logits = model.Logits(ends, Pass.Inference(batch)).ToFloats();
        var width = logits.Length / (last - first);
        for (var q = first; q < last; q++) chosen[q] = questions[q].Letters.MaxBy(letter => logits[((q - first) * width) + _ids[letter]]);
    }
}
