using KtNotebooks.Interactive;
using KtNotebooks.Jupyter.Cells;

using Xunit;

namespace KtNotebooks.Tests.Jupyter;

/// <summary>.NET Interactive's own types in our session: what notebooks and packages written for it call.</summary>
public sealed class RealTypesTests : IDisposable
{
    private readonly CSharpSession _session = new();
    private readonly CollectedOutput _output = new();
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-real-types-");
    private int _cells;

    public void Dispose()
    {
        _session.Dispose();
        _folder.Delete(recursive: true);
    }

    [Theory]
    [InlineData("typeof(Microsoft.DotNet.Interactive.Formatting.Formatter).Assembly.GetName().Name", "Microsoft.DotNet.Interactive.Formatting")]
    [InlineData("typeof(Microsoft.DotNet.Interactive.Kernel).Assembly.GetName().Name", "Microsoft.DotNet.Interactive")]
    [InlineData("Microsoft.DotNet.Interactive.Kernel.Root.GetType().Name + Microsoft.DotNet.Interactive.Kernel.Current.Name", "CompositeKernelcsharp")]
    [InlineData("Microsoft.DotNet.Interactive.KernelInvocationContext.Current.Command.GetType().Name", "SubmitCode")]
    public void They_are_the_package_s(string code, string text) => Assert.Equal(text, Value(code).Text);

    [Fact]
    public void Formatters_and_pocket_views_show_values()
    {
        Run("using Microsoft.DotNet.Interactive.Formatting; using static Microsoft.DotNet.Interactive.Formatting.PocketViewTags;\nrecord Cat(string Name);\n"
            + "Formatter.Register<Cat>(c => $\"<b>{c.Name}</b>\", HtmlFormatter.MimeType); Formatter.Register<Cat>(c => c.Name);");
        Assert.Equal(("Tom", "<b>Tom</b>"), Forms(Value("new Cat(\"Tom\")")));
        Assert.Equal("<p class=\"a\"><i>x &amp; y</i></p>", Value("p[@class: \"a\"](i(\"x & y\"))").Data["text/html"]);
        Assert.Contains("<td>", (string)Value("new[] { new { A = 1, B = new[] { 1, 2 } } }").Data["text/html"], StringComparison.Ordinal);
    }

    [Fact]
    public void A_display_is_replaced_in_its_place()
    {
        Run("var shown = display(\"first\"); var other = \"x\".Display(\"text/html\");");
        Run("shown.Update(\"second\"); other.Update(\"y\");");
        Assert.Equal(["show first", "show x", "update second", "update y"], _output.Seen.Select(s => $"{s.What} {s.Bundle.Text}"));
        Assert.Equal(_output.Seen.Take(2).Select(s => s.Id), _output.Seen.Skip(2).Select(s => s.Id));
    }

    [Fact]
    public void Code_that_a_cell_sends_sees_its_variables_and_leaves_its_own()
    {
        Run("var outer = 20;\nawait Microsoft.DotNet.Interactive.Kernel.Root.SendAsync(new Microsoft.DotNet.Interactive.Commands.SubmitCode("
            + "\"var nested = outer + 1; 2 * nested\"));\nvar after = 1;");
        Assert.Equal("42", Assert.Single(_output.Seen).Bundle.Text);
        Assert.Equal("20 21 1", Value("$\"{outer} {nested} {after}\"").Text);
    }

    [Fact]
    public void Files_are_imported()
    {
        Write("a.csx", "int Twice(int x) => 2 * x;");
        Write("b.dib", "#!markdown\n\n# no code\n\n#!csharp\n\nvar b = Twice(4);\n\n#!fsharp\n\nlet no = 1\n");
        Write("c.ipynb", "{\"cells\": [{\"cell_type\": \"markdown\", \"source\": \"text\"}, "
            + "{\"cell_type\": \"code\", \"source\": [\"var c = \", \"b + 1;\"]}]}");
        Run(string.Join('\n', ((string[])["a.csx", "b.dib", "c.ipynb"]).Select(f => $"#!import \"{Path.Combine(_folder.FullName, f)}\"")));
        Assert.Equal("9", Value("c").Text);
        Assert.Contains(".ipynb, .dib, .cs and .csx", Error($"#!import \"{Write("d.txt", "x")}\""), StringComparison.Ordinal);
    }

    [Fact]
    public void Values_are_set_stored_and_shared()
    {
        Run("#!value --name note\nfirst line\nsecond line");
        Run("#!share --from value note");
        Assert.Equal("first line\nsecond line", Value("note").Text);
        Run("#!set --name copy --value @csharp:note\n#!set --name word --value \"two words\"");
        Assert.Equal("True two words", Value("$\"{copy == note} {word}\"").Text);
        Run("var list = new List<(string, int[])> { (\"a\", [1]) };");
        Run("#!share --from csharp list --as again");
        Assert.Equal("1", Value("again[0].Item2.Length").Text);
        Assert.Contains("no value 'nothing'", Error("#!share --from value nothing"), StringComparison.Ordinal);
        Assert.Contains("csharp, value", Error("#!share --from klingon x"), StringComparison.Ordinal);
    }

