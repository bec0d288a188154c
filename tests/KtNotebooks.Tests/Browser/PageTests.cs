using System.Text.Json.Nodes;

using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests.Browser;

/// <summary>The page that `kt notebook html` makes, with the network cut: on a screen, on a telephone, in the dark.</summary>
public sealed class PageTests
{
    [Fact]
    public async Task A_page_needs_no_network_and_can_be_read_on_a_telephone_and_in_the_dark()
    {
        using var browser = await Chromium.Open();
        var page = Path.Combine(Directory.CreateTempSubdirectory("kt-page-").FullName, "05.html");
        try
        {
            NotebookHtml.Render(Path.Combine(Checkout.Root, "notebooks", "05-benchmark-tables.ipynb")).Save(page);
            await browser.CutTheNetwork();
            await browser.Width(1000);
            await browser.Go(new Uri(page).AbsoluteUri);
            await browser.Until("document.querySelectorAll('.chart svg').length == 4 && document.querySelectorAll('details pre').length > 5");
            Assert.Empty((JsonArray)(await browser.Value("performance.getEntriesByType('resource').map(r => r.name).filter(n => !n.startsWith('data:'))"))!);
            // No label of a chart leaves its picture, whatever fonts are here, and nothing runs off the page.
            const string Outside = """
                [...document.querySelectorAll('.chart svg text')].filter(t => {
                  const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
                  return a.left < b.left - 1 || a.right > b.right + 1; }).map(t => t.textContent)
                """;
            Assert.Empty((JsonArray)(await browser.Value(Outside))!);
            Assert.True((bool)(await browser.Value("document.documentElement.scrollWidth <= innerWidth"))!);
            Assert.Equal("none", (string?)await browser.Value("getComputedStyle(document.querySelector('.chart'), '::before').content"));
            await browser.Picture("page");

            await browser.Width(390, dark: true);
            await browser.Until("innerWidth == 390");
            Assert.True((bool)(await browser.Value("document.documentElement.scrollWidth <= innerWidth"))!, "it scrolls sideways as a whole");
            var smallest = (double)(await browser.Value("Math.min(...[...document.querySelectorAll('.chart svg text')]"
                + ".filter(t => t.getAttribute('font-size') >= 11).map(t => t.getBoundingClientRect().height))"))!;
            Assert.True(smallest >= 9, $"the smallest label is {smallest:F1} pixels high");
            // What is cut off at the side says so: a chart in words, a table by a shadow that is there until its end is reached.
            const string Silent = """
                [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1 && (e.classList.contains('chart')
                  ? !getComputedStyle(e, '::before').content.includes('swipe') : !getComputedStyle(e).backgroundAttachment.includes('scroll')))
                  .map(e => e.textContent.slice(0, 40))
                """;
            Assert.True((int)(await browser.Value("[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"))! > 4);
            Assert.Empty((JsonArray)(await browser.Value(Silent))!);
            Assert.Equal("rgb(13, 17, 23)", (string?)await browser.Value("getComputedStyle(document.body).backgroundColor"));
            await browser.Picture("page-telephone-dark");
        }
        finally
        {
            Directory.Delete(Path.GetDirectoryName(page)!, recursive: true);
        }
    }
}
