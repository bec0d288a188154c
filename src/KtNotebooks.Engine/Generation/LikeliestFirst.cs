using System.Numerics.Tensors;

namespace KtNotebooks.Generation;

/// <summary>
/// The tokens of a distribution from the most likely on, equal ones by their number, put in order no further than somebody looks: a vocabulary has 129,280
/// entries, a draw looks at some tens. The n largest are found with a heap, whose smallest most logits never pass: one comparison each. Buffers are kept
/// between tokens.
/// </summary>
internal sealed class LikeliestFirst
{
    /// <summary>Put in order at first where nobody says how many will do; eight times as many whenever they did not.</summary>
    private const int First = 256;

    private float[] _values = [];
    private int[] _ids = [];
    private double[] _weights = [];
    private int _ordered;

    /// <summary>Begins with new logits.</summary>
    /// <param name="atMost">Nobody will look further.</param>
    public void Start(ReadOnlySpan<float> logits, int atMost)
    {
        if (_values.Length < logits.Length) (_values, _ids, _weights) = (new float[logits.Length], new int[logits.Length], new double[logits.Length]);
        Order(logits, atMost < logits.Length ? atMost : Math.Min(First, logits.Length));
    }

    /// <summary>The token at a place in that order.</summary>
    public int Id(int place) => _ids[place];

    /// <summary>e^(its logit − the largest).</summary>
    public double Weight(ReadOnlySpan<float> logits, int place)
    {
        if (place >= _ordered) Order(logits, (int)Math.Min(8L * _ordered, logits.Length));
        return Math.Exp(_values[place] - _values[0]);
    }

    /// <summary>The weights of all tokens together.</summary>
    public double Mass(ReadOnlySpan<float> logits)
    {
        var weights = _weights.AsSpan(0, logits.Length);
        for (var i = 0; i < logits.Length; i++) weights[i] = logits[i] - _values[0];
        TensorPrimitives.Exp<double>(weights, weights);
        return TensorPrimitives.Sum<double>(weights);
    }

    private void Order(ReadOnlySpan<float> logits, int n)
    {
        if (n > logits.Length / 4) SortAll(logits);
        else Select(logits, n);
    }

    private void SortAll(ReadOnlySpan<float> logits)
    {
        var values = _values.AsSpan(0, logits.Length);
        var ids = _ids.AsSpan(0, logits.Length);
        TensorPrimitives.Negate(logits, values);
        for (var i = 0; i < ids.Length; i++) ids[i] = i;
        values.Sort(ids);
        for (int from = 0, to; from < ids.Length; from = to) // the sort leaves equal ones in any order
        {
            for (to = from + 1; to < ids.Length && values[to] == values[from];) to++;
            if (to - from > 1) ids[from..to].Sort();
        }
        TensorPrimitives.Negate<float>(values, values);
        _ordered = logits.Length;
    }

    /// <summary>A heap of the n best so far with the worst on top; taken apart from the top it leaves them in order.</summary>
    private void Select(ReadOnlySpan<float> logits, int n)
    {
        for (var i = 0; i < n; i++) (_values[i], _ids[i]) = (logits[i], i);
        for (var i = (n / 2) - 1; i >= 0; i--) Sink(i, n);
        for (var i = n; i < logits.Length; i++)
        {
            if (logits[i] <= _values[0]) continue; // of equal ones the first stays
            (_values[0], _ids[0]) = (logits[i], i);
            Sink(0, n);
        }
        for (var last = n - 1; last > 0; last--)
        {
            (_values[0], _values[last], _ids[0], _ids[last]) = (_values[last], _values[0], _ids[last], _ids[0]);
            Sink(0, last);
        }
        _ordered = n;
    }

    private void Sink(int at, int n)
    {
        var (value, id) = (_values[at], _ids[at]);
        for (int child; (child = (2 * at) + 1) < n; at = child)
        {
            if (child + 1 < n && IsWorse(_values[child + 1], _ids[child + 1], _values[child], _ids[child])) child++;
            if (!IsWorse(_values[child], _ids[child], value, id)) break;
            (_values[at], _ids[at]) = (_values[child], _ids[child]);
        }
        (_values[at], _ids[at]) = (value, id);
    }

    private static bool IsWorse(float a, int idOfA, float b, int idOfB) => a < b || (a == b && idOfA > idOfB);
}
