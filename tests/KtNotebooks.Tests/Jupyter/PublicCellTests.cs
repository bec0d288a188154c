using System.Globalization;

using KtNotebooks.Jupyter.Cells;

using Xunit;

namespace KtNotebooks.Tests.Jupyter;

/// <summary>
/// Cells as public C# notebooks have them, written anew: one for each feature, with the share of notebooks that use it (counted over 282 notebooks with 2,804
/// cells). At least 95 % of the shares run as they are.
/// </summary>
[Collection("Console")]
public sealed class PublicCellTests(ITestOutputHelper output) : IDisposable
{
    private const double Wanted = 0.95;

    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-public-cells-");

    public void Dispose() => _folder.Delete(recursive: true);

    /// <summary>Share of notebooks in percent, the feature, its cells, and what the last one must show, print or have as its value.</summary>
    private (double Share, string Feature, string[] Cells, string Shows)[] Corpus =>
    [
        (44, "Console", ["Console.WriteLine($\"pi is {Math.PI:F2}\"); Console.Write(\"no line\");"], "pi is 3.14\nno line"),
        (38, "#r nuget", ["#r \"nuget:Microsoft.Data.Analysis,0.23.1\"", "using Microsoft.Data.Analysis;\ntypeof(DataFrame).Name"], "DataFrame"),
        (35, "await", ["using System.Net;\nvar word = await Task.Run(() => \"waited\");\nword"], "waited"),
        (32, "trailing expression", ["var xs = Enumerable.Range(1, 4);", "xs.Select(x => x * x)"], "[ 1, 4, 9, 16 ]"),
        (13.5, "#!import", [$"#!import \"{Write("helpers.cs", "static int Triple(int x) => 3 * x;")}\"", "Triple(14)"], "42"),
        (13, "using Microsoft.DotNet.Interactive", ["using Microsoft.DotNet.Interactive;\nusing Microsoft.DotNet.Interactive.Formatting;\n"
            + "using Microsoft.DotNet.Interactive.Commands;\nFormatter.DefaultMimeType"], "text/html"),
        (13, "Data.Analysis", ["using Microsoft.Data.Analysis;\nvar frame = new DataFrame(new PrimitiveDataFrameColumn<int>(\"age\", new[] { 41, 42, 43 }));",
            "frame.Filter(frame[\"age\"].ElementwiseGreaterThan(41))"], "43"),
        (9.6, ".Display()", ["\"shown\".Display();\nnew { Name = \"Ada\", Born = 1815 }.Display();"], "Ada"),
        (9.6, "display()", ["display(\"one\");\ndisplay(new[] { 1, 2, 3 });"], "[ 1, 2, 3 ]"),
        (9.6, "Kernel.Root", ["using Microsoft.DotNet.Interactive;\nusing Microsoft.DotNet.Interactive.Commands;\n"
            + "await Kernel.Root.SendAsync(new SubmitCode(\"Console.Write(6 * 7)\"));"], "42"),
        (7, "#i nuget", [$"#i \"nuget:{_folder.FullName}\"", "\"fine\""], "fine"),
        (7, "using static", ["using static System.Math;\nMax(Sqrt(16), Abs(-3))"], "4"),
        (6, "Formatter.Register", ["using Microsoft.DotNet.Interactive.Formatting;\nrecord Money(decimal Amount);\n"
            + "Formatter.Register<Money>(m => $\"{m.Amount:0.00} EUR\", \"text/plain\");\nFormatter.SetPreferredMimeTypesFor(typeof(Money), \"text/plain\");",
            "new Money(12.5m)"], "12.50 EUR"),
        (5.3, "#!time", ["#!time\nThread.Sleep(3);"], "Wall time:"),
        (5.3, "KernelInvocationContext", ["using Microsoft.DotNet.Interactive;\n"
            + "KernelInvocationContext.Current.CancellationToken.IsCancellationRequested"], "False"),
        (4.6, "XPlot", ["#r \"nuget: XPlot.Plotly.Interactive\""], ""),
        (4.3, "Plotly.NET", ["#r \"nuget: Plotly.NET.Interactive, 6.0.0\"\n#r \"nuget: Plotly.NET.CSharp, 0.14.0\"",
            "Plotly.NET.CSharp.Chart.Line<double, double, string>(new[] { 1.0, 2.0 }, new[] { 3.0, 4.0 })"], "Plotly.newPlot"),
        (4.3, "DisplayedValue.Update", ["var shown = display(\"working\");\nfor (var i = 1; i <= 3; i++) shown.Update($\"{i} of 3\");"], "3 of 3"),
        (3.9, "PocketView", ["using Microsoft.DotNet.Interactive.Formatting;\nusing static Microsoft.DotNet.Interactive.Formatting.PocketViewTags;\n"
            + "div(b(\"bold\"), i[style: \"color:red\"](\"red\"))"], "<b>bold</b>"),
        (3, "#!set, #!share", ["#!value --name note\nstored text", "#!share --from value note", "note.Length"], "11"),
        (2.5, "GetInputAsync", ["using Microsoft.DotNet.Interactive;\nvar name = await Kernel.GetInputAsync(\"your name?\");\n$\"hello {name}\""], "hello Ada"),
        (2.1, "@input in magics", ["#!set --name who --value @input:\"who?\"", "who"], "Ada"),
        (2, "#!html", ["#!markdown\n# title\n#!html\n<b>text</b>\n#!csharp\nConsole.Write(1);"], "<b>text</b>"),
        (2, "#!javascript", ["#!javascript\nconsole.log('</script>');\n#!csharp\nConsole.Write(1);"], "console.log('<\\/script>');</script>"),
        (1.8, "HTML()", ["HTML(\"<i>leaning</i>\")"], "<i>leaning</i>"),
        (1.4, "#r path", [$"#r \"{typeof(FakeModel).Assembly.Location}\"", "typeof(KtNotebooks.Tests.Jupyter.FakeModel).Name"], "FakeModel"),
        (1.4, "#load", [$"#load \"{Write("part.csx", "var loaded = 7;")}\"", "loaded"], "7"),
        (1.4, "#!csharp", ["#!csharp\n1 + 1"], "2"),
    ];

