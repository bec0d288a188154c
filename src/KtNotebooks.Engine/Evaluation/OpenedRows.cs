using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Distributed;
using KtNotebooks.Files;
using KtNotebooks.Models;
using KtNotebooks.Tokenizers;
using KtNotebooks.Training;
using KtNotebooks.Weights;

namespace KtNotebooks.Evaluation;

/// <summary>What `kt predict` and `kt eval` begin with: keys read, rows checked, the same on all ranks, and only then the model.</summary>
internal sealed record OpenedRows(PredictSettings Settings, CausalLm Model, Tokenizer Tokenizer, List<Example> Examples, ICollective Ranks)
{
    /// <summary>Rows that are not looked at, with file, row and reason.</summary>
    public required IReadOnlyList<string> LeftOut { get; init; }

    /// <summary>What a person should know before it starts.</summary>
    public required IReadOnlyList<string> Notes { get; init; }

    /// <summary>The template's, and the model's own.</summary>
    public HashSet<int> StopIds => [.. Settings.Model.Template.StopIds(Tokenizer)];

    /// <param name="command">Who asks: `kt predict`.</param>
    /// <param name="read">Its settings.</param>
    /// <param name="need">Whether rows without an answer are of use.</param>
    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file and key=value pairs over it.</param>
    /// <param name="ranks">The processes that share the rows out.</param>
    /// <param name="cancel">Looked at while rows are read.</param>
    public static OpenedRows Open(string command, Func<Settings, PredictSettings> read, Need need, Action<WorkProgress>? loading,
        string[] arguments, ICollective ranks, CancellationToken cancel)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        var c = Configuration.Settings.Read(arguments);
        var settings = read(c);
        var notes = c.Finish(command);
        if (ranks.IsFirst()) FolderLock.RequireFree(settings.OutputDir, "output_dir");
        var examples = settings.Load(need, out var left, cancel);
        SameRun.Require(ranks, settings.Facts(c, examples).Prepend(("what is run", "a prediction")));
        var (model, tokenizer) = settings.Model.Load(loading);
        try
        {
            var tooLong = TakeTooLong(examples, settings, model, tokenizer, cancel);
            return new OpenedRows(settings, model, tokenizer, examples, ranks)
            {
                LeftOut = [.. left, .. tooLong],
                Notes = [.. notes, .. settings.Model.Notes, .. model.Notes],
            };
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Takes out the rows whose prompts leave no position for an answer: one of them would end the run when its turn comes.</summary>
    private static string[] TakeTooLong(List<Example> examples, PredictSettings settings, CausalLm model, Tokenizer tokenizer, CancellationToken cancel)
    {
        const int Shown = 10;
        var most = model.Info.MaxPositions;
        if (settings.Cutoff < most) return []; // cutoff_len has shortened them
        var encoder = new SftEncoder(settings.Model.Template, tokenizer, settings.Cutoff);
        int[] lengths = [.. examples.AsParallel().AsOrdered().WithCancellation(cancel).Select(example => encoder.EncodePrompt(example).Prompt.Length)];
        (string Source, int Tokens)[] tooLong = [.. examples.Select((example, row) => (example.Source, lengths[row])).Where(row => row.Item2 >= most)];
        if (tooLong.Length == 0) return [];
        var why = $"the prompt and one token of an answer must fit the {most:N0} positions that the model was made for; cutoff_len={most - 1} shortens prompts";
        if (tooLong.Length == examples.Count)
            throw new InvalidDataException($"{tooLong[0].Source}: the prompt of this row, as of all others, is too long ({tooLong[0].Tokens:N0} tokens): "
                + why);
        var row = 0;
        examples.RemoveAll(_ => lengths[row++] >= most);
        return [$"{tooLong.Length:N0} rows are left out, the longest have {tooLong.Max(r => r.Tokens):N0} tokens: {why}:",
            .. tooLong.Take(Shown).Select(r => $"  {r.Source}: {r.Tokens:N0} tokens"),
            .. tooLong.Length > Shown ? [$"  and {tooLong.Length - Shown:N0} more"] : Array.Empty<string>()];
    }
}
