using System.Text.Json.Nodes;

using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Training.Objectives;

/// <summary>
/// stage: pt. Plain text, as a model is pre-trained on: every token is learned, no template acts. Texts of preprocessing_batch_size rows follow each other,
/// each with its end token, and are cut every cutoff_len tokens; what is left over is dropped (LLaMA-Factory's rule, after run_clm.py of transformers). With
/// packing: false each text is a sequence, of which cutoff_len tokens are kept.
/// </summary>
/// <param name="packing">The key's value; null: not given, which means true.</param>
public sealed class PretrainingObjective(bool? packing) : ITrainingObjective
{
    private static readonly string[] OfConversations = ["template", "default_system", "tool_format", "enable_thinking"];
    private static readonly string[] OfAnswers = ["train_on_prompt", "mask_history", "neat_packing"];

    public static PretrainingObjective Read(Settings c)
    {
        ArgumentNullException.ThrowIfNull(c);
        foreach (var key in OfConversations) c.Ignore(key, "stage: pt learns plain text, which no template tells");
        foreach (var key in OfAnswers)
            if (c.Flag(key)) throw c.Wrong(key, "false for stage: pt, which learns every token of its texts; it goes with stage: sft");
        return new PretrainingObjective(c.Has("packing") ? c.Flag("packing") : null);
    }

    public string Stage => "pt";

    public IEnumerable<(string Key, JsonNode? Value)> Identity => [("stage", Stage), ("template", null), ("packing", packing)];

    // Upstream takes one token from cutoff_len where packing is given, though not where it is the stage's default.
    public RowEncoder Encoder(DataSettings data, Tokenizer tokenizer) => new TextEncoder(tokenizer, packing == true ? data.Cutoff - 1 : data.Cutoff,
        packing ?? true ? data.PackingHorizon : null);

    /// <param name="length">The most tokens of a sequence.</param>
    /// <param name="horizon">Rows that are packed together; null: none are.</param>
    private sealed class TextEncoder(Tokenizer tokenizer, int length, int? horizon) : RowEncoder
    {
        private readonly int _end = tokenizer.EosId
            ?? throw new InvalidDataException("stage: pt ends every text with the tokenizer's eos token, but the tokenizer names none. Set eos_token in "
                + "tokenizer_config.json.");
        private readonly int? _begin = tokenizer.AddsBos ? tokenizer.BosId : null;
        private readonly int _length = length >= 2 ? length : throw new ArgumentException($"cutoff_len leaves {length} tokens; a row needs at least 2");
        private int _answers;

        public override string Key => $"pt {length} {horizon}";

        public override Need Need => Need.Question;

        public override bool HasTemplate => false;

        public override IEnumerable<string> Remarks => _answers == 0 ? []
            : [$"{_answers:N0} rows have an answer, which stage: pt does not learn: it takes the text of the column 'prompt' alone"];

        public override EncodedExample Encode(Example example)
        {
            Require(example);
            if (example.Weight != 1 && horizon is not null)
                throw new InvalidDataException($"{example.Source}: has the weight {example.Weight}, but texts are joined and cut; rows of several weights "
                    + "need packing=false");
            if (example.Responses.Count > 0) Interlocked.Increment(ref _answers);
            int[] ids = [.. tokenizer.Encode(example.Prompt[0].Content), _end];
            if (horizon is null)
            {
                if (_begin is { } begin) ids = [begin, .. ids];
                if (ids.Length > _length) ids = ids[.._length];
            }
            return new EncodedExample(ids, ids, example.Source) { Weight = example.Weight };
        }

        public override EncodedExample[] Pack(IReadOnlyList<EncodedExample> rows) => horizon is { } batch ? [.. rows.Chunk(batch).SelectMany(Cut)]
            : [.. rows];

        /// <summary>Texts as one stream, in sequences of one length. As upstream, the first token of each gives way to the begin token.</summary>
        private IEnumerable<EncodedExample> Cut(EncodedExample[] rows)
        {
            int[] stream = [.. rows.SelectMany(row => row.Ids)];
            for (var (from, row, rowEnd) = (0, 0, rows[0].Ids.Length); from + _length <= stream.Length; from += _length)
            {
                while (rowEnd <= from) rowEnd += rows[++row].Ids.Length;
                var ids = stream[from..(from + _length)];
                if (_begin is { } begin) ids[0] = begin;
                yield return new EncodedExample(ids, ids, rows[row].Source);
            }
        }
    }
}
