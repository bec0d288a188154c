using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;

using Xunit;

namespace KtNotebooks.Tests.Segmentation;

/// <summary>jieba and NLTK run by Debian's Python: the oracle of segmentation and metrics.</summary>
internal static class Python
{
    private const string Interpreter = "/usr/bin/python3";

    private static readonly Lazy<string?> Missing = new(() =>
    {
        if (!File.Exists(Interpreter)) return $"{Interpreter} is not here";
        using var probe = Process.Start(new ProcessStartInfo(Interpreter, ["-c", "import jieba, nltk.translate.bleu_score"]) { RedirectStandardError = true })!;
        probe.StandardError.ReadToEnd();
        probe.WaitForExit();
        return probe.ExitCode == 0 ? null : "Python's jieba and nltk are not here (Debian: python3-jieba python3-nltk)";
    });

    /// <summary>Skips the test where the packages are not installed; KT_REQUIRE=oracle makes that a failure.</summary>
    public static void Require() => Tests.Require.Hardware("oracle", Missing.Value);

    /// <summary>One answer for each row.</summary>
    public static JsonNode[] Ask(IEnumerable<object> rows)
    {
        var script = Path.Combine(Checkout.Root, "tests/KtNotebooks.Tests/Evaluation/metrics_oracle.py");
        var start = new ProcessStartInfo(Interpreter, [script]) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["PYTHONIOENCODING"] = "utf-8";
        using var python = Process.Start(start)!;
        var (output, errors) = (python.StandardOutput.ReadToEndAsync(), python.StandardError.ReadToEndAsync());
        foreach (var row in rows) python.StandardInput.WriteLine(JsonSerializer.Serialize(row));
        python.StandardInput.Close();
        python.WaitForExit();
        Assert.True(python.ExitCode == 0, errors.Result);
        return [.. output.Result.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!)];
    }
}
