using KtNotebooks.Configuration;
using KtNotebooks.Generation;
using KtNotebooks.Tests.Tokenizers;

using Xunit;

namespace KtNotebooks.Tests.Generation;

public sealed class GenerationConfigTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_key_comes_before_the_file_and_the_file_before_the_default()
    {
        _folder.Write("generation_config.json", """{"do_sample": true, "temperature": 0.6, "top_k": 20, "max_new_tokens": null, "eos_token_id": 1}""");
        var (_, sampling, _, notes) = ChatSession.ReadKeys(Settings.Read([$"model_name_or_path={_folder.Path}", "template=deepseek", "top_k=5"]));
        Assert.Equal(new Sampling(Temperature: 0.6, TopK: 5), sampling);
        Assert.Equal([$"as {_folder.Path}/generation_config.json, top_k say: drawn at temperature 0.6, top_p 0.7, top_k 5"], notes);
    }

    [Fact]
    public void Who_gives_a_temperature_wants_draws()
    {
        _folder.Write("generation_config.json", """{"do_sample": false}""");
        bool Draws(params string[] keys) => ChatSession.ReadKeys(Settings.Read([$"model_name_or_path={_folder.Path}", "template=deepseek", .. keys]))
            .Sampling.DoSample;
        Assert.False(Draws());
        Assert.True(Draws("temperature=0.7"));
        Assert.True(Draws("top_p=0.5"));
        Assert.False(Draws("temperature=0.7", "do_sample=false"));
        Assert.False(Draws("max_new_tokens=7"));
    }

    [Theory]
    [InlineData(null)]
    [InlineData("""{"eos_token_id": [1, 2]}""")]
    public void Without_it_LLaMA_Factory_s_defaults_hold(string? text)
    {
        if (text is not null) _folder.Write("generation_config.json", text);
        var (_, sampling, _, notes) = ChatSession.ReadKeys(Settings.Read([$"model_name_or_path={_folder.Path}", "template=deepseek"]));
        Assert.Equal((true, 0.95, 0.7, 50, 1024), (sampling.DoSample, sampling.Temperature, sampling.TopP, sampling.TopK, sampling.MaxNewTokens));
        Assert.Empty(notes);
    }

    [Theory]
    [InlineData("""{"temperature": "hot"}""", "'temperature' must be a number, but is a text")]
    [InlineData("""{"do_sample": 1}""", "'do_sample' must be true or false, but is 1")]
    [InlineData("""{"top_k": 1.5}""", "'top_k' must be a whole number, but is 1.5")]
    [InlineData("""{"top_p": 0}""", "top_p must be in (0, 1], but is 0")]
    public void A_wrong_value_is_named_with_its_file(string text, string message)
    {
        var file = _folder.Write("generation_config.json", text);
        Assert.Equal($"{file}: {message}", Assert.Throws<InvalidDataException>(() => GenerationConfig.Read(_folder.Path)).Message);
    }

    [Fact]
    public void The_built_in_model_takes_the_likeliest_token() =>
        Assert.False(GenerationConfig.Read(Path.Combine(Checkout.Root, "notebooks/models/kt-tiny"))!.DoSample);
}
