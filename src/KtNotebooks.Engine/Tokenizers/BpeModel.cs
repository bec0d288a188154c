using System.Buffers;
using System.Numerics;
using System.Text;

namespace KtNotebooks.Tokenizers;

/// <summary>
/// Byte-pair encoding: a word's bytes are its first symbols; the neighbouring pair of the lowest rank is merged, leftmost first, until no pair
/// has a rank. Immutable and shared by threads; the state of an encoding is in <see cref="BpeEncoder"/>.
/// </summary>
internal sealed class BpeModel
{
    private readonly Dictionary<string, int> _ids;
    private readonly int[] _byteIds = new int[256];

    // Open addressing, linear probing: one cache line for nearly every look-up, which is what encoding spends its time on.
    private readonly ulong[] _pairs;
    private readonly (int Rank, int Id)[] _merged;

    /// <param name="tokens">Token texts in the byte alphabet, by id; holes are null.</param>
    /// <param name="merges">Pairs of ids in the order of their rank, with the id of what they make.</param>
    /// <param name="ignoreMerges">A word that is a token becomes that token without merging.</param>
    /// <param name="rankIsId">
    /// The rank of a pair is the id of what it makes, as tiktoken has it, and not its place in the list: of two pairs that make the same token the one further
    /// left is merged first.
    /// </param>
    public BpeModel(string?[] tokens, IReadOnlyList<(int Left, int Right, int Id)> merges, bool ignoreMerges, bool rankIsId = false)
    {
        Tokens = tokens;
        Merges = merges;
        IgnoreMerges = ignoreMerges;
        _ids = new Dictionary<string, int>(tokens.Length, StringComparer.Ordinal);
        for (var id = 0; id < tokens.Length; id++)
        {
            if (tokens[id] is { } token)
                _ids[token] = id;
        }
        for (var b = 0; b < 256; b++)
            _byteIds[b] = _ids.GetValueOrDefault(ByteLevel.CharOf((byte)b).ToString(), -1);

        var size = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(16, merges.Count * 2));
        _pairs = new ulong[size];
        _merged = new (int, int)[size];
        for (var rank = 0; rank < merges.Count; rank++)
        {
            var key = Key(merges[rank].Left, merges[rank].Right);
            var slot = Slot(key);
            // A pair listed twice keeps its first rank.
            while (_pairs[slot] != 0 && _pairs[slot] != key)
                slot = (slot + 1) & (size - 1);
            if (_pairs[slot] == key)
                continue;
            _pairs[slot] = key;
            _merged[slot] = (rankIsId ? merges[rank].Id : rank, merges[rank].Id);
        }
    }

    public string?[] Tokens { get; }

    public IReadOnlyList<(int Left, int Right, int Id)> Merges { get; }

    public bool IgnoreMerges { get; }

    public int? IdOf(string token) => _ids.TryGetValue(token, out var id) ? id : null;

    /// <summary>The id of the token of one byte.</summary>
    public int ByteId(byte b) => _byteIds[b] is >= 0 and var id
        ? id
        : throw new InvalidDataException($"The vocabulary has no token for the byte 0x{b:X2}, so this text cannot be encoded. A byte-level vocabulary holds "
        + "all 256.");

    /// <summary>The rank of a pair and the id it merges into; rank int.MaxValue when it does not merge.</summary>
    public int Rank(int left, int right, out int id)
    {
        var key = Key(left, right);
        for (var slot = Slot(key); _pairs[slot] != 0; slot = (slot + 1) & (_pairs.Length - 1))
        {
            if (_pairs[slot] == key)
            {
                id = _merged[slot].Id;
                return _merged[slot].Rank;
            }
        }
        id = -1;
        return int.MaxValue;
    }

    // Ids are shifted by one so that no key is 0, which marks a free slot.
    private static ulong Key(int left, int right) => ((ulong)(uint)(left + 1) << 32) | (uint)(right + 1);

    private int Slot(ulong key) => (int)((key * 0x9E3779B97F4A7C15UL) >> (64 - BitOperations.Log2((uint)_pairs.Length)));
}

/// <summary>
/// Encodes words for one thread. Short words are kept in a small table of fixed size; words up to <see cref="Short"/> bytes are merged by
/// scanning for the lowest rank, longer ones with a heap, so that n bytes cost O(n log n) at worst.
/// </summary>
internal sealed class BpeEncoder(BpeModel model) : PieceSink
{
    private const int Short = 96;
    private const int Slots = 1 << 14;
    private const int WordChars = 15;
    private const int WordIds = 8;

    // Slot s holds its length and characters at [s * 16 ..], its count and ids at [s * 9 ..].
    private readonly char[] _words = new char[Slots * (WordChars + 1)];
    private readonly int[] _ids = new int[Slots * (WordIds + 1)];
    private readonly PriorityQueue<int, long> _heap = new();
    private int[] _output = new int[256];
    private int _count;

    public ReadOnlySpan<int> Output => _output.AsSpan(0, _count);

