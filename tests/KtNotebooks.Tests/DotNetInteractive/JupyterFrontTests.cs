using System.Text.Json;
using System.Text.Json.Serialization;

using KtNotebooks.DotNetInteractive;

using Xunit;

namespace KtNotebooks.Tests.DotNetInteractive;

/// <summary>Options of System.Text.Json that are in use take a converter more: what the extension does to .NET Interactive's front end.</summary>
public sealed class JupyterFrontTests
{
    [Fact]
    public void Options_in_use_learn_to_write_a_type_in_another_way()
    {
        var options = new JsonSerializerOptions();
        var other = new JsonSerializerOptions();
        Assert.Equal("""{"Name":"a"}""", JsonSerializer.Serialize(new Named("a"), options));
        Assert.Equal("""{"Name":"a"}""", JsonSerializer.Serialize(new Named("a"), other));
        Assert.True(options.IsReadOnly);
        Assert.True(JupyterFront.TryAdd(options, new Loud()));
        Assert.Equal("\"A\"", JsonSerializer.Serialize(new Named("a"), options));
        Assert.Equal("""{"Name":"a"}""", JsonSerializer.Serialize(new Named("a"), other)); // equal options share what they know
        Assert.True(options.IsReadOnly);
    }

    private sealed record Named(string Name);

    private sealed class Loud : JsonConverter<Named>
    {
        public override Named Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => new(reader.GetString()!);

        public override void Write(Utf8JsonWriter writer, Named value, JsonSerializerOptions options) => writer.WriteStringValue(value.Name.ToUpperInvariant());
    }
}
