namespace KtNotebooks.Data;

/// <summary>How a row of a data set becomes ids. Each training stage has one.</summary>
public abstract class RowEncoder
{
    /// <summary>Names the way of encoding, with all that <see cref="DataSettings"/> does not say: a part of the name of cached rows.</summary>
    public abstract string Key { get; }

    /// <summary>What a row must have to be of use.</summary>
    public virtual Need Need => Need.Answer;

    /// <summary>Rows are conversations, which a template tells; plain text has none.</summary>
    public virtual bool HasTemplate => true;

    /// <summary>What a person should know of the rows that were encoded.</summary>
    public virtual IEnumerable<string> Remarks => [];

    /// <exception cref="InvalidDataException">The row cannot be learned; the message names file and row.</exception>
    public abstract EncodedExample Encode(Example example);

    /// <summary>Encodes all examples on all processors; the order is kept.</summary>
    /// <exception cref="InvalidDataException">A row is wrong; the message names file and row. Of several bad rows the first is named.</exception>
    public EncodedExample[] EncodeAll(IReadOnlyList<Example> examples, CancellationToken cancellation = default)
    {
        foreach (var example in examples)
            Require(example); // before the parallel part, so that the first bad row is the one that is named
        try
        {
            return [.. examples.AsParallel().AsOrdered().WithCancellation(cancellation).Select(Encode)];
        }
        catch (AggregateException e) when (e.Flatten().InnerExceptions is [var first, ..])
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(first);
            throw;
        }
    }

    /// <summary>Rows that <see cref="Pack"/> needs.</summary>
    public virtual int Fewest => 1;

    /// <summary>The sequences that rows are learned in: each its own, unless rows are packed.</summary>
    public virtual EncodedExample[] Pack(IReadOnlyList<EncodedExample> rows) => [.. rows];

    /// <exception cref="InvalidDataException">The row lacks what this encoder needs, or has more than text; the message names file and row.</exception>
    protected virtual void Require(Example example)
    {
        // A model that is taught about a picture which it cannot see learns to make things up.
        if (example.Media is { } media)
            throw new InvalidDataException($"{example.Source}: {media}, but {Reader} is text only. Take such rows out of the file,"
                + $" or empty the column where the text means something without it.");
    }

    /// <summary>Who cannot read more than text.</summary>
    protected virtual string Reader => "this stage";
}
