using System.Text.Json;

using KtNotebooks.Files;

using Xunit;

namespace KtNotebooks.Tests.Files;

/// <summary>Whatever is wrong in a JSON file is said in our words: a sentence of .NET's that nobody translated fails here.</summary>
public sealed class JsonReasonTests
{
    [Theory]
    [InlineData("# no", "'#' cannot begin a value")]
    [InlineData("{a: 1}", "'a' cannot begin a name")]
    [InlineData("{\"a\" 1}", "'1' cannot follow a name: a colon")]
    [InlineData("{\"a\": 1 \"b\": 2}", "cannot follow a value: a comma")]
    [InlineData("[1, 2,]", "a comma before the closing bracket")]
    [InlineData("{\"a\": 1,}", "a comma before the closing bracket")]
    [InlineData("{\"a\": \"b", "the file ends inside a text")]
    [InlineData("{\"a\": [\"b\"", "the file ends before")]
    [InlineData("[1", "or the file ends there")]
    [InlineData("", "there is nothing in it")]
    [InlineData("{} {}", "'{' stands behind the end")]
    [InlineData("[\"\\q\"]", "cannot stand before 'q' in a text")]
    [InlineData("[\"a\nb\"]", "cannot stand in a text as it is")]
    [InlineData("[1x]", "'x' cannot end a number")]
    public void The_reason_is_in_our_words(string text, string expected) => Assert.Contains(expected, JsonSource.Reason(Failure(text)));

    [Fact]
    public void Nesting_too() => Assert.Contains("nested too deep", JsonSource.Reason(Failure(new string('[', 200))));

    private static JsonException Failure(string text) => Assert.ThrowsAny<JsonException>(() => JsonDocument.Parse(text));
}
