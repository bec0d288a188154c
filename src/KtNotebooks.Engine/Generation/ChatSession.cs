using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Placement;
using KtNotebooks.Tensors;
using KtNotebooks.Tokenizers;

namespace KtNotebooks.Generation;

/// <summary>
/// A model, its tokenizer, a template and a conversation. Keys are LLaMA-Factory's: model_name_or_path, adapter_name_or_path, template, default_system, do_sample, temperature, top_p, top_k,
/// max_new_tokens, repetition_penalty, seed, infer_dtype, cpu_infer.
/// </summary>
public sealed class ChatSession : IDisposable
{
    private readonly List<Message> _messages = [];
    private readonly string? _system;

    public ChatSession(CausalLm model, Tokenizer tokenizer, Template template, Sampling sampling, string? system = null)
    {
        (Model, Tokenizer, Template, Sampling, _system) = (model, tokenizer, template, sampling.Checked(), system);
    }

    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    public Template Template { get; }

    /// <summary>May be changed between turns.</summary>
    public Sampling Sampling { get; set; }

    /// <summary>Loads base and adapter as a config or key=value pairs say.</summary>
    public static ChatSession Open(params string[] arguments)
    {
        var c = Settings.Read(arguments);
        var path = c.Required("model_name_or_path");
        var adapter = c.Text("adapter_name_or_path");
        var template = Templates.Get(c.Text("template", "empty"));
        var defaults = new Sampling();
        var sampling = new Sampling(c.Int("max_new_tokens", defaults.MaxNewTokens), c.Flag("do_sample", true), c.Number("temperature", defaults.Temperature), c.Number("top_p", defaults.TopP), c.Int("top_k", defaults.TopK), c.Number("repetition_penalty", 1), (ulong)c.Int("seed", 42)).Checked();
        var system = c.Text("default_system");
        var type = c.OneOf("infer_dtype", "auto", "auto", "float32", "bfloat16") == "float32" ? DType.F32 : DType.BF16;
        var settings = PlacementSettings.Read(c);
        if (settings.Threads is { } threads) RowParallel.Threads = threads;
        c.OneOf("infer_backend", "huggingface", "huggingface", "ktransformers");
        c.OneOf("finetuning_type", "lora", "lora");
        c.WithoutEffect("trust_remote_code", "use_kt");
        c.RefuseUnknown();
        var tokenizer = Tokenizer.Load(path);
        var placement = ModelFolder.Place(path, settings);
        placement.RequireDevices();
        var model = ModelFolder.Load(path, type, placement);
        try
        {
            if (adapter is not null) AdapterFolder.Load(model, adapter);
            return new ChatSession(model, tokenizer, template, sampling, system);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>Forgets the conversation.</summary>
    public void Clear() => _messages.Clear();

    /// <summary>Adds a question and yields the answer in pieces of whole characters; question and answer join the conversation when the answer is complete.</summary>
    public IEnumerable<string> Ask(string question, CancellationToken cancel = default)
    {
        var asked = new Message(Role.User, question);
        var prompt = Template.EncodePrompt(Tokenizer, [.. _messages, asked], _system);
        var stops = Template.StopIds(Tokenizer).ToHashSet();
        var decoder = new StreamDecoder(Tokenizer, skipSpecial: true);
        var answer = new System.Text.StringBuilder();
        foreach (var id in new Generator(Model).Generate(prompt, Sampling, (IReadOnlySet<int>)stops, cancel))
        {
            var piece = decoder.Push(id);
            if (piece.Length == 0) continue;
            answer.Append(piece);
            yield return piece;
        }
        var rest = decoder.Flush();
        if (rest.Length > 0) yield return rest;
        _messages.Add(asked);
        _messages.Add(new Message(Role.Assistant, answer.Append(rest).ToString()));
    }

    /// <summary>The whole answer to one question, outside the conversation.</summary>
    public string Answer(string question, CancellationToken cancel = default)
    {
        var before = _messages.ToArray();
        _messages.Clear();
        try
        {
            return string.Concat(Ask(question, cancel)).Trim();
        }
        finally
        {
            _messages.Clear();
            _messages.AddRange(before);
        }
    }

    public void Dispose() => Model.Dispose();
}
