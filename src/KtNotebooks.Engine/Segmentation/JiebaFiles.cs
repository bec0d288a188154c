namespace KtNotebooks.Segmentation;

/// <summary>
/// Where jieba's dictionary and tables lie: dict.txt with the folder finalseg beside it, as Debian's python3-jieba and the Python package have them. They
/// are 6 MB of others' work (MIT) and not part of this repository. KT_JIEBA_DICT names dict.txt or its folder.
/// </summary>
/// <param name="Dictionary">dict.txt.</param>
/// <param name="Model">The folder of prob_start.py, prob_trans.py and prob_emit.py.</param>
public sealed record JiebaFiles(string Dictionary, string Model)
{
    private const string Variable = "KT_JIEBA_DICT",
        Install = "type: sudo apt-get install -y python3-jieba   (or let KT_JIEBA_DICT name a dict.txt with jieba's folder finalseg beside it)";

    private static readonly string[] Known = ["/usr/lib/python3/dist-packages/jieba", "/usr/local/lib/python3/dist-packages/jieba"];

    /// <exception cref="FileNotFoundException">Nowhere; the message lists the places and says what to type.</exception>
    public static JiebaFiles Find()
    {
        if (Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } given)
            return At(given)
                ?? throw new FileNotFoundException($"{Variable} is '{given}', but there is no dict.txt with a folder finalseg (prob_start.py, prob_trans.py, "
                + $"prob_emit.py) beside it; {Install}");
        return Known.Select(At).FirstOrDefault(files => files is not null)
            ?? throw new FileNotFoundException($"ROUGE and word BLEU need jieba's dictionary, which is not in {string.Join(" nor in ", Known)}; {Install}");
    }

    /// <summary>Null when a file is missing.</summary>
    private static JiebaFiles? At(string place)
    {
        var folder = Directory.Exists(place) ? place : Path.GetDirectoryName(Path.GetFullPath(place))!;
        var files = new JiebaFiles(Directory.Exists(place) ? Path.Combine(place, "dict.txt") : place, Path.Combine(folder, "finalseg"));
        string[] needed = [files.Dictionary, .. new[] { "start", "trans", "emit" }.Select(name => Path.Combine(files.Model, $"prob_{name}.py"))];
        return needed.All(File.Exists) ? files : null;
    }
}
