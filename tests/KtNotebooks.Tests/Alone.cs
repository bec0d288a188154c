using Xunit;

namespace KtNotebooks.Tests;

/// <summary>Tests that count process-wide things run while nothing else does.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public sealed class Alone
{
    public const string Name = "alone";
}
