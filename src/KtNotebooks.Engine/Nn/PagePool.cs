namespace KtNotebooks.Nn;

/// <summary>
/// The books of a paged cache, without its tensors: which pages are taken, how often, and what lies in them. A page that sequences use is counted; one that
/// holds known tokens and that nobody uses is kept, and found again by what it holds, until its place is wanted: the one that was given up first goes first.
/// Pages form a tree: a page hangs under the page before it (or under a root, one for each adapter) and is told from its siblings by its tokens, so equal
/// tokens behind other ones are never mistaken for each other. One thread at a time.
/// </summary>
/// <param name="limit">Pages at most.</param>
/// <param name="idleLimit">Pages kept that nobody uses, at most.</param>
internal sealed class PagePool(int limit, int idleLimit)
{
    private readonly List<Page> _pages = [];
    private readonly SortedSet<int> _free = [];
    private readonly LinkedList<int> _idle = new(); // given up first, first
    private readonly Dictionary<long, List<int>> _children = [];
    private readonly Dictionary<string, long> _roots = [];
    private long _nodes;

    public int Limit { get; private set; } = limit;

    /// <summary>Pages that exist: the tensors must have room for them.</summary>
    public int Count => _pages.Count;

    /// <summary>Pages that sequences use.</summary>
    public int Used => _pages.Count - _free.Count - _idle.Count;

    /// <summary>Pages that are kept for what they hold.</summary>
    public int Idle => _idle.Count;

    /// <summary>Pages that can be taken now.</summary>
    public int Available => Limit - Used;

    /// <summary>How often a page is used.</summary>
    public int References(int page) => _pages[page].References;

    /// <summary>The node under which the first pages of an adapter's sequences hang; null is one too.</summary>
    public long Root(string? adapter)
    {
        var key = adapter is null ? "" : "=" + adapter;
        if (!_roots.TryGetValue(key, out var root)) _roots[key] = root = ++_nodes;
        return root;
    }

    /// <summary>A page with nothing known in it, used once; the one behind <paramref name="after"/> where that is free. −1: all are used.</summary>
    public int Take(int after = -1)
    {
        int page;
        if (after >= 0 && _free.Remove(after + 1)) page = after + 1;
        else if (_free.Count > 0) _free.Remove(page = _free.Min);
        else if (_pages.Count < Limit)
        {
            page = _pages.Count;
            _pages.Add(new Page());
        }
        else if (_idle.First is { } oldest)
        {
            Forget(page = oldest.Value);
            _idle.RemoveFirst();
        }
        else return -1;
        _pages[page].References = 1;
        return page;
    }

    /// <summary>There is no room for more pages than these: the free ones behind them are none any longer.</summary>
    public void LimitTo(int pages)
    {
        Limit = Math.Min(Limit, pages);
        while (_pages.Count > Limit && _free.Remove(_pages.Count - 1)) _pages.RemoveAt(_pages.Count - 1);
    }

    /// <summary>Uses a page once more.</summary>
    public void Share(int page)
    {
        if (_pages[page].References++ == 0) _idle.Remove(page);
    }

    /// <summary>Uses a page once less.</summary>
    public void Release(int page)
    {
        var p = _pages[page];
        if (p.References == 0) throw new InvalidOperationException($"[PagePool] page {page} is released more often than it was taken");
        if (--p.References > 0) return;
        if (p.Tokens is null) _free.Add(page);
        else _idle.AddLast(page);
        while (_idle.Count > idleLimit) Drop(_idle.First!.Value);
    }

    /// <summary>
    /// Says what the first rows of a page hold. Returns the node under which the next page hangs: the page's own, or that of another page which holds the same.
    /// </summary>
    public long Publish(int page, long parent, ReadOnlySpan<int> tokens)
    {
        var p = _pages[page];
        if (p.Tokens is not null && p.Parent == parent && tokens.StartsWith(p.Tokens))
        {
            if (tokens.Length > p.Tokens.Length) p.Tokens = tokens.ToArray(); // the same page, with more rows
            return p.Node;
        }
        foreach (var other in _children.GetValueOrDefault(parent) ?? [])
            if (tokens.SequenceEqual(_pages[other].Tokens)) return _pages[other].Node;
        Forget(page);
        if (!_children.TryGetValue(parent, out var siblings)) _children[parent] = siblings = [];
        (p.Node, p.Parent, p.Tokens) = (++_nodes, parent, tokens.ToArray());
        siblings.Add(page);
        return p.Node;
    }

    /// <summary>The page under a node that begins with the most of these tokens: its number, how many, and its own node; −1: none begins with any.</summary>
    public (int Page, int Rows, long Node) Find(long parent, ReadOnlySpan<int> tokens)
    {
        var best = (Page: -1, Rows: 0, Node: 0L);
        if (!_children.TryGetValue(parent, out var siblings)) return best;
        foreach (var page in siblings)
        {
            var rows = tokens.CommonPrefixLength(_pages[page].Tokens!);
            if (rows > best.Rows) best = (page, rows, _pages[page].Node);
        }
        return best;
    }

    /// <summary>Forgets what all pages hold: the weights are others now.</summary>
    public void ForgetAll()
    {
        while (_idle.First is { } first) Drop(first.Value);
        for (var page = 0; page < _pages.Count; page++) Forget(page);
        _roots.Clear();
    }

    private void Drop(int page)
    {
        Forget(page);
        _idle.Remove(page);
        _free.Add(page);
    }

    private void Forget(int page)
    {
        var p = _pages[page];
        if (p.Tokens is null) return;
        var siblings = _children[p.Parent];
        siblings.Remove(page);
        if (siblings.Count == 0) _children.Remove(p.Parent);
        p.Tokens = null;
    }

    private sealed class Page
    {
        public int References { get; set; }

        public long Node { get; set; }

        public long Parent { get; set; }

        /// <summary>Of its first rows; null: nothing is known.</summary>
        public int[]? Tokens { get; set; }
    }
}