    /// <summary>The lessons of an introduction to C# as cells, and what each must print or have as its value.</summary>
    public static TheoryData<string, string> FirstLessons => new()
    {
        { "Console.WriteLine(\"Hello World!\");", "Hello World!" },
        { "string aFriend = \"Maira\"; Console.WriteLine($\"Hello {aFriend}, your name has {aFriend.Length} letters\");", "5 letters" },
        { "string greeting = \"      Hello!       \"; Console.WriteLine($\"[{greeting.TrimStart()}]\");", "[Hello!       ]" },
        { "\"Hello World\".Replace(\"Hello\", \"Greetings\").ToUpper()", "GREETINGS WORLD" },
        { "\"You say goodbye, and I say hello\".Contains(\"goodbye\")", "True" },
        { "int a = 18; int b = 6; int c = (a + b) / 7; int rest = (a + b) % 7; Console.WriteLine($\"{c} rest {rest}\");", "3 rest 3" },
        { "int max = int.MaxValue; int what = max + 3; what", "-2147483646" },
        { "double third = 1.0 / 3.0; decimal exact = 1M / 3M; Console.WriteLine(third); Console.WriteLine(exact);", "0.3333333333333333333333333333" },
        { "double radius = 2.5; Math.PI * radius * radius", "19.634954" },
        { "int x = 5, y = 6; if (x + y > 10 && x == 5) { Console.WriteLine(\"both\"); } else { Console.WriteLine(\"not both\"); }", "both" },
        { "int counter = 0; while (counter < 3) { Console.Write(counter); counter++; } do { Console.Write('!'); } while (false);", "012!" },
        { "for (int row = 1; row < 3; row++) { for (char column = 'a'; column < 'c'; column++) { Console.Write($\"({row},{column})\"); } }", "(2,b)" },
        { "int sum = 0; for (int n = 1; n <= 20; n++) { if (n % 3 == 0) { sum += n; } } sum", "63" },
        { "var names = new List<string> { \"Scott\", \"Ana\", \"Felipe\" }; names.Add(\"Maria\"); names.Remove(\"Ana\"); names.Sort(); "
            + "foreach (var name in names) Console.Write(name.ToUpper() + \" \");", "FELIPE MARIA SCOTT" },
        { "var index = new List<string> { \"a\", \"b\" }.IndexOf(\"z\"); if (index == -1) Console.WriteLine($\"not found: {index}\");", "not found: -1" },
        { "var fibonacci = new List<int> { 1, 1 }; while (fibonacci.Count < 20) fibonacci.Add(fibonacci[^1] + fibonacci[^2]); fibonacci.Last()", "6765" },
        { "int[] grades = { 90, 75, 82 }; var best = from g in grades where g > 80 orderby g descending select g; string.Join(\",\", best)", "90,82" },
        { "static int Square(int n) => n * n; string Describe(int n, string unit = \"m\") { return $\"{Square(n)} {unit}\"; } Describe(4)", "16 m" },
        { "public class Transaction { public decimal Amount { get; } public DateTime Date { get; } public Transaction(decimal amount, DateTime date) "
            + "{ Amount = amount; Date = date; } }\npublic class BankAccount { private static int seed = 1; public string Number { get; } "
            + "public decimal Balance { get { decimal b = 0; foreach (var t in all) b += t.Amount; return b; } } private List<Transaction> all = new(); "
            + "public BankAccount() { Number = seed.ToString(); seed++; } public void Deposit(decimal amount) { if (amount <= 0) throw new "
            + "ArgumentOutOfRangeException(nameof(amount), \"must be positive\"); all.Add(new Transaction(amount, DateTime.Now)); } }\n"
            + "var account = new BankAccount(); account.Deposit(100); account.Deposit(20.5M); "
            + "Console.WriteLine($\"{account.Number}: {account.Balance}\");",
            "1: 120.5" },
        { "try { throw new InvalidOperationException(\"no money\"); } catch (InvalidOperationException e) { Console.WriteLine(\"caught \" + e.Message); } "
            + "finally { Console.WriteLine(\"at last\"); }", "caught no money\nat last" },
        { "var phone = new Dictionary<string, int> { [\"Ada\"] = 12 }; phone.TryGetValue(\"Bob\", out var none) ? \"there\" : \"not there\"", "not there" },
        { "string Size(int n) => n switch { < 0 => \"negative\", 0 => \"zero\", _ => \"positive\" }; Size(-4) + Size(0)", "negativezero" },
    };

