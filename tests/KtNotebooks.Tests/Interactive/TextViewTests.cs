using System.Xml.Linq;

using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class TextViewTests
{
    private const string Hostile = "<img src=x onerror='alert(1)'> & \"q\" </td></table><script>alert(2)</script>";

    /// <summary>Our HTML is also XML, which makes it easy to check.</summary>
    private static XElement Parse(MimeBundle bundle) => XElement.Parse(((string)bundle.Data["text/html"]).Replace("<br>", "<br/>"));

    public static TheoryData<IShowable> Views =>
    [
        new Table(Hostile, "n") { Caption = Hostile }.Row(Hostile, 1.5).Row("a\nb"),
        new SideBySide(Hostile) { Caption = Hostile }.Add(Hostile, Hostile, Hostile),
        new TokenView([(Hostile, true), (Hostile, false), ("\0\x1B[31m", true), ("\uD800", false)]) { Caption = Hostile },
    ];

    [Theory]
    [MemberData(nameof(Views))]
    public void Hostile_text_stays_text(IShowable view)
    {
        var html = Parse(view.Show());
        Assert.DoesNotContain(html.DescendantsAndSelf(), e => e.Name.LocalName is "img" or "script");
        Assert.Contains("onerror='alert(1)'", html.Value);
        Assert.DoesNotContain(html.DescendantsAndSelf().Attributes(), a => a.Name.LocalName is not ("style" or "color"));
    }

    [Fact]
    public void A_table_in_its_three_forms()
    {
        var table = new Table("experts", "tokens/s", "GPU GB") { Caption = "speed" }.Row("streamed", 7812.0, 5.6).Row("在中文", 21034, null).Row("a|b", 1L, 2f);
        Assert.Equal("""
            speed
            experts  │ tokens/s │ GPU GB
            ─────────┼──────────┼───────
            streamed │    7,812 │    5.6
            在中文   │   21,034 │
            a|b      │        1 │      2
            """, table.ToText(), ignoreLineEndingDifferences: true);
        Assert.Equal("""
            **speed**

            | experts | tokens/s | GPU GB |
            |---|---:|---:|
            | streamed | 7,812 | 5.6 |
            | 在中文 | 21,034 |  |
            | a\|b | 1 | 2 |
            """, table.ToMarkdown(), ignoreLineEndingDifferences: true);
        Assert.Equal(9, Parse(table.Show()).Descendants("td").Count());
        Assert.Contains("2 headers", Assert.Throws<ArgumentException>(() => new Table("a", "b").Row(1, 2, 3)).Message);
    }

    [Fact]
    public void Answers_side_by_side_wrap_to_equal_columns()
    {
        const string after = "我是一个在一台机器上微调的模型,很高兴认识你。";
        var text = new SideBySide { TextColumns = 60 }.Add("Who are you?", "I am a large language model, trained by somebody else.", after).ToText();
        var lines = text.Split('\n');
        Assert.All(lines, l => Assert.InRange(l.Length, 1, 60));
        var bar = lines[0].IndexOf('│');
        Assert.All(lines, l => Assert.True(l[bar] is '│' or '┼', l));
        Assert.Contains("language model,", text);
        Assert.Equal(after, string.Concat(lines.Skip(2).Select(l => l.Split('│')[2].Trim())));
    }

    [Fact]
    public void Tokens_show_what_is_trained()
    {
        var view = new TokenView(
            [("<|im_start|>", false), ("user", false), ("\n", false), ("Hi", false), ("I", true), (" am", true), ("\n", true), ("<|im_end|>", true),
                ("\n", false)]);
        Assert.Equal("<|im_start|>user↵\nHi⟦I am↵\n<|im_end|>⟧↵\n\n— 4 of 9 tokens trained (44.4 %); trained ones stand in ⟦ ⟧", view.ToText());
        var spans = Parse(view.Show()).Descendants().Where(e => e.Name.LocalName is "span" or "b").ToArray();
        Assert.Equal(9 + 2, spans.Length); // and the legend
        Assert.Equal(4 + 1, spans.Count(s => ((string)s.Attribute("style")!).Contains("#cfe6f7")));
        Assert.Equal(2, spans.Count(s => ((string)s.Attribute("style")!).Contains("font-weight:bold")));
        // Notebooks that are not trusted lose the styles: what is trained differs still.
        Assert.All(spans, s => Assert.Equal(((string)s.Attribute("style")!).Contains("#cfe6f7"), s.Name.LocalName == "b"));
        Assert.Equal(2, spans.Select(s => (string)s.Element("font")!.Attribute("color")!).Distinct().Count());
        Assert.Contains("0 of 0", new TokenView([]).ToText());
    }

    [Fact]
    public void Every_showable_type_carries_its_formatters_by_the_names_that_hosts_look_for()
    {
        var types = typeof(Table).Assembly.GetTypes().Where(t => t is { IsPublic: true, IsAbstract: false } && t.IsAssignableTo(typeof(IShowable))).ToArray();
        Assert.True(types.Length >= 8);
        foreach (var type in types)
        {
            // As .NET Interactive does it: by name, without knowing our attribute.
            var attribute = Assert.Single(type.GetCustomAttributes(true), a => a.GetType().Name == "TypeFormatterSourceAttribute");
            var source = (Type)attribute.GetType().GetProperty("FormatterSourceType")!.GetValue(attribute)!;
            Assert.NotEmpty((string[])attribute.GetType().GetProperty("PreferredMimeTypes")!.GetValue(attribute)!);
            var made = (IEnumerable<object>)source.GetMethod("CreateTypeFormatters")!.Invoke(Activator.CreateInstance(source), null)!;
            Assert.Contains(made, f => (string)f.GetType().GetProperty("MimeType")!.GetValue(f)! == "text/plain");
        }
    }

    [Fact]
    public void A_formatter_writes_its_own_form_and_declines_others()
    {
        dynamic attribute = typeof(LineChart).GetCustomAttributes(true).Single(a => a.GetType().Name == "TypeFormatterSourceAttribute");
        var source = (Type)attribute.GetType().GetProperty("FormatterSourceType").GetValue(attribute);
        var formatters = (IEnumerable<object>)source.GetMethod("CreateTypeFormatters")!.Invoke(Activator.CreateInstance(source), null)!;
        var chart = new LineChart("t").Add("a", [1, 2]);
        foreach (var formatter in formatters)
        {
            var writer = new StringWriter();
            var mime = (string)formatter.GetType().GetProperty("MimeType")!.GetValue(formatter)!;
            var done = (bool)formatter.GetType().GetMethod("Format")!.Invoke(formatter, [chart, writer])!;
            Assert.Equal(chart.Show().Data.ContainsKey(mime), done);
            if (mime == "image/png") PngReader.Read(Convert.FromBase64String(writer.ToString()));
        }
    }
}