    public void Clear() => _count = 0;

    public void Emit(int id)
    {
        if (_count == _output.Length)
            Array.Resize(ref _output, _count * 2);
        _output[_count++] = id;
    }

    public override void Add(string text, int start, int end)
    {
        var word = text.AsSpan(start, end - start);
        if (word.Length > WordChars)
        {
            Merge(word);
            return;
        }
        var slot = (int)(Hash(word) & (Slots - 1));
        var known = _words.AsSpan(slot * (WordChars + 1), WordChars + 1);
        var ids = _ids.AsSpan(slot * (WordIds + 1), WordIds + 1);
        if (known[0] == word.Length && known.Slice(1, word.Length).SequenceEqual(word))
        {
            foreach (var id in ids.Slice(1, ids[0]))
                Emit(id);
            return;
        }
        var before = _count;
        Merge(word);
        var made = Output[before..];
        if (made.Length > WordIds)
            return;
        known[0] = (char)word.Length;
        word.CopyTo(known[1..]);
        ids[0] = made.Length;
        made.CopyTo(ids[1..]);
    }

    private static uint Hash(ReadOnlySpan<char> word)
    {
        var hash = 2166136261u;
        foreach (var c in word)
            hash = (hash ^ c) * 16777619u;
        return hash ^ (hash >> 15);
    }

    private void Merge(ReadOnlySpan<char> word)
    {
        var most = word.Length * 3;
        var rented = most > 3 * Short ? ArrayPool<byte>.Shared.Rent(most) : null;
        var bytes = rented ?? stackalloc byte[3 * Short];
        bytes = bytes[..Encoding.UTF8.GetBytes(word, bytes)];
        if (model.IgnoreMerges && model.IdOf(ByteLevel.Encode(bytes)) is int whole)
            Emit(whole);
        else if (bytes.Length <= Short)
            MergeByScanning(bytes);
        else
            MergeByHeap(bytes);
        if (rented is not null)
            ArrayPool<byte>.Shared.Return(rented);
    }

    private void MergeByScanning(ReadOnlySpan<byte> bytes)
    {
        var count = bytes.Length;
        Span<int> symbols = stackalloc int[Short];
        Span<int> ranks = stackalloc int[Short]; // of the pair (i, i + 1)
        Span<int> made = stackalloc int[Short];
        for (var i = 0; i < count; i++)
            symbols[i] = model.ByteId(bytes[i]);
        for (var i = 0; i + 1 < count; i++)
            ranks[i] = model.Rank(symbols[i], symbols[i + 1], out made[i]);
        while (count > 1)
        {
            var best = 0;
            for (var i = 1; i < count - 1; i++)
            {
                if (ranks[i] < ranks[best])
                    best = i;
            }
            if (ranks[best] == int.MaxValue)
                break;
            symbols[best] = made[best];
            count--;
            symbols[(best + 2)..(count + 1)].CopyTo(symbols[(best + 1)..]);
            if (best + 1 < count)
            {
                ranks[(best + 2)..(count + 1)].CopyTo(ranks[(best + 1)..]);
                made[(best + 2)..(count + 1)].CopyTo(made[(best + 1)..]);
                ranks[best] = model.Rank(symbols[best], symbols[best + 1], out made[best]);
            }
            if (best > 0)
                ranks[best - 1] = model.Rank(symbols[best - 1], symbols[best], out made[best - 1]);
        }
        foreach (var id in symbols[..count])
            Emit(id);
    }

    private void MergeByHeap(ReadOnlySpan<byte> bytes)
    {
        var n = bytes.Length;
        var pool = ArrayPool<int>.Shared;
        int[] symbols = pool.Rent(n), next = pool.Rent(n), previous = pool.Rent(n);
        _heap.Clear();
        for (var i = 0; i < n; i++)
            (symbols[i], next[i], previous[i]) = (model.ByteId(bytes[i]), i + 1, i - 1);
        for (var i = 0; i + 1 < n; i++)
            Offer(i);
        // Lowest rank first, then leftmost: the rank is the high half of the priority. An entry is stale when its pair no longer has that rank.
        while (_heap.TryDequeue(out var at, out var priority))
        {
            if (symbols[at] < 0 || next[at] >= n || model.Rank(symbols[at], symbols[next[at]], out var id) != (int)(priority >> 32))
                continue;
            var gone = next[at];
            symbols[at] = id;
            symbols[gone] = -1;
            next[at] = next[gone];
            if (next[at] < n)
            {
                previous[next[at]] = at;
                Offer(at);
            }
            if (previous[at] >= 0)
                Offer(previous[at]);
        }
        for (var i = 0; i < n; i = next[i])
            Emit(symbols[i]);
        pool.Return(symbols);
        pool.Return(next);
        pool.Return(previous);

        void Offer(int i)
        {
            var rank = model.Rank(symbols[i], symbols[next[i]], out _);
            if (rank != int.MaxValue)
                _heap.Enqueue(i, ((long)rank << 32) | (uint)i);
        }
    }
}
