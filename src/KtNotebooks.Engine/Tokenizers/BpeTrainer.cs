using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Learns a byte-level BPE vocabulary: of all neighbouring pairs in the words of the texts the most frequent is merged, again and again. The same texts
/// give the same tokenizer on every machine: equal counts are decided by the smaller left id, then the smaller right id.
/// </summary>
public static class BpeTrainer
{
    /// <summary>
    /// How text is cut, in DeepSeek-V3's way with single digits. Runs of Han and kana are words of their own, so that no token mixes them with Latin and a
    /// Chinese word is learned from its frequency alone; a Latin word takes the space before it; digits stand alone, because a number's pieces then
    /// mean the same everywhere; punctuation takes the line ends after it.
    /// </summary>
    private const string PreTokenizer = """
        {"type":"Sequence","pretokenizers":[
          {"type":"Split","pattern":{"Regex":"\\p{N}"},"behavior":"Isolated","invert":false},
          {"type":"Split","pattern":{"Regex":"[一-龥぀-ゟ゠-ヿ]+"},"behavior":"Isolated","invert":false},
          {"type":"Split","pattern":{"Regex":"[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
           "behavior":"Isolated","invert":false},
          {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}
        """;

    private const string ByteLevelPart = """{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}""";

    /// <summary>Trains on texts. Ids: the special tokens from 0, then the 256 bytes, then the merged tokens in the order of their learning.</summary>
    /// <param name="texts">The texts, enumerated once.</param>
    /// <param name="vocabSize">The size to reach; fewer when no pair is left that occurs <paramref name="minCount"/> times.</param>
    /// <param name="specialTokens">Special tokens; the first is bos, the second eos, the third pad (without a third, eos is pad as well).</param>
    /// <param name="minCount">A pair seen less often is not merged.</param>
    /// <param name="maxTokenBytes">No token grows longer: 18 bytes are 6 Chinese characters. Text from templates would else give whole sentences as
    /// tokens.</param>
    /// <param name="cancellation">Stops the training.</param>
    /// <exception cref="ArgumentException">The vocabulary has no room for the bytes and the special tokens.</exception>
    public static Tokenizer Train(
        IEnumerable<string> texts, int vocabSize, string[] specialTokens, int minCount = 2, int maxTokenBytes = 18, CancellationToken cancellation = default)
    {
        var first = specialTokens.Length + 256;
        if (vocabSize < first)
            throw new ArgumentException($"vocabSize is {vocabSize}, but 256 bytes and {specialTokens.Length} special tokens need {first}.", nameof(vocabSize));
        if (specialTokens.Distinct().Count() < specialTokens.Length || specialTokens.Any(t => t.Length == 0))
            throw new ArgumentException("The special tokens must be distinct and not empty.", nameof(specialTokens));
        using var preTokenizer = JsonDocument.Parse(PreTokenizer);
        using var byteLevel = JsonDocument.Parse(ByteLevelPart);
        var cutter = TokenizerComponents.ReadPreTokenizer(preTokenizer.RootElement);

        var words = CountWords(texts, cutter, specialTokens, cancellation);
        var tokens = new List<string>(specialTokens);
        for (var b = 0; b < 256; b++)
            tokens.Add(ByteLevel.CharOf((byte)b).ToString());
        var merges = new Merger(words, specialTokens.Length, tokens, maxTokenBytes).Run(vocabSize, minCount, cancellation);

        string? Special(int i) => i < specialTokens.Length ? specialTokens[i] : null;
        var config = new JsonObject
        {
            ["tokenizer_class"] = "PreTrainedTokenizerFast",
            ["bos_token"] = Special(0),
            ["eos_token"] = Special(1),
            ["pad_token"] = Special(2) ?? Special(1),
            ["clean_up_tokenization_spaces"] = false,
        };
        return new Tokenizer(new TokenizerParts(
            "the trained tokenizer", new BpeModel([.. tokens], merges, ignoreMerges: false),
            [.. specialTokens.Select((content, id) => new AddedToken(id, content, Special: true))],
            Normalizer: null, cutter, Before: [], After: [],
            new Dictionary<string, JsonElement>
            {
                ["pre_tokenizer"] = preTokenizer.RootElement.Clone(),
                ["post_processor"] = byteLevel.RootElement.Clone(),
                ["decoder"] = byteLevel.RootElement.Clone(),
            },
            config));
    }

    private static List<(string Word, long Count)> CountWords(IEnumerable<string> texts, PreTokenizer cutter, string[] specialTokens,
        CancellationToken cancellation)
    {
        var counter = new Counter();
        var pipe = cutter.Connect(counter);
        var special = new AddedTokenFinder(specialTokens.Select((content, id) => new AddedToken(id, content, Special: true)));
        foreach (var text in texts)
        {
            cancellation.ThrowIfCancellationRequested();
            for (var at = 0; at < text.Length;)
            {
                special.Next(text, at, out var start, out var end);
                if (start > at)
                    pipe.Add(text, at, start);
                at = end;
            }
        }
        // Sorted, so that the order in which a dictionary keeps its entries cannot matter.
        return [.. counter.Counts.OrderBy(c => c.Key, StringComparer.Ordinal).Select(c => (c.Key, c.Value))];
    }

    private sealed class Counter : PieceSink
    {
        private readonly Dictionary<string, long>.AlternateLookup<ReadOnlySpan<char>> _lookup;

        public Counter() => _lookup = Counts.GetAlternateLookup<ReadOnlySpan<char>>();

        public Dictionary<string, long> Counts { get; } = new(StringComparer.Ordinal);

