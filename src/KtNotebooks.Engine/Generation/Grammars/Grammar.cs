using System.Runtime.InteropServices;

namespace KtNotebooks.Generation.Grammars;

/// <summary>
/// What an answer may be, as an automaton over bytes with a stack, made of <see cref="Rule"/>s. A <see cref="State"/> is a set of places in the rules; equal
/// ones are one object, with its successors and its tokens kept, so a grammar becomes faster while it is used. One thread at a time uses it.
/// </summary>
internal sealed class Grammar
{
    /// <summary>States that are kept; beyond, all are forgotten and found again.</summary>
    private const int MostStates = 4096;

    private readonly Dictionary<(Rule Rule, int At, int Next), Frame> _frames = [];
    private readonly Dictionary<StateKey, State> _states = [];
    private int _frameCount;

    /// <exception cref="ArgumentException">Nothing finite matches.</exception>
    public Grammar(Rule root)
    {
        Measure(root);
        if (root.Least >= Rule.Endless) throw new ArgumentException("nothing of finite length is of that form");
        Start = Close([FrameOf(root, 0, null)]);
    }

    public State Start { get; }

    private static void Measure(Rule root)
    {
        HashSet<Rule> all = [];
        var open = new Stack<Rule>([root]);
        while (open.TryPop(out var rule))
            if (all.Add(rule)) foreach (var part in rule.Parts) open.Push(part);
        Rule[] rules = [.. all.Reverse()]; // parts mostly before what holds them
        for (var changed = true; changed;)
        {
            changed = false;
            foreach (var rule in rules)
            {
                var least = rule.LeastFrom(0);
                if (least < rule.Least) (rule.Least, changed) = (least, true);
            }
        }
        HashSet<Rule> done = [];
        foreach (var rule in rules) RequireProgress(rule, done, []);
    }

    /// <summary>A rule that enters itself before it has taken a byte would never end.</summary>
    private static void RequireProgress(Rule rule, HashSet<Rule> done, HashSet<Rule> entered)
    {
        if (done.Contains(rule)) return;
        if (!entered.Add(rule)) throw new ArgumentException("the form refers to itself without anything between");
        foreach (var begin in rule.Beginnings()) RequireProgress(begin, done, entered);
        entered.Remove(rule);
        done.Add(rule);
    }

    private Frame FrameOf(Rule rule, int at, Frame? next)
    {
        ref var frame = ref CollectionsMarshal.GetValueRefOrAddDefault(_frames, (rule, at, next?.Number ?? -1), out _);
        return frame ??= new Frame(rule, at, next, _frameCount++);
    }

    private State Close(IEnumerable<Frame?> tops)
    {
        HashSet<Frame> leaves = [];
        var accepts = false;
        foreach (var top in tops) Enter(top, leaves, ref accepts);
        int[] numbers = [.. leaves.Select(f => f.Number).Order()];
        if (numbers.Length == 0 && !accepts) return State.Dead;
        var key = new StateKey(numbers, accepts);
        if (_states.TryGetValue(key, out var known)) return known;
        if (_states.Count >= MostStates)
        {
            _states.Clear();
            _frames.Clear();
            foreach (var leaf in leaves)
                for (Frame? f = leaf; f is not null; f = f.Next) _frames[(f.Rule, f.At, f.Next?.Number ?? -1)] = f;
        }
        return _states[key] = new State(this, [.. leaves], accepts);
    }

