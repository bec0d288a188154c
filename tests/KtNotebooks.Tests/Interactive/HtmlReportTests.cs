using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Interactive;

public class HtmlReportTests
{
    [Fact]
    public void A_page_holds_everything_and_needs_nothing()
    {
        var html = new HtmlReport("Tour <1>", "six & more").Heading("One").Paragraph("a < b").Heading("Two").Heading("Three").Heading("inner", 3)
            .Add(new LineChart("t").Add("a", [1, 2]), "A caption").Add(new Table("x").Row(1)).Link("adapter/my file#1.json", "12 kB").ToHtml();
        Assert.StartsWith("<!DOCTYPE html>", html);
        Assert.Contains("<title>Tour &lt;1&gt;</title>", html);
        Assert.Contains("a &lt; b", html);
        Assert.Contains("<svg", html);
        Assert.Contains("<figcaption>A caption</figcaption>", html);
        Assert.Contains("href=\"adapter/my%20file%231.json\"", html);
        Assert.Contains("<a href=\"#s2\">Two</a>", html);
        Assert.DoesNotContain("<script", html);
        Assert.DoesNotContain("src=\"http", html);
        Assert.DoesNotContain("<link", html);
    }

    [Fact]
    public void Forms_with_scripts_are_passed_over()
    {
        var html = new HtmlReport("t").Add(new MimeBundle("plain & simple").With("text/html", "<SCRIPT>x()</SCRIPT>")).ToHtml();
        Assert.Contains("plain &amp; simple", html);
        Assert.DoesNotContain("x()", html);
    }

    [Fact]
    public void Prose_becomes_markup_and_hostile_prose_does_not()
    {
        var html = new HtmlReport("t").Prose("""
            # Loss
            The **mean** of `a < b` over *all* rows,
            see [here](https://example.org/?a=1&b=2) and [there](javascript:alert(1)).

            - one
            - two `x`
              more
              - inner

            1. first

            ![a picture](images/one.png) ![from afar](https://example.org/two.png) <javascript:alert(2)>

            | a | b |
            |---|---|
            | 1 | <i> |

            ```csharp
            var x = **not bold**;
            ```
            <script>alert(1)</script> 2 * 3 * 4, a lone ` tick
            """).ToHtml();
        Assert.Contains("<h2 id=\"s1\">Loss</h2>", html);
        Assert.Contains("<strong>mean</strong> of <code>a &lt; b</code> over <em>all</em>", html);
        Assert.Contains("<a href=\"https://example.org/?a=1&amp;b=2\">here</a>", html);
        Assert.DoesNotContain("href=\"javascript", html);
        Assert.Contains("<ul>\n<li>one</li>\n<li>two <code>x</code>\nmore\n<ul>\n<li>inner</li>\n</ul>\n</li>\n</ul>", html);
        Assert.Contains("<ol>\n<li>first</li>\n</ol>", html);
        Assert.Contains("<p><img src=\"images/one.png\" alt=\"a picture\" /> from afar javascript:alert(2)</p>", html);
        Assert.Contains("<div class=\"scroll\"><table>", html);
        Assert.Contains("&lt;i&gt;</td>", html);
        Assert.Contains("var x = **not bold**;\n</code></pre>", html);
        Assert.Contains("&lt;script&gt;alert(1)&lt;/script&gt; 2 * 3 * 4, a lone ` tick", html);
    }

    [Fact]
    public void A_notebook_gives_its_prose_and_outputs()
    {
        var path = Path.Combine(Path.GetTempPath(), $"kt-{Guid.NewGuid():N}.ipynb");
        try
        {
            File.WriteAllText(path, """
                { "nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
                  { "cell_type": "markdown", "metadata": {}, "source": ["# Chapter\n", "Some *prose*."] },
                  { "cell_type": "code", "metadata": {}, "execution_count": 1, "source": "folded code", "outputs": [
                    { "output_type": "stream", "name": "stdout", "text": ["\u001b[32mgreen\u001b[0m <text>\n"] },
                    { "output_type": "display_data", "metadata": {}, "data": { "image/svg+xml": ["<?xml version=\"1.0\"?>",
                    "<svg><title>chart</title></svg>"], "text/plain": "curve" } },
                    { "output_type": "display_data", "metadata": {}, "data": { "image/png": "iVBOR\nw0KGgo=", "text/plain": "picture" } },
                    { "output_type": "execute_result", "execution_count": 1, "metadata": {}, "data": { "text/plain": ["42"] } },
                    { "output_type": "error", "ename": "Boom", "evalue": "it broke", "traceback": [] } ] },
                  { "cell_type": "code", "metadata": {}, "execution_count": null, "source": "", "outputs": [] } ] }
                """);
            var html = NotebookHtml.Render(path).ToHtml();
            Assert.Contains(">Chapter</h2>", html);
            Assert.Contains("<em>prose</em>", html);
            Assert.Contains("<pre>green &lt;text&gt;</pre>", html);
            Assert.Contains("<figure><div class=\"scroll chart\"><svg><title>chart</title></svg></div></figure>", html);
            Assert.Contains("src=\"data:image/png;base64,iVBORw0KGgo=\"", html);
            Assert.Contains("<pre>42</pre>", html);
            Assert.Contains("<pre>Boom: it broke</pre>", html);
            Assert.Contains("<details open><summary>code</summary><pre><code>folded code</code>", html);
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public void A_file_that_is_no_notebook_says_so()
    {
        var path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, "not json");
            Assert.Contains("is not JSON", Assert.Throws<InvalidDataException>(() => NotebookHtml.Render(path)).Message);
            File.WriteAllText(path, "[]");
            Assert.Contains("\"cells\"", Assert.Throws<InvalidDataException>(() => NotebookHtml.Render(path)).Message);
        }
        finally
        {
            File.Delete(path);
        }
        Assert.Throws<FileNotFoundException>(() => NotebookHtml.Render("/nowhere.ipynb"));
    }
}
