using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

using KtNotebooks.Jupyter.Notebooks;
using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.Notebooks;

/// <summary>
/// The course as a course: each notebook runs with a second setting of its parameters, its exercises say ○ as they stand and ✓ with the solutions, and what is
/// stored in it is fit to be read.
/// </summary>
[Collection(DotNetInteractive.Packed.Name)] // which runs the same notebooks, that work in the same folders
public sealed partial class CourseTests
{
    private const int FewestExercises = 3;

    private static readonly string Folder = Path.Combine(Checkout.Root, "notebooks");

    /// <summary>Another model, other data or fewer of them, other sizes: whatever a notebook's parameters offer.</summary>
    private static readonly Dictionary<string, string[]> SecondSettings = new()
    {
        ["00-check-this-machine"] = ["tokens=512", "size=256", "shapes=deepseek-v2-lite kimi-k2"],
        ["01-first-fine-tune"] = ["limit=24", "rank=4"],
        ["02-convert-and-inspect"] = ["large=kimi-k2", "tokens=2048", "dataset=translationese_test"],
        ["03-train-translation"] = ["limit=12", "rank=8"],
        ["04-train-afrimed"] = ["limit=12", "learned=afrimed_style_saq_train"],
        ["05-benchmark-tables"] = ["limit=4"],
        ["06-speed-and-memory"] = ["shape=kimi-k2", "stepTokens=4096"],
        ["07-cpu-kernels"] = ["experts=16", "width=256", "inner=128", "most=256"],
        ["08-chat-and-api"] = ["clients=4", "steps=40", "scored=12"],
        ["09-lora-by-hand"] = ["rank=1", "module=model.layers.0.self_attn.o_proj"],
        ["10-how-a-moe-layer-routes"] = ["dataset=translationese_train", "heldOut=translationese_test", "rows=20", "steps=3"],
        ["11-write-your-own-rule"] = ["shape=qwen3-30b-a3b", "tokens=1024"],
        ["12-write-your-own-op"] = ["hidden=16", "seed=2"],
    };

    public static TheoryData<string> All => [.. Directory.GetFiles(Folder, "*.ipynb").Order(StringComparer.Ordinal).Select(f => Path.GetFileName(f))];

    [Theory]
    [MemberData(nameof(All))]
    public void Runs_with_a_second_setting_and_the_solutions_are_right(string name)
    {
        var title = Path.GetFileNameWithoutExtension(name);
        Assert.True(SecondSettings.ContainsKey(title), $"{name} has no second setting here");
        var notebook = JsonNode.Parse(File.ReadAllText(Path.Combine(Folder, name)))!;
        var exercises = Code(notebook).Where(c => Tags(c).Contains("exercise")).ToArray();
        string[] solutions = [.. Block().Matches(File.ReadAllText(Path.Combine(Folder, "solutions", title + ".md"))).Select(m => m.Groups[1].Value)];
        Assert.True(exercises.Length >= FewestExercises, $"{name} has {exercises.Length} exercises");
        Assert.Equal(exercises.Length, solutions.Length);
        foreach (var (exercise, solution) in exercises.Zip(solutions)) exercise["source"] = solution;
        var folder = Directory.CreateTempSubdirectory("kt-course-tests-");
        try
        {
            var solved = Path.Combine(folder.FullName, name);
            File.WriteAllText(solved, notebook.ToJsonString());
            using var kt = Kt.Start(["notebook", "run", solved, "--out", solved, .. SecondSettings[title].SelectMany(p => new[] { "-p", p })]);
            var (exit, said, errors) = kt.End(minutes: 5);
            Assert.True(exit == 0 && errors.Length == 0, $"{name} with {string.Join(' ', SecondSettings[title])}: {said}{errors}");
            var verdicts = Verdicts(JsonNode.Parse(File.ReadAllText(solved))!);
            Assert.All(verdicts, v => Assert.StartsWith("✓", v, StringComparison.Ordinal));
            Assert.True(verdicts.Length >= exercises.Length, $"{name}: only {string.Join(", ", verdicts)} were said");
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Theory]
    [MemberData(nameof(All))]
    public void Is_fit_to_be_read(string name)
    {
        var path = Path.Combine(Folder, name);
        Assert.Empty(NotebookCheck.Run(path));
        var notebook = JsonNode.Parse(File.ReadAllText(path))!;
        var cells = notebook["cells"]!.AsArray().OfType<JsonObject>().ToArray();
        Assert.Single(Code(notebook), c => Tags(c).Contains("parameters"));
        Assert.Contains(cells, c => Source(c).StartsWith("## On a large model", StringComparison.Ordinal)
            && Source(c).Contains("```yaml", StringComparison.Ordinal));
        Assert.All(Verdicts(notebook), v => Assert.StartsWith("○", v, StringComparison.Ordinal)); // the answers are the reader's
        for (var i = 0; i < cells.Length; i++)
        {
            if (!Outputs(cells[i]).Any(o => o["data"]?["image/png"] is not null)) continue;
            Assert.True(i + 1 < cells.Length && Source(cells[i + 1]).Contains("*What you should see:*", StringComparison.Ordinal),
                $"{name}: no words say what the figure of cell {i + 1} should look like");
        }
    }

    private static IEnumerable<JsonObject> Code(JsonNode notebook) =>
        notebook["cells"]!.AsArray().OfType<JsonObject>().Where(c => (string?)c["cell_type"] == "code");

    private static IEnumerable<JsonNode> Outputs(JsonObject cell) => (cell["outputs"] as JsonArray ?? []).Select(o => o!);

    private static string[] Verdicts(JsonNode notebook) => [.. Code(notebook).SelectMany(Outputs).Where(o => (string?)o["output_type"] == "stream")
        .SelectMany(o => Text(o["text"]).Split('\n')).Where(l => l.StartsWith('✓') || l.StartsWith('✗') || l.StartsWith('○'))];

    private static string[] Tags(JsonObject cell) => [.. (cell["metadata"]?["tags"] as JsonArray ?? []).Select(t => (string)t!)];

    private static string Source(JsonObject cell) => Text(cell["source"]);

    private static string Text(JsonNode? node) => node is JsonArray lines ? string.Concat(lines.Select(l => (string?)l)) : (string?)node ?? "";

    [GeneratedRegex("```csharp\n(.*?)\n```", RegexOptions.Singleline)] private static partial Regex Block();
}