    /// <summary>Goes on from a place until bytes are wanted.</summary>
    private void Enter(Frame? top, HashSet<Frame> leaves, ref bool accepts)
    {
        if (top is null)
        {
            accepts = true;
            return;
        }
        switch (top.Rule)
        {
            case Rule.Until until:
                accepts |= until.MayEnd;
                leaves.Add(top);
                break;
            case Rule.Sequence { Parts: var parts }:
                if (top.At == parts.Count) Enter(top.Next, leaves, ref accepts);
                else Enter(FrameOf(parts[top.At], 0, top.At + 1 == parts.Count ? top.Next : FrameOf(top.Rule, top.At + 1, top.Next)), leaves, ref accepts);
                break;
            case Rule.Choice { Parts: var options }:
                foreach (var option in options) Enter(FrameOf(option, 0, top.Next), leaves, ref accepts);
                break;
            case Rule.Repeat repeat:
                if (top.At >= repeat.Fewest) Enter(top.Next, leaves, ref accepts);
                if (top.At >= repeat.Most) break;
                var count = repeat.Most == int.MaxValue ? Math.Min(top.At + 1, repeat.Fewest) : top.At + 1;
                Enter(FrameOf(repeat.Parts[0], 0, FrameOf(repeat, count, top.Next)), leaves, ref accepts);
                break;
            case Rule.Reference { Target: { } target }:
                Enter(FrameOf(target, 0, top.Next), leaves, ref accepts);
                break;
            default:
                leaves.Add(top);
                break;
        }
    }

    /// <summary>A place in a rule, and where it goes on behind it.</summary>
    internal sealed class Frame(Rule rule, int at, Frame? next, int number)
    {
        public Rule Rule => rule;

        public int At => at;

        public Frame? Next => next;

        public int Number => number;

        /// <summary>The fewest bytes to the end from here.</summary>
        public int Least { get; } = Math.Min(Rule.Endless, rule.LeastFrom(at) + (rule is Rule.Until { MayEnd: true } ? 0 : next?.Least ?? 0));
    }

    private readonly struct StateKey(int[] numbers, bool accepts) : IEquatable<StateKey>
    {
        private readonly int[] _numbers = numbers;
        private readonly bool _accepts = accepts;

        public bool Equals(StateKey other) => _accepts == other._accepts && _numbers.AsSpan().SequenceEqual(other._numbers);

        public override bool Equals(object? obj) => obj is StateKey other && Equals(other);

        public override int GetHashCode()
        {
            var hash = new HashCode();
            hash.AddBytes(MemoryMarshal.AsBytes(_numbers.AsSpan()));
            hash.Add(_accepts);
            return hash.ToHashCode();
        }
    }

    /// <summary>Where a text can be.</summary>
    internal sealed class State
    {
        private readonly Grammar? _grammar;
        private readonly Frame[] _leaves;
        private State?[]? _next;

        internal State(Grammar? grammar, Frame[] leaves, bool accepts)
        {
            (_grammar, _leaves, Accepts) = (grammar, leaves, accepts);
            Least = accepts ? 0 : _leaves.Length == 0 ? Rule.Endless : _leaves.Min(f => f.Least);
        }

        /// <summary>Nothing goes on from here.</summary>
        public static State Dead { get; } = new(null, [], accepts: false);

        /// <summary>The text may end here.</summary>
        public bool Accepts { get; }

        /// <summary>Nothing may follow.</summary>
        public bool IsEnd => _leaves.Length == 0;

        /// <summary>The fewest bytes to an end.</summary>
        public int Least { get; }

        /// <summary>The tokens that may come; kept by <see cref="TokenTrie"/>.</summary>
        public TokenSet? Tokens { get; set; }

        public State Step(byte b)
        {
            if (_grammar is null) return this;
            _next ??= new State?[256];
            return _next[b] ??= Find(b);
        }

        private State Find(byte b)
        {
            List<Frame?> tops = [];
            foreach (var leaf in _leaves)
            {
                if (leaf.Rule is Rule.Byte one && one.Has(b))
                {
                    tops.Add(leaf.Next);
                }
                else if (leaf.Rule is Rule.Until until)
                {
                    var at = until.Next(leaf.At, b);
                    tops.Add(at == until.Length ? leaf.Next : _grammar!.FrameOf(until, at, leaf.Next));
                }
            }
            return tops.Count == 0 ? Dead : _grammar!.Close(tops);
        }
    }
}
