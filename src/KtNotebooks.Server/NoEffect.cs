namespace KtNotebooks.Server;

/// <summary>
/// A field that a client sends with every request and that asks for nothing which an answer could show: a hint to the service that it was written for.
/// Refusing it would lock the client out; what asks for more is refused. Told in the answer's header, and once in the log.
/// </summary>
/// <param name="Field">Where it stands: `thinking.budget_tokens`.</param>
/// <param name="Why">What holds instead.</param>
public sealed record NoEffect(string Field, string Why)
{
    /// <summary>Names the fields of a request that had no effect.</summary>
    public const string Header = "x-kt-no-effect";
}
