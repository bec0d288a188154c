using System.Text;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Data;

/// <summary>A training row as ids.</summary>
/// <param name="Ids">Token ids.</param>
/// <param name="Labels">Beside each id: the same id where it is learned, -100 where not. Not shifted; the loss compares position t with label t+1.</param>
/// <param name="Source">"file:row".</param>
public sealed record EncodedExample(int[] Ids, int[] Labels, string Source)
{
    /// <summary>Where the rows begin that were packed into this one; positions begin anew there.</summary>
    public int[] Starts { get; init; } = [0];

    /// <summary>Packed rows do not attend to each other (neat_packing).</summary>
    public bool Apart { get; init; }

    /// <summary>What its stage must know of the row beside its ids: whether an answer is wanted; 0 where there is nothing to know.</summary>
    public int Tag { get; init; }

    /// <summary>log p of each row's target by the reference of preferences, [Ids]; empty: it is computed in every step.</summary>
    public float[] Reference { get; init; } = [];

    /// <inheritdoc cref="Example.Weight"/>
    public float Weight { get; init; } = 1;

    /// <summary>True when a token is learned; the first of a row has nothing before it that it could be learned from.</summary>
    public bool Learns => Labels.AsSpan(Math.Min(1, Labels.Length)).ContainsAnyExcept(SftEncoder.Ignore);

    /// <summary>The lengths of the rows in it.</summary>
    public IEnumerable<int> Lengths() => Starts.Select((start, i) => (i + 1 < Starts.Length ? Starts[i + 1] : Ids.Length) - start);

    /// <summary>The number of tokens that are learned.</summary>
    public int Targets => Labels.Count(l => l != SftEncoder.Ignore);
}

/// <summary>Turns examples into ids and labels for supervised fine-tuning, with LLaMA-Factory's rules for cutting and masking.</summary>
public sealed class SftEncoder : RowEncoder
{
    /// <summary>The label of a position that is not learned.</summary>
    public const int Ignore = -100;

    private readonly Template _template;
    private readonly Tokenizer _tokenizer;
    private readonly int _cutoff;
    private readonly bool _trainOnPrompt;
    private readonly bool _maskHistory;
    private (PackingMode Mode, int Horizon) _packing;

    /// <param name="template">Form of the conversation.</param>
    /// <param name="tokenizer">The model's tokenizer.</param>
    /// <param name="cutoffLength">The most tokens of a row (cutoff_len); longer questions and answers are cut at their ends.</param>
    /// <param name="trainOnPrompt">Learn the questions as well.</param>
    /// <param name="maskHistory">Learn only the last answer, and keep the last turns rather than the first when cutting.</param>
    /// <exception cref="ArgumentException">The settings contradict each other or the template.</exception>
    public SftEncoder(Template template, Tokenizer tokenizer, int cutoffLength = 2048, bool trainOnPrompt = false, bool maskHistory = false)
    {
        if (cutoffLength < 2)
            throw new ArgumentException($"cutoff_len is {cutoffLength}; a row needs room for at least 2 tokens.");
        if (trainOnPrompt && maskHistory)
            throw new ArgumentException("train_on_prompt and mask_history exclude each other: one learns all questions, the other only the last answer.");
        if (trainOnPrompt && template.EfficientEos)
            throw new ArgumentException($"train_on_prompt cannot be used with the template '{template.Name}', whose answers are ended by the next turn's "
                + "first token.");
        (_template, _tokenizer, _cutoff, _trainOnPrompt, _maskHistory) = (template, tokenizer, cutoffLength, trainOnPrompt, maskHistory);
    }

    /// <summary>As the settings say. Rows to be packed are one token shorter, as upstream.</summary>
    public static SftEncoder Of(DataSettings settings, Tokenizer tokenizer)
    {
        ArgumentNullException.ThrowIfNull(settings);
        var cutoff = settings.Packing == PackingMode.None ? settings.Cutoff : settings.Cutoff - 1;
        return new SftEncoder(settings.Template, tokenizer, cutoff, settings.TrainOnPrompt, settings.MaskHistory)
        {
            _packing = (settings.Packing, settings.PackingHorizon),
        };
    }

    public override string Key => "sft";

    public override IEnumerable<string> Remarks => _template.Chat?.Remarks ?? [];

    public override EncodedExample[] Pack(IReadOnlyList<EncodedExample> rows) => Packing.Pack(rows, _packing.Mode, _cutoff, _packing.Horizon);

    /// <exception cref="InvalidDataException">The row has no answer, or more than text; the message names file and row.</exception>
    public override EncodedExample Encode(Example example)
    {
        Require(example);
        try
        {
            // As upstream, what is not learned is told as it would be in a prompt.
            Message[] messages = [.. example.Prompt.Append(example.Responses[0]).Select(Start)];
            var (ids, labels) = Assemble(_template.EncodeTurns(_tokenizer, messages, example.System, example.Tools, bareHistory: _maskHistory));
            return new EncodedExample(ids, labels, example.Source) { Weight = example.Weight };
        }
        catch (Exception e) when (IsAboutRow(e))
        {
            throw new InvalidDataException($"{example.Source}: {e.Message}", e);
        }
    }

    /// <summary>
    /// The prompt of an example for generation (earlier turns included), and the ids of its answer, or none, cut by the same rule.
    /// </summary>
    /// <exception cref="InvalidDataException">The row holds more than text; the message names file and row.</exception>
    public (int[] Prompt, int[] Answer) EncodePrompt(Example example)
    {
        base.Require(example);
        Message[] asked = [.. example.Prompt.Select(Start)];
        var prompt = _template.EncodePrompt(_tokenizer, asked, example.System, example.Tools);
        var answer = example.Responses.Count == 0 ? [] : Answer(example, asked, example.Responses[0]);
        var (source, target) = Allocate(prompt.Length, answer.Length, _cutoff);
        return (prompt[..source], answer[..target]);
    }

