using KtNotebooks.Interactive;

using Xunit;

namespace KtNotebooks.Tests;

public class SmokeTests
{
    [Fact]
    public void A_bundle_always_has_text() => Assert.Equal("x", new MimeBundle("x").With("image/png", new byte[1]).Text);
}
