using KtNotebooks.Generation;
using KtNotebooks.Lora;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Generation;

/// <summary>`kt chat FOLDER`.</summary>
public sealed class ModelTargetTests(Workplace place) : IClassFixture<Workplace>
{
    private const string V2 = "{% for m in messages %}{{ 'User: ' + m['content'] + '\\n\\n' }}{% endfor %}{{ 'Assistant:' }}";

    [Fact]
    public void A_model_folder_stands_for_its_keys_and_the_template_that_it_names()
    {
        var folder = Model(V2);
        var (arguments, notes) = ModelTarget.Complete([folder, "seed=3"]);
        Assert.Equal([$"model_name_or_path={folder}", "seed=3", "template=deepseek"], arguments);
        Assert.Equal([$"template deepseek: the chat template in {folder} is of that form"], notes);
    }

    [Fact]
    public void A_template_that_is_given_stays()
    {
        var folder = Model(V2);
        Assert.Equal([$"model_name_or_path={folder}", "template=glm4"], ModelTarget.Complete([folder, "template=glm4"]).Arguments);
        var file = place.Write("chat.yaml", $"model_name_or_path: {folder}\ntemplate: qwen3\n");
        Assert.Equal([file], ModelTarget.Complete([file]).Arguments);
    }

    [Fact]
    public void A_template_that_two_could_be_is_run_and_without_one_a_name_is_asked_for()
    {
        var folder = Model("{{ '<｜User｜>' }}{% if thinking %}{{ '<think>' }}{% endif %}");
        var (arguments, notes) = ModelTarget.Complete([folder]);
        Assert.Equal([$"model_name_or_path={folder}", "template=auto"], arguments);
        Assert.Equal([$"template auto: the chat template in {folder} is run"], notes);
        Assert.StartsWith($"command line: 'template' is required: {place.Model} does not say which it was made with; write template=NAME, one of empty, "
            + "deepseek,", Kt.Refuses("chat", place.Model), StringComparison.Ordinal);
    }

    [Fact]
    public void An_adapter_s_folder_brings_its_model_and_answers()
    {
        var (folder, adapter) = (Model(V2), Path.Combine(place.Root, "an-adapter"));
        using (var model = Tiny.Build())
        {
            LoraAdapter.Attach(model, new LoraSettings(2));
            AdapterFolder.Save(model, new LoraSettings(2), adapter, folder);
        }
        Assert.Equal([$"model_name_or_path={folder}", $"adapter_name_or_path={adapter}", "template=deepseek"], ModelTarget.Complete([adapter]).Arguments);
        Assert.Equal([$"adapter_name_or_path={adapter}", $"model_name_or_path={place.Model}", "template=deepseek"],
            ModelTarget.Complete([adapter, $"model_name_or_path={place.Model}", "template=deepseek"]).Arguments);
        var (exit, output, errors) = Kt.Run("chat", adapter);
        Assert.True(exit == 0, output + errors);
        Assert.Contains("template deepseek", output, StringComparison.Ordinal);
        // What it was trained with comes before what its base is, and a key before both.
        var trained = Path.Combine(adapter, "training_args.yaml");
        File.WriteAllText(trained, "stage: sft\ntemplate: empty\ndefault_system: 'Say: 1'\n");
        (var arguments, var notes) = ModelTarget.Complete([adapter]);
        Assert.Equal([$"model_name_or_path={folder}", $"adapter_name_or_path={adapter}", "template=empty", "default_system=\"Say: 1\""], arguments);
        Assert.Equal([$"template empty, default_system Say: 1: as the adapter was trained ({trained})"], notes);
        Assert.Equal("template=deepseek", ModelTarget.Complete([adapter, "template=deepseek"]).Arguments[^1]);
    }

    [Fact]
    public void What_is_neither_is_refused()
    {
        var folder = Path.GetDirectoryName(place.Write("neither/x.txt", ""))!;
        Assert.Equal($"{folder}: holds neither a model (config.json) nor an adapter (adapter_config.json)", Kt.Refuses("chat", folder));
        var nameless = Path.GetDirectoryName(place.Write("nameless/adapter_config.json", "{}"))!;
        Assert.Equal($"{nameless}/adapter_config.json: names no base_model_name_or_path; write model_name_or_path=FOLDER as well",
            Kt.Refuses("chat", nameless));
        Assert.StartsWith("x.gguf is a file of weights", Kt.Refuses("chat", "x.gguf"), StringComparison.Ordinal);
    }

    /// <summary>A copy of the tiny model with a chat template.</summary>
    private string Model(string template)
    {
        var folder = Path.Combine(place.Root, "model-" + Guid.NewGuid().ToString("n"));
        Checkout.Copy(place.Model, folder);
        File.WriteAllText(Path.Combine(folder, "chat_template.jinja"), template);
        return folder;
    }
}
