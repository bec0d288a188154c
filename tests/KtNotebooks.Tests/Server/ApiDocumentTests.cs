using System.Text.RegularExpressions;

using KtNotebooks.Generation;

using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>docs/api.md names every endpoint that there is, and none that is not; and every field that draws depend on.</summary>
public sealed partial class ApiDocumentTests
{
    private static readonly string Document = File.ReadAllText(Path.Combine(Checkout.Root, "docs/api.md"));

    [Fact]
    public void Every_endpoint_is_named()
    {
        var source = File.ReadAllText(Path.Combine(Checkout.Root, "src/KtNotebooks.Server/Http/Endpoints.cs"));
        string[] there = [.. Added().Matches(source.Replace("{**model}", "NAME", StringComparison.Ordinal))
            .Select(m => $"{m.Groups[1].Value} {m.Groups[2].Value}")];
        string[] named = [.. Named().Matches(Document).Select(m => m.Groups[1].Value)];
        Assert.Equal(there.Order(), named.Order());
    }

    [Fact]
    public void Every_field_of_a_draw_is_named()
    {
        string[] known = [.. typeof(Sampling).GetProperties().Select(p => Capital().Replace(p.Name, "_$0").TrimStart('_').ToLowerInvariant())
            .Where(name => name is not ("max_new_tokens" or "equality_contract"))];
        Assert.All(known, name => Assert.Contains($"`{name}`", Document, StringComparison.Ordinal));
    }

    [GeneratedRegex("Add\\(\"(GET|POST)\", \"([^\"]+)\"")]
    private static partial Regex Added();

    [GeneratedRegex("`((?:GET|POST) /[^`]*)`")]
    private static partial Regex Named();

    [GeneratedRegex("[A-Z]")]
    private static partial Regex Capital();
}