    [Fact]
    public void Public_cells_run_as_they_are()
    {
        double all = 0, run = 0;
        foreach (var (share, feature, cells, shows) in Corpus)
        {
            var fault = Fault(cells, shows);
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{share,5} %  {feature}: {fault ?? "runs"}"));
            all += share;
            if (fault is null) run += share;
        }
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"by share {run / all:P1}"));
        Assert.True(run >= Wanted * all, $"only {run / all:P1} of the cells, weighted by how often they are met, run");
    }

    [Fact]
    public void An_introduction_to_the_language_runs_as_it_is()
    {
        using var session = new CSharpSession();
        Assert.All(FirstLessons, lesson =>
        {
            var (code, shows) = (lesson.Data.Item1, lesson.Data.Item2);
            Assert.Null(Fault([code], shows, session));
        });
    }

    /// <summary>Null: all is as it should be.</summary>
    private static string? Fault(string[] cells, string shows, CSharpSession? within = null)
    {
        using var own = within is null ? new CSharpSession() : null;
        var session = within ?? own!;
        using var console = CellConsole.Install();
        var seen = "";
        foreach (var (code, i) in cells.Select((c, i) => (c, i)))
        {
            var collected = new CollectedOutput { Answer = "Ada" };
            using var cell = new Cell($"cell-{i + 1}.csx", collected);
            var result = session.Execute(code, cell).Result;
            if (result.Error is { } error) return $"{error.Name}: {error.Value}";
            var bundles = collected.Seen.Select(s => s.Bundle).Concat(result.Value is { } value ? [value] : []);
            seen = collected.Printed + string.Join('\n', bundles.SelectMany(b => b.Data.Values).Select(v => v.ToString()));
        }
        return seen.Contains(shows, StringComparison.Ordinal) ? null : $"wanted {shows}, saw {seen}";
    }

    private string Write(string name, string text)
    {
        var path = Path.Combine(_folder.FullName, name);
        File.WriteAllText(path, text);
        return path;
    }
}
