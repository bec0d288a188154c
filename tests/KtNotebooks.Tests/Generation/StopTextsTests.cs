using KtNotebooks.Generation;

using Xunit;

namespace KtNotebooks.Tests.Generation;

public class StopTextsTests
{
    /// <summary>Random texts of few letters, cut anywhere: what comes out stands before the stop text that is complete first.</summary>
    [Fact]
    public void The_first_stop_text_ends_the_stream_wherever_it_is_cut()
    {
        var random = new Random(1);
        string Text(int most) => string.Concat(Enumerable.Range(0, 1 + random.Next(most)).Select(_ => "abc"[random.Next(3)]));
        var found = 0;
        for (var n = 0; n < 3000; n++)
        {
            string[] stops = [.. Enumerable.Range(0, random.Next(4)).Select(_ => Text(5))];
            var text = Text(40);
            var first = stops.Select(s => (At: text.IndexOf(s, StringComparison.Ordinal), s.Length)).Where(s => s.At >= 0).OrderBy(s => s.At + s.Length)
                .ThenBy(s => s.At).ToArray();
            var end = first.Length == 0 ? text.Length : first[0].At;
            var stream = new StopTexts(stops);
            var said = "";
            for (var i = 0; i < text.Length;)
            {
                var length = Math.Min(text.Length - i, random.Next(4));
                said += stream.Push(text.Substring(i, length));
                Assert.StartsWith(said, text[..end], StringComparison.Ordinal);
                i += length;
            }
            said += stream.Flush();
            Assert.Equal(text[..end], said);
            Assert.Equal(first.Length > 0, stream.Found);
            if (stream.Found) found++;
        }
        Assert.InRange(found, 500, 2900);
    }
}
