using System.Text;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// A piece of a grammar over bytes. Rules are made once and may stand in each other; only <see cref="Byte"/> and <see cref="Until"/> take bytes.
/// </summary>
internal abstract class Rule
{
    /// <summary>More than any answer has: no end is known.</summary>
    public const int Endless = 1 << 24;

    /// <summary>The fewest bytes that it matches; found by <see cref="Grammar"/>.</summary>
    public int Least { get; set; } = Endless;

    /// <summary>The rules that stand in it.</summary>
    public virtual IReadOnlyList<Rule> Parts => [];

    /// <summary>The fewest bytes from the place <paramref name="at"/> on, by what is known of its parts.</summary>
    public abstract int LeastFrom(int at);

    /// <summary>Whether it can match nothing at all.</summary>
    public bool MayBeEmpty() => this switch
    {
        Byte => false,
        Until until => until.MayEnd,
        Repeat repeat => repeat.Fewest == 0 || repeat.Parts[0].MayBeEmpty(),
        Choice => Parts.Any(p => p.MayBeEmpty()),
        Reference => false, // values are never empty
        _ => Parts.All(p => p.MayBeEmpty()),
    };

    /// <summary>What is entered before a byte is taken.</summary>
    public IEnumerable<Rule> Beginnings()
    {
        foreach (var part in Parts)
        {
            yield return part;
            if (this is Sequence && !part.MayBeEmpty()) yield break;
        }
    }

    public static Rule Literal(string text) => new Sequence([.. Encoding.UTF8.GetBytes(text).Select(b => new Byte(b, b))]);

    public static Rule Of(params Rule[] parts) => new Sequence(parts);

    public static Rule Any(params Rule[] options) => options.Length == 1 ? options[0] : new Choice(options);

    public static Rule Maybe(Rule rule) => new Repeat(rule, 0, 1);

    /// <summary>One byte of some ranges.</summary>
    public sealed class Byte : Rule
    {
        private readonly bool[] _set = new bool[256];

        public Byte(params ReadOnlySpan<(int From, int To)> ranges)
        {
            foreach (var (from, to) in ranges) _set.AsSpan(from, to - from + 1).Fill(true);
        }

        public Byte(int from, int to)
            : this((from, to))
        {
        }

        public bool Has(byte b) => _set[b];

        public override int LeastFrom(int at) => 1;
    }

    /// <summary>One after another.</summary>
    public sealed class Sequence(IReadOnlyList<Rule> parts) : Rule
    {
        public override IReadOnlyList<Rule> Parts => parts;

        public override int LeastFrom(int at)
        {
            var sum = 0;
            for (var i = at; i < parts.Count; i++) sum = Math.Min(Endless, sum + parts[i].Least);
            return sum;
        }
    }

    /// <summary>One of several.</summary>
    public sealed class Choice(IReadOnlyList<Rule> options) : Rule
    {
        public override IReadOnlyList<Rule> Parts => options;

        public override int LeastFrom(int at) => options.Count == 0 ? Endless : options.Min(o => o.Least);
    }

    /// <summary>The same several times. The item matches at least one byte.</summary>
    public sealed class Repeat(Rule item, int least, int most = int.MaxValue) : Rule
    {
        public override IReadOnlyList<Rule> Parts { get; } = [item];

        public int Fewest => least;

        public int Most => most;

        public override int LeastFrom(int at) => (int)Math.Min(Endless, (long)Math.Max(0, least - at) * item.Least);
    }

    /// <summary>Any bytes up to a mark, and it; without it, where the text may also end before.</summary>
    public sealed class Until : Rule
    {
        private readonly byte[] _mark;
        private readonly int[] _back;

        public Until(string mark, bool mayEnd = false)
        {
            (_mark, MayEnd) = (Encoding.UTF8.GetBytes(mark), mayEnd);
            _back = new int[_mark.Length]; // Knuth-Morris-Pratt
            for (var (i, k) = (1, 0); i < _mark.Length; i++)
            {
                while (k > 0 && _mark[i] != _mark[k]) k = _back[k - 1];
                if (_mark[i] == _mark[k]) k++;
                _back[i] = k;
            }
        }

        public bool MayEnd { get; }

        public int Length => _mark.Length;

        /// <summary>How much of the mark stands at the end after one more byte.</summary>
        public int Next(int at, byte b)
        {
            while (at > 0 && b != _mark[at]) at = _back[at - 1];
            return b == _mark[at] ? at + 1 : 0;
        }

        public override int LeastFrom(int at) => MayEnd ? 0 : _mark.Length - at;
    }

    /// <summary>A rule that is made later: what refers to itself.</summary>
    public sealed class Reference : Rule
    {
        public Rule? Target { get; set; }

        public override IReadOnlyList<Rule> Parts => Target is null ? [] : [Target];

        public override int LeastFrom(int at) => Target?.Least ?? Endless;
    }
}
