using Xunit;

namespace KtNotebooks.Tests.Server;

/// <summary>
/// The official clients of OpenAI and Anthropic for Node, from npm; without npm or its registry skipped, and KT_REQUIRE=npm makes that a failure.
/// </summary>
public sealed class NpmClientTests(TinyServer tiny) : IClassFixture<TinyServer>
{
    private static readonly string[] Packages = ["openai@7.55.0", "@anthropic-ai/sdk@1.10.0"];

    [Fact]
    public void They_chat_stream_call_tools_and_hear_errors()
    {
        var root = Path.Combine(Checkout.Root, "artifacts", "npm-clients");
        Require.Hardware("npm", NpmPackages.Install(root, Packages));
        var script = Path.Combine(Checkout.Root, "tests", "KtNotebooks.Tests", "Server", "npm_clients.mjs");
        var (status, output, error) = NpmPackages.Run("node", script, Path.Combine(root, "node_modules"), tiny.Server.Url.ToString(), TinyServer.Key);
        Assert.True(status == 0, output + error);
        Assert.Contains("kt-tiny", output, StringComparison.Ordinal);
    }
}
