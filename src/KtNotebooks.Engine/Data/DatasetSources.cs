namespace KtNotebooks.Data;

/// <summary>Where the real data sets come from that are not ours to keep; told when their file is missing.</summary>
public static class DatasetSources
{
    private static readonly (string Word, string Hint)[] Known =
    [
        ("NekoQA-10K", "Get NekoQA-10K.json from huggingface.co/datasets/liumindmind/NekoQA-10K (Apache-2.0) and put it there."),
        ("TslDial", "Get TslDial.json from github.com/Benson114/Translational-Style-ChatLLM, folder GPTGenerateData (no licence stated: for your own use), "
            + "and put it there."),
        ("AfriMed-QA", "Get the CSV from github.com/intron-innovation/AfriMed-QA, folder data (CC BY-NC-SA 4.0), and convert it: kt data afrimed FILE.csv "
            + "--out datasets --name afrimed."),
        ("afrimed_", "Get AfriMed-QA's CSV from github.com/intron-innovation/AfriMed-QA, folder data (CC BY-NC-SA 4.0), and convert it: kt data afrimed "
            + "FILE.csv --out datasets --name afrimed."),
    ];

    /// <summary>How to get the set whose name or file this is; empty for sets that are not known.</summary>
    public static string Hint(string name) => Known.FirstOrDefault(k => name.Contains(k.Word, StringComparison.OrdinalIgnoreCase)).Hint ?? "";
}
