using System.Text;

namespace KtNotebooks.Segmentation;

/// <summary>
/// jieba's dictionary (lines `word frequency tag`) as a trie: the children of the root in an array by character, all others in one open-addressing table
/// keyed by (node, character). 349,046 words make about 500,000 nodes and 20 MB; nothing is allocated while asking. Only UTF-16 units count: words of the
/// dictionary that jieba can meet hold no surrogates.
/// </summary>
internal sealed class WordTrie
{
    public const int None = -1;

    private readonly int[] _roots = new int[char.MaxValue + 1];
    private ulong[] _keys = new ulong[1 << 20];
    private int[] _children = new int[1 << 20];
    private double[] _logs = new double[1 << 19];
    private long[] _frequencies = new long[1 << 19];
    private int _nodes;

    private WordTrie() => Array.Fill(_roots, None);

    /// <summary>ln of the sum of all frequencies, as jieba adds them up: a word given twice counts twice.</summary>
    public double LogTotal { get; private set; }

    /// <exception cref="InvalidDataException">A line is not `word frequency …`; file and line are named.</exception>
    public static WordTrie Load(string path)
    {
        var trie = new WordTrie();
        var text = Encoding.UTF8.GetString(File.ReadAllBytes(path)).AsSpan();
        if (text.StartsWith("\uFEFF")) text = text[1..];
        long total = 0;
        var number = 0;
        foreach (var ended in text.EnumerateLines())
        {
            number++;
            var line = ended.Trim();
            if (line.IsEmpty && number > 1) continue; // the end of the file
            var space = line.IndexOf(' ');
            var rest = space < 0 ? default : line[(space + 1)..];
            var end = rest.IndexOf(' ');
            if (space <= 0 || !long.TryParse(end < 0 ? rest : rest[..end], out var frequency) || frequency < 0)
                throw new InvalidDataException($"{path}:{number}: wanted `word frequency tag`, but the line is '{line}'");
            trie._frequencies[trie.Add(line[..space])] = frequency; // the last of several lines wins
            total += frequency;
        }
        trie.LogTotal = Math.Log(total);
        for (var node = 0; node < trie._nodes; node++)
            trie._logs[node] = trie._frequencies[node] > 0 ? Math.Log(trie._frequencies[node]) - trie.LogTotal : double.NaN;
        return trie;
    }

    /// <summary>The node of a first character, or None.</summary>
    public int Root(char c) => _roots[c];

    /// <summary>The node one character further, or None.</summary>
    public int Child(int node, char c)
    {
        var key = Key(node, c);
        for (var slot = Slot(key); ; slot = (slot + 1) & (_keys.Length - 1))
        {
            if (_keys[slot] == key) return _children[slot];
            if (_keys[slot] == 0) return None;
        }
    }

    /// <summary>ln(frequency) − ln(total) of the word that ends at a node; NaN where none does.</summary>
    public double LogOf(int node) => _logs[node];

    public bool Contains(ReadOnlySpan<char> word)
    {
        if (word.IsEmpty) return false;
        var node = Root(word[0]);
        for (var i = 1; i < word.Length && node != None; i++) node = Child(node, word[i]);
        return node != None && !double.IsNaN(_logs[node]);
    }

    private int Add(ReadOnlySpan<char> word)
    {
        var node = _roots[word[0]];
        if (node == None) _roots[word[0]] = node = NewNode();
        foreach (var c in word[1..])
        {
            var child = Child(node, c);
            if (child == None)
            {
                child = NewNode();
                if (_nodes > _keys.Length / 2) Grow();
                Put(Key(node, c), child);
            }
            node = child;
        }
        return node;
    }

    private int NewNode()
    {
        if (_nodes == _logs.Length)
        {
            Array.Resize(ref _logs, 2 * _nodes);
            Array.Resize(ref _frequencies, 2 * _nodes);
        }
        return _nodes++;
    }

    private void Put(ulong key, int child)
    {
        var slot = Slot(key);
        while (_keys[slot] != 0) slot = (slot + 1) & (_keys.Length - 1);
        (_keys[slot], _children[slot]) = (key, child);
    }

    private void Grow()
    {
        var (keys, children) = (_keys, _children);
        (_keys, _children) = (new ulong[2 * keys.Length], new int[2 * keys.Length]);
        for (var i = 0; i < keys.Length; i++)
            if (keys[i] != 0) Put(keys[i], children[i]);
    }

    /// <summary>Never 0: nodes count from 1 in a key.</summary>
    private static ulong Key(int node, char c) => ((ulong)(uint)(node + 1) << 16) | c;

    /// <summary>Fibonacci hashing: the high bits of a product with 2⁶⁴ / φ.</summary>
    private int Slot(ulong key) => (int)((key * 0x9E3779B97F4A7C15) >> (64 - System.Numerics.BitOperations.Log2((uint)_keys.Length)));
}
