namespace KtNotebooks.Tokenizers;

/// <summary>The syntax tree of a <see cref="Pattern"/>; knows how to turn itself into nodes that go on with a given node.</summary>
internal abstract record Syntax
{
    public abstract Pattern.Node Compile(Pattern.Node next);

    /// <summary>True when it can match the empty text.</summary>
    public abstract bool Nullable { get; }

    /// <summary>The nodes that it compiles to.</summary>
    public abstract long Size { get; }

    /// <summary>What a match can begin with; a nullable part adds nothing certain.</summary>
    protected abstract CodePointSet Begin { get; }

    /// <summary>The set of code points that a non-empty match begins with, or null when the pattern can be empty.</summary>
    public CodePointSet? First() => Nullable ? null : Begin;

    public sealed record One(CodePointSet Set) : Syntax
    {
        public override bool Nullable => false;

        public override long Size => 1;

        protected override CodePointSet Begin => Set;

        public override Pattern.Node Compile(Pattern.Node next) => new Pattern.One(Set, next);
    }

    public sealed record Sequence(Syntax[] Items) : Syntax
    {
        public override bool Nullable => Items.All(i => i.Nullable);

        public override long Size => Items.Sum(i => i.Size);

        protected override CodePointSet Begin
        {
            get
            {
                var set = CodePointSet.Empty;
                foreach (var item in Items)
                {
                    set |= item.Begin;
                    if (!item.Nullable)
                        break;
                }
                return set;
            }
        }

        public override Pattern.Node Compile(Pattern.Node next) => Items.Reverse().Aggregate(next, (following, item) => item.Compile(following));
    }

    public sealed record Choice(Syntax[] Branches) : Syntax
    {
        public override bool Nullable => Branches.Any(b => b.Nullable);

        public override long Size => 1 + Branches.Sum(b => b.Size);

        protected override CodePointSet Begin => Branches.Aggregate(CodePointSet.Empty, (set, b) => set | b.Begin);

        public override Pattern.Node Compile(Pattern.Node next) => new Pattern.Choice([.. Branches.Select(b => (b.First(), b.Compile(next)))]);
    }

    public sealed record Repeat(Syntax Item, int Min, int Max, Repetition Kind) : Syntax
    {
        /// <summary>Groups are repeated by copying them; more copies than this would be a pattern nobody wrote by hand.</summary>
        private const int MaxCopies = 16;

        public override bool Nullable => Min == 0 || Item.Nullable;

        public override long Size => Item is One ? 1 : Math.Min(Math.Clamp(Max, 1, MaxCopies) * (Item.Size + 1), int.MaxValue);

        protected override CodePointSet Begin => Item.Begin;

        public override Pattern.Node Compile(Pattern.Node next)
        {
            if (Item is One one)
                return new Pattern.Loop(one.Set, Min, Max, Kind, next);
            if (Max > MaxCopies || Kind == Repetition.Possessive)
                throw new NotSupportedException("A pre-tokenizer pattern repeats a group without a bound (or possessively). Supported: (…)?, (…){m,n} with n "
                    + "up to 16, and any loop over one character class.");
            var node = next;
            for (var i = Max; i > 0; i--)
            {
                var taken = Item.Compile(node);
                node = i <= Min ? taken
                    : Kind == Repetition.Lazy ? new Pattern.Choice([(null, next), (Item.First(), taken)])
                    : new Pattern.Choice([(Item.First(), taken), (null, next)]);
            }
            return node;
        }
    }

    public sealed record Ahead(Syntax Inner, bool Negative) : Syntax
    {
        public override bool Nullable => true;

        public override long Size => 1 + Inner.Size;

        protected override CodePointSet Begin => CodePointSet.Empty;

        public override Pattern.Node Compile(Pattern.Node next) => new Pattern.Ahead(Inner.Compile(new Pattern.Accept()), Negative, next);
    }

    public sealed record Behind(CodePointSet Set, bool Negative) : Syntax
    {
        public override bool Nullable => true;

        public override long Size => 1;

        protected override CodePointSet Begin => CodePointSet.Empty;

        public override Pattern.Node Compile(Pattern.Node next) => new Pattern.Behind(Set, Negative, next);
    }

    public sealed record Edge(bool AtEnd, bool OfLine) : Syntax
    {
        public override bool Nullable => true;

        public override long Size => 1;

        protected override CodePointSet Begin => CodePointSet.Empty;

        public override Pattern.Node Compile(Pattern.Node next) => new Pattern.Edge(AtEnd, OfLine, next);
    }
}
