namespace KtNotebooks.Course.Synthetic;

/// <summary>
/// Everything the project's own training text may say: the tables of a source folder and the arithmetic that needs no table.
/// </summary>
public sealed class KnowledgeBase
{
    private KnowledgeBase(string folder, IReadOnlyList<Fact> facts)
    {
        Folder = folder;
        Facts = facts;
    }

    /// <summary>The folder the tables were read from.</summary>
    public string Folder { get; }

    /// <summary>All facts of both languages, in file order, then arithmetic.</summary>
    public IReadOnlyList<Fact> Facts { get; }

    /// <summary>Reads every table (*.yaml whose name does not begin with an underscore) of a folder.</summary>
    /// <param name="folder">For example datasets/source; null: <see cref="FindSource"/>.</param>
    /// <exception cref="InvalidDataException">A table is malformed, or one question is answered by two facts.</exception>
    public static KnowledgeBase Load(string? folder = null)
    {
        folder ??= FindSource();
        if (!Directory.Exists(folder))
            throw new DirectoryNotFoundException($"source folder '{folder}' is not there; give the repository's datasets/source with --source");
        var files = Directory.GetFiles(folder, "*.yaml").Where(file => !Path.GetFileName(file).StartsWith('_')).Order(StringComparer.Ordinal).ToArray();
        if (files.Length == 0)
            throw new InvalidDataException($"source folder '{folder}' holds no table (*.yaml)");
        Fact[] facts = [.. files.SelectMany(FactTable.Read), .. Arithmetic.Facts()];
        RejectAmbiguousQuestions(facts);
        return new KnowledgeBase(folder, facts);
    }

    /// <summary>datasets/source of the repository that the current directory or the program lies in.</summary>
    /// <exception cref="DirectoryNotFoundException">Neither lies in a checkout.</exception>
    public static string FindSource()
    {
        foreach (var start in new[] { Directory.GetCurrentDirectory(), AppContext.BaseDirectory })
            for (var folder = new DirectoryInfo(start); folder is not null; folder = folder.Parent)
            {
                var source = Path.Combine(folder.FullName, "datasets", "source");
                if (Directory.Exists(source))
                    return source;
            }
        throw new DirectoryNotFoundException("no folder datasets/source above the current directory or the program; give it with --source");
    }

    // A question with two different answers teaches a small model neither.
    internal static void RejectAmbiguousQuestions(IEnumerable<Fact> facts)
    {
        var owners = new Dictionary<string, Fact>();
        foreach (var fact in facts)
            foreach (var question in fact.Questions)
                if (!owners.TryAdd(Normal(question), fact) && owners[Normal(question)].Id != fact.Id)
                    throw new InvalidDataException($"'{question}' is asked by {owners[Normal(question)].Id} and by {fact.Id}; reword one of them");
    }

    /// <summary>A question without case, spaces and punctuation: two questions that are equal in this form are the same question.</summary>
    public static string Normal(string question) =>
        string.Concat(question.Where(c => char.IsLetterOrDigit(c) || "+-×=".Contains(c)).Select(char.ToLowerInvariant));
}