    /// <summary>
    /// The prompt of an example and its two answers, the better one first, cut by the same rule, in which the longer answer counts.
    /// </summary>
    /// <exception cref="InvalidDataException">The row cannot be told in the template; the message names file and row.</exception>
    public (int[] Prompt, int[] Chosen, int[] Rejected) EncodePair(Example example)
    {
        base.Require(example);
        try
        {
            Message[] asked = [.. example.Prompt.Select(Start)];
            var prompt = _template.EncodePrompt(_tokenizer, asked, example.System, example.Tools);
            var (chosen, rejected) = (Answer(example, asked, example.Responses[0]), Answer(example, asked, example.Responses[1]));
            var (source, most) = Allocate(prompt.Length, Math.Max(chosen.Length, rejected.Length), _cutoff);
            return (prompt[..source], chosen[..Math.Min(most, chosen.Length)], rejected[..Math.Min(most, rejected.Length)]);
        }
        catch (Exception e) when (IsAboutRow(e))
        {
            throw new InvalidDataException($"{example.Source}: {e.Message}", e);
        }
    }

    private int[] Answer(Example example, Message[] asked, Message answer)
    {
        var ids = _template.EncodeTurns(_tokenizer, [.. asked, Start(answer)], example.System, example.Tools)[^1].Target;
        return _template.EfficientEos ? [.. ids, _template.EosId(_tokenizer)] : ids;
    }

    /// <summary>
    /// How many tokens a question of <paramref name="source"/> and an answer of <paramref name="target"/> tokens keep when they may have
    /// <paramref name="budget"/> together. The shorter side is spared while it is under half; otherwise both shrink in proportion.
    /// </summary>
    public static (int Source, int Target) Allocate(int source, int target, int budget)
    {
        int limit;
        if (2L * target < budget)
            limit = budget;
        else if (2L * source < budget)
            limit = budget - source;
        else
            limit = (int)((long)budget * target / (source + (long)target));
        var keptTarget = Math.Min(limit, target);
        return (Math.Min(Math.Max(budget - keptTarget, 0), source), keptTarget);
    }

    private static bool IsAboutRow(Exception e) => e is ArgumentException or NotSupportedException
        || (e is InvalidDataException && !e.Message.StartsWith("The template", StringComparison.Ordinal));

    /// <summary>As much of a text as can matter: what comes after is cut off anyway, but its ids would take many times its size.</summary>
    private Message Start(Message message)
    {
        var most = Math.Max(1L << 24, 256L * _cutoff);
        if (message.Content.Length <= most) return message;
        var end = char.IsHighSurrogate(message.Content[(int)most - 1]) ? (int)most - 1 : (int)most;
        return message with { Content = message.Content[..end] };
    }

    protected override void Require(Example example)
    {
        base.Require(example);
        _ = example.Answer; // exactly one, or an error that names the row
    }

    protected override string Reader => $"the template '{_template.Name}'";

    /// <summary>Cuts, joins and masks the turns of one row.</summary>
    internal (int[] Ids, int[] Labels) Assemble(List<(int[] Source, int[] Target)> turns)
    {
        var kept = new List<(int[] Ids, int[] Labels)>();
        var eos = _template.EfficientEos ? _template.EosId(_tokenizer) : 0;
        var total = _template.EfficientEos ? 1 : 0;
        for (var step = 0; step < turns.Count && total < _cutoff; step++)
        {
            // With mask_history the last turns matter most, so they get their room first.
            var index = _maskHistory ? turns.Count - 1 - step : step;
            var (source, target) = turns[index];
            var (sourceLength, targetLength) = Allocate(source.Length, target.Length, _cutoff - total);
            source = source[..sourceLength];
            target = target[..targetLength];
            total += sourceLength + targetLength;

            var labels = new int[sourceLength + targetLength];
            labels.AsSpan().Fill(Ignore);
            if (_trainOnPrompt)
                source.CopyTo(labels, 0);
            // The first token of a later question is what ends the answer before it.
            else if (_template.EfficientEos && step > 0 && sourceLength > 0)
                labels[0] = eos;
            if (!_maskHistory || step == 0)
                target.CopyTo(labels, sourceLength);
            kept.Add(([.. source, .. target], labels));
        }
        if (_maskHistory)
            kept.Reverse();
        int[] tail = _template.EfficientEos ? [eos] : [];
        // Where no token of an answer is left, its end is no answer either.
        int[] tailLabel = kept.Any(k => k.Labels.AsSpan().ContainsAnyExcept(Ignore)) ? tail : [.. tail.Select(_ => Ignore)];
        return ([.. kept.SelectMany(k => k.Ids), .. tail], [.. kept.SelectMany(k => k.Labels), .. tailLabel]);
    }
}

/// <summary>The block that shows what a row became, as LLaMA-Factory prints it: most mistakes in templates are seen here.</summary>
public static class FirstExampleReport
{
    public static string Of(EncodedExample example, Tokenizer tokenizer)
    {
        var text = new StringBuilder();
        text.Append("training example:\ninput_ids:\n[").AppendJoin(", ", example.Ids).Append("]\ninputs:\n").Append(tokenizer.Decode(example.Ids));
        text.Append("\nlabel_ids:\n[").AppendJoin(", ", example.Labels).Append("]\nlabels:\n");
        return text.Append(tokenizer.Decode([.. example.Labels.Where(l => l != SftEncoder.Ignore)])).Append('\n').ToString();
    }
}