        public override void Add(string text, int start, int end) =>
            CollectionsMarshal.GetValueRefOrAddDefault(_lookup, text.AsSpan(start, end - start), out _)++;
    }

    /// <summary>
    /// All words laid end to end as linked symbols. Each pair knows its count and every place where it was seen, so a merge touches only these places; over
    /// the whole training that is at most a few visits for each byte of distinct words.
    /// </summary>
    private sealed class Merger
    {
        private readonly List<string> _tokens;
        private readonly HashSet<string> _special;
        private readonly int _maxTokenBytes;
        private readonly int[] _symbols; // -1: merged into its left neighbour, or the border after a word
        private readonly int[] _next; // the last symbol of a word is followed by the border
        private readonly int[] _previous; // -1 before the first symbol of a word
        private readonly int[] _wordOf;
        private readonly long[] _counts;
        private readonly Dictionary<(int Left, int Right), Pair> _pairs = [];
        private readonly PriorityQueue<(int Left, int Right), (long Negated, int Left, int Right)> _queue = new();

        public Merger(List<(string Word, long Count)> words, int firstByteId, List<string> tokens, int maxTokenBytes)
        {
            _tokens = tokens;
            _special = [.. tokens.Take(firstByteId)];
            _maxTokenBytes = maxTokenBytes;
            var length = words.Sum(w => (long)Encoding.UTF8.GetByteCount(w.Word) + 1);
            if (length > Array.MaxLength)
                throw new ArgumentException($"The distinct words of the texts have {length} bytes together, more than the trainer can hold. Give it a sample "
                    + "of the texts.");
            _symbols = new int[length];
            _next = new int[length];
            _previous = new int[length];
            _wordOf = new int[length];
            _counts = [.. words.Select(w => w.Count)];
            var at = 0;
            for (var w = 0; w < words.Count; w++)
            {
                var start = at;
                foreach (var b in Encoding.UTF8.GetBytes(words[w].Word))
                {
                    (_symbols[at], _next[at], _previous[at], _wordOf[at]) = (firstByteId + b, at + 1, at - 1, w);
                    at++;
                }
                _previous[start] = -1;
                _symbols[at++] = -1;
            }
            for (var i = 0; i + 1 < at; i++)
            {
                if (_symbols[i] >= 0 && _symbols[i + 1] >= 0)
                    See(i);
            }
            foreach (var (key, pair) in _pairs)
                Queue(key, pair);
        }

        public List<(int Left, int Right, int Id)> Run(int vocabSize, int minCount, CancellationToken cancellation)
        {
            var merges = new List<(int, int, int)>();
            var ids = _tokens.Index().ToDictionary(t => t.Item, t => t.Index, StringComparer.Ordinal);
            while (_tokens.Count < vocabSize && _queue.TryDequeue(out var key, out var priority))
            {
                cancellation.ThrowIfCancellationRequested();
                var pair = _pairs[key];
                // Counts only fall after a pair has been queued, so a stale entry goes back with its true count.
                if (pair.Count != -priority.Negated)
                {
                    Queue(key, pair);
                    continue;
                }
                if (pair.Count < minCount)
                    break;
                var text = _tokens[key.Left] + _tokens[key.Right];
                if (text.Length > _maxTokenBytes || _special.Contains(text))
                    continue;
                // Two merges can make the same text (a+bc, ab+c): then they share the token.
                if (!ids.TryGetValue(text, out var id))
                {
                    ids[text] = id = _tokens.Count;
                    _tokens.Add(text);
                }
                // A shared token can bring a merged pair back; its rank is then the first one.
                if (!pair.Merged)
                    merges.Add((key.Left, key.Right, id));
                pair.Merged = true;
                Merge(key, pair, id);
            }
            return merges;
        }

        private void Merge((int Left, int Right) key, Pair pair, int id)
        {
            var touched = new HashSet<(int, int)>();
            foreach (var at in pair.Places)
            {
                var right = _next[at];
                if (_symbols[at] != key.Left || _symbols[right] != key.Right)
                    continue; // an earlier merge took one of the two
                var left = _previous[at];
                var after = _next[right];
                var atEnd = _symbols[after] < 0;
                if (left >= 0)
                    Forget(left);
                if (!atEnd)
                    Forget(right);
                _symbols[at] = id;
                _symbols[right] = -1;
                _next[at] = after;
                if (!atEnd)
                {
                    _previous[after] = at;
                    touched.Add(See(at));
                }
                if (left >= 0)
                    touched.Add(See(left));
            }
            pair.Count = 0;
            pair.Places.Clear();
            pair.Places.TrimExcess();
            foreach (var newKey in touched.Order())
                Queue(newKey, _pairs[newKey]);
        }

        private (int, int) See(int at)
        {
            var key = (_symbols[at], _symbols[_next[at]]);
            ref var pair = ref CollectionsMarshal.GetValueRefOrAddDefault(_pairs, key, out _);
            pair ??= new Pair();
            pair.Count += _counts[_wordOf[at]];
            pair.Places.Add(at);
            return key;
        }

        private void Forget(int at) => _pairs[(_symbols[at], _symbols[_next[at]])].Count -= _counts[_wordOf[at]];

        private void Queue((int Left, int Right) key, Pair pair)
        {
            if (pair.Count > 0)
                _queue.Enqueue(key, (-pair.Count, key.Left, key.Right));
        }

        private sealed class Pair
        {
            public long Count { get; set; }

            public bool Merged { get; set; }

            public List<int> Places { get; } = [];
        }
    }
}