    [Fact]
    public void Packages_bring_their_extensions()
    {
        Run("#r \"nuget: Plotly.NET.Interactive, 6.0.0\"\n#r \"nuget: Plotly.NET.CSharp, 0.14.0\"");
        var chart = Value("Plotly.NET.CSharp.Chart.Point<double, double, string>([1.0, 2.0], [3.0, 4.0])");
        Assert.Contains("Plotly.newPlot", (string)chart.Data["text/html"], StringComparison.Ordinal);
        Run("#r \"nuget: Microsoft.Data.Analysis, 0.23.1\"\nusing Microsoft.Data.Analysis;");
        Assert.Contains("<table", (string)Value("new DataFrame(new Int32DataFrameColumn(\"age\", [41, 42]))").Data["text/html"], StringComparison.Ordinal);
    }

    [Fact]
    public void Data_frames_are_there_and_shown_without_a_script()
    {
        var shown = Value("new Table(\"age\").Row(41).Row(42).ToDataFrame()");
        Assert.Contains("<td", (string)shown.Data["text/html"], StringComparison.Ordinal);
        Assert.DoesNotContain("<script", (string)shown.Data["text/html"], StringComparison.Ordinal);
        Assert.Contains("41", shown.Text, StringComparison.Ordinal);
        Assert.Equal("2", Value("Tokenizer.Load(\"" + Path.Combine(Checkout.Root, "notebooks/models/kt-tiny")
            + "\") is Microsoft.ML.Tokenizers.Tokenizer t && t.CountTokens(\"\") == 0 ? 2 : 0").Text);
    }

    [Fact]
    public void Our_own_packages_are_there_already_in_this_version_only()
    {
        Run("#r \"nuget: KtNotebooks\"\n#r \"nuget: KtNotebooks.Engine\"");
        Assert.Contains("is KtNotebooks ", Error("#r \"nuget: KtNotebooks, 99.0.0\""), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Names_are_completed_before_the_first_cell_and_after_a_failed_one()
    {
        using var fresh = new CSharpSession();
        Assert.Contains("WriteLine", Completions.At(fresh, "Console.WriteL", 14).Names.Select(n => n.Text));
        Assert.StartsWith("void Console.WriteLine", Inspection.At(fresh, "Console.WriteLine", 17)!.Value.Plain, StringComparison.Ordinal);
        // Behind a line that is for the kernel, between arguments, and of what is being made.
        const string first = "#r \"nuget: KtNotebooks\"\n";
        Assert.Contains(Completions.At(fresh, first + "Console.Wri", first.Length + 11).Names, n => n.Text == "WriteLine");
        Assert.StartsWith("void Console.WriteLine", Inspection.At(fresh, first + "Console.WriteLine", first.Length + 17)!.Value.Plain,
            StringComparison.Ordinal);
        foreach (var code in (string[])["Math.Max(1, ", "Math.Max(1,", "Math.Max(", "Math.Max(1, 2"])
            Assert.Contains("Math.Max(int val1, int val2)", Inspection.At(fresh, code, code.Length)!.Value.Plain, StringComparison.Ordinal);
        Assert.Contains("BarChart.BarChart(string title", Inspection.At(fresh, "new BarChart(", 13)!.Value.Plain, StringComparison.Ordinal);
        Assert.Null(Inspection.At(fresh, "Math.Max(1, 2) ", 15));
        using var cell = new Cell("cell-1.csx", _output);
        Assert.NotNull((await fresh.Execute("throw new Exception();", cell)).Error);
        Assert.Contains("WriteLine", Completions.At(fresh, "Console.WriteL", 14).Names.Select(n => n.Text));
    }

    private CellResult Execute(string code)
    {
        using var cell = new Cell($"cell-{++_cells}.csx", _output);
        return _session.Execute(code, cell).Result;
    }

    private void Run(string code)
    {
        var error = Execute(code).Error;
        Assert.True(error is null, $"{error?.Name}: {error?.Value}\n{string.Join('\n', error?.Traceback ?? [])}");
    }

    private string Error(string code)
    {
        var error = Execute(code).Error;
        Assert.NotNull(error);
        return error.Value;
    }

    private MimeBundle Value(string code)
    {
        var result = Execute(code);
        Assert.True(result.Error is null, $"{result.Error?.Name}: {result.Error?.Value}");
        return result.Value!;
    }

    private string Write(string name, string text)
    {
        var path = Path.Combine(_folder.FullName, name);
        File.WriteAllText(path, text);
        return path;
    }

    private static (string, object) Forms(MimeBundle bundle) => (bundle.Text, bundle.Data["text/html"]);
}
