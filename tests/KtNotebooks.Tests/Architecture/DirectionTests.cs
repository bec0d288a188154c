using System.Text.RegularExpressions;

using Xunit;

namespace KtNotebooks.Tests.Architecture;

/// <summary>What may use what, read from the `using` lines and qualified names; and how long a file may be.</summary>
public partial class DirectionTests
{
    private static readonly string Source = Path.Combine(Checkout.Root, "src");

    /// <summary>The folders of the engine and what each stands on. A folder may use those, and whatever they stand on.</summary>
    private static readonly Dictionary<string, string[]> Engine = new()
    {
        ["Files"] = ["Interop"],
        ["Interop"] = [],
        ["Tensors"] = ["Interop"],
        ["Formats"] = ["Tensors"],
        ["Autograd"] = ["Tensors"],
        ["Ops"] = ["Autograd", "Formats"],
        ["Weights"] = ["Formats", "Files"],
        ["Nn"] = ["Weights", "Ops"],
        ["Experts"] = ["Nn"],
        ["Placement"] = ["Experts", "Configuration"],
        ["Models"] = ["Placement"],
        ["Lora"] = ["Models"],
        ["Distributed"] = ["Tensors"],
        ["Optim"] = ["Nn"],
        ["Tokenizers"] = ["Files"],
        ["Data"] = ["Tokenizers"],
        ["Configuration"] = ["Data"], // the nearest known word
        ["Training"] = ["Lora", "Optim", "Configuration", "Distributed"],
        ["Planning"] = ["Training"],
        ["Generation"] = ["Lora", "Configuration"],
        ["Segmentation"] = [],
        ["Evaluation"] = ["Training", "Generation", "Segmentation"],
    };

    /// <summary>The same for the projects.</summary>
    private static readonly Dictionary<string, string[]> Projects = new()
    {
        ["KtNotebooks.Engine"] = [],
        ["KtNotebooks.Bench"] = ["KtNotebooks.Engine", "KtNotebooks.Server"], // it measures what they do
        ["KtNotebooks.Course"] = ["KtNotebooks.Engine"],
        ["KtNotebooks.Interactive"] = ["KtNotebooks.Engine"],
        // Cells can use all of them.
        ["KtNotebooks.DotNetInteractive"] = ["KtNotebooks.Interactive", "KtNotebooks.Bench", "KtNotebooks.Course", "KtNotebooks.Server"],
        ["KtNotebooks"] = ["KtNotebooks.DotNetInteractive"],
        ["KtNotebooks.Jupyter"] = ["KtNotebooks.DotNetInteractive"],
        ["KtNotebooks.Server"] = ["KtNotebooks.Engine"],
        ["KtNotebooks.Cli"] = ["KtNotebooks.Jupyter", "KtNotebooks.Server"],
    };

    /// <summary>Files of more than 500 lines, each with its reason.</summary>
    private static readonly Dictionary<string, string> LongFiles = [];

    [Fact]
    public void Engine_folders_look_only_downwards()
    {
        var root = Path.Combine(Source, "KtNotebooks.Engine");
        Assert.All(Directory.GetDirectories(root).Select(Path.GetFileName).Where(f => f is not ("bin" or "obj")),
            folder => Assert.Contains(folder!, Engine.Keys));
        var wrong = from file in Files(root, "*.cs")
                    let folder = Path.GetRelativePath(root, file).Split('/')[0]
                    where Engine.ContainsKey(folder)
                    from used in Used(file).Where(u => u != folder && Engine.ContainsKey(u)).Distinct()
                    where !Below(Engine, folder).Contains(used)
                    select $"{Path.GetRelativePath(Source, file)} uses {used}, which does not stand below {folder}";
        Assert.Empty(wrong);
    }

    [Fact]
    public void Projects_look_only_downwards()
    {
        foreach (var project in Files(Source, "*.csproj"))
        {
            var name = Path.GetFileNameWithoutExtension(project);
            var allowed = Below(Projects, name);
            Assert.Empty(ProjectReference().Matches(File.ReadAllText(project)).Select(m => m.Groups[1].Value).Where(used => !allowed.Contains(used))
                .Select(used => $"{name} refers to {used}"));
        }
    }

    [Fact]
    public void Nothing_in_the_table_goes_round_in_circles()
    {
        foreach (var table in new[] { Engine, Projects })
            foreach (var name in table.Keys) Assert.DoesNotContain(name, Below(table, name));
    }

    [Fact]
    public void Files_stay_short_enough_to_read()
    {
        var tooLong = from pattern in new[] { "*.cs", "*.cpp", "*.h", "*.cu" }
                      from file in Files(Source, pattern)
                      let lines = File.ReadLines(file).Count()
                      let name = Path.GetRelativePath(Source, file)
                      where lines > 500 && !LongFiles.ContainsKey(name)
                      select $"{name} has {lines} lines: split it, or give its reason here";
        Assert.Empty(tooLong);
        Assert.All(LongFiles.Keys, name => Assert.True(File.Exists(Path.Combine(Source, name)), $"{name} is gone: remove its entry"));
    }

    private static IEnumerable<string> Files(string root, string pattern) =>
        Directory.EnumerateFiles(root, pattern, SearchOption.AllDirectories)
            .Where(f => !f.Contains("/obj/", StringComparison.Ordinal) && !f.Contains("/bin/", StringComparison.Ordinal));

    private static IEnumerable<string> Used(string file) =>
        Mention().Matches(string.Join('\n', File.ReadLines(file).Where(line => !line.TrimStart().StartsWith("//", StringComparison.Ordinal))))
            .Select(m => m.Groups[1].Value);

    private static HashSet<string> Below(Dictionary<string, string[]> table, string name)
    {
        var below = new HashSet<string>();
        var open = new Queue<string>(table[name]);
        while (open.TryDequeue(out var next))
            if (below.Add(next)) foreach (var further in table[next]) open.Enqueue(further);
        return below;
    }

    [GeneratedRegex(@"KtNotebooks\.(\w+)")]
    private static partial Regex Mention();

    [GeneratedRegex(@"<ProjectReference Include=""[^""]*?([\w.]+)\.csproj""")]
    private static partial Regex ProjectReference();
}
