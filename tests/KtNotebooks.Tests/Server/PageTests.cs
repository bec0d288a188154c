using KtNotebooks.Server;
using KtNotebooks.Tests.Browser;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>The page in Chromium, driven as a person would: a question by keyboard, streamed answers side by side, stop and clear.</summary>
public sealed class PageTests(ServedAdapterTests.Two two) : IClassFixture<ServedAdapterTests.Two>
{
    [Fact]
    public async Task Base_and_adapter_answer_side_by_side()
    {
        using var page = await Chromium.Open();
        await page.Go(two.Server.Url.ToString());
        async Task<string> Text(string expression) => (await page.Value(expression))?.ToString() ?? "";
        await page.Until("document.body.dataset.ready === 'true'");
        // A field that is left empty is the model's own setting, as in kt chat.
        Assert.Equal("{}", await Text("JSON.stringify({...given('temperature', 'temperature'), ...given('tokens', 'max_tokens')})"));
        Assert.Equal("kt-tiny|cat", await Text("[...document.querySelectorAll('section')].map(s => s.dataset.model).join('|')"));
        await page.Value("document.getElementById('temperature').value = 0.7");
        await page.Value("document.getElementById('tokens').value = 12");
        await page.Value("document.getElementById('question').focus()");
        await page.Type("What is the capital of France?");
        await page.Press("Enter", 13);
        await page.Until("[...document.querySelectorAll('h2 output')].every(o => o.textContent.includes('tokens/s'))");
        Assert.Equal("true", await Text("[...document.querySelectorAll('h2 output')].every(o => /^\\d+ ms,( then)? \\d+ tokens\\/s$/.test(o.textContent))"));
        Assert.Equal("2", await Text("document.querySelectorAll('.turn.user').length"));
        Assert.Equal("true", await Text("[...document.querySelectorAll('.turn.assistant')].every(t => t.textContent.length > 0)"));
        Assert.Equal("0", await Text("document.querySelectorAll('.error').length"));
        // A long answer is stopped, and the conversation cleared.
        await page.Value("document.getElementById('tokens').value = 900");
        await page.Type("again");
        await page.Press("Enter", 13);
        await page.Until("!document.getElementById('stop').disabled");
        await page.Press("Escape", 27);
        await page.Until("document.getElementById('stop').disabled");
        await page.Value("document.getElementById('clear').click()");
        Assert.Equal("0", await Text("document.querySelectorAll('.turn').length"));
        // Cleared while an answer comes: nothing of it is left, neither to be seen nor to be asked along.
        await page.Type("once more");
        await page.Press("Enter", 13);
        await page.Until("[...document.querySelectorAll('.turn.assistant')].some(t => t.textContent.length > 0)");
        Assert.Equal("1", await Text("getComputedStyle(document.getElementById('stop')).opacity"));
        await page.Value("document.getElementById('clear').click()");
        await page.Until("document.getElementById('stop').disabled && getComputedStyle(document.getElementById('stop')).opacity < 1");
        Assert.Equal("0|", await Text("`${[...columns.values()].reduce((n, c) => n + c.messages.length, 0)}|"
            + "${[...columns.values()].map(c => c.speed.textContent).join('')}`"));
        // Dark where the system is dark; text stands out from the page either way.
        var light = await Text("getComputedStyle(document.body).backgroundColor");
        await page.Width(1000, dark: true);
        Assert.NotEqual(light, await Text("getComputedStyle(document.body).backgroundColor"));
        await page.Picture("chat-dark");
        // On a telephone nothing runs off the page, and what one needs is in view.
        await page.Width(390, dark: true);
        await page.Until("innerWidth === 390");
        Assert.Equal("true", await Text("document.documentElement.scrollWidth <= innerWidth && ['question', 'send', 'stop', 'clear'].every(id => "
            + "{ const r = document.getElementById(id).getBoundingClientRect(); return r.right <= innerWidth && r.bottom <= innerHeight; })"));
        await page.Picture("chat-telephone-dark");
        Assert.Empty(page.Complaints);
    }

    /// <summary>What stands in the way is said where one looks: a key that is wanted, a model that is not ticked, a server that has ended.</summary>
    [Fact]
    public async Task What_stands_in_the_way_is_said()
    {
        using var page = await Chromium.Open();
        var server = await ApiServer.StartAsync(two.Engine, new ApiSettings { Port = 0, Keys = ["right"] });
        await page.Go(server.Url.ToString());
        await page.Until("document.getElementById('keys').open");
        await page.Type("wrong");
        await page.Press("Enter", 13);
        await page.Until("document.getElementById('keys').open && document.getElementById('keys-why').textContent === 'this key is not known here'");
        await page.Type("right");
        await page.Press("Enter", 13);
        await page.Until("document.body.dataset.ready === 'true' && !document.getElementById('keys').open");
        await page.Value("document.querySelectorAll('#models input').forEach(box => box.click())");
        await page.Value("document.getElementById('question').focus()");
        await page.Type("a question");
        await page.Press("Enter", 13);
        await page.Until("document.getElementById('hint').textContent.startsWith('No model is ticked')");
        await page.Value("document.querySelector('#models input').click()");
        var port = server.Url.Port;
        await server.DisposeAsync();
        await page.Press("Enter", 13);
        await page.Until($"document.querySelector('.error')?.textContent === 'the server at 127.0.0.1:{port} cannot be reached; is it still running?'");
        Assert.DoesNotContain(page.Complaints, c => !c.Contains("401", StringComparison.Ordinal) && !c.Contains("ERR_CONNECTION", StringComparison.Ordinal));
    }
}
