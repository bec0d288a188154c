namespace KtNotebooks.Evaluation;

/// <summary>Answers for every row of a data set, by a model of one's own or behind a URL.</summary>
public interface IPredictRun : IDisposable
{
    /// <summary>After every finished row, and when a run goes on (nothing generated yet).</summary>
    event Action<PredictProgress>? OnProgress;

    /// <summary>One line for whoever looks.</summary>
    event Action<string>? OnNote;

    /// <summary>Where predictions and scores go.</summary>
    string OutputDir { get; }

    /// <summary>What was there is begun again.</summary>
    bool Overwrite { get; }

    /// <summary>Rows that no prediction is made for, with file, row and reason.</summary>
    IReadOnlyList<string> LeftOut { get; }

    /// <summary>What a person should know before it starts.</summary>
    IReadOnlyList<string> Notes { get; }

    PredictResult Run(CancellationToken cancel = default);
}
