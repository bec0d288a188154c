using KtNotebooks.Configuration;
using KtNotebooks.Data;
using KtNotebooks.Lora;
using KtNotebooks.Models;
using KtNotebooks.Tokenizers;
using KtNotebooks.Weights;

namespace KtNotebooks.Generation;

/// <summary>
/// A model, its tokenizer, a template and a conversation. Keys are LLaMA-Factory's: model_name_or_path, adapter_name_or_path (a list is several by name, of
/// which the first answers), template, default_system, do_sample, temperature, top_p, top_k, max_new_tokens, repetition_penalty, seed, infer_dtype,
/// cpu_infer, log_level.
/// </summary>
public sealed class ChatSession : IDisposable
{
    /// <summary>Tokens of finished turns that are kept, so that the next turn computes its new ones alone.</summary>
    private const int KeptTokens = 65536;

    private readonly List<Message> _messages = [];
    private readonly string? _system;
    private readonly Scheduler _scheduler;
    private bool _owned;

    /// <summary>With a model of the caller's, which stays the caller's to free.</summary>
    public ChatSession(CausalLm model, Tokenizer tokenizer, Template template, Sampling sampling, string? system = null)
    {
        (Model, Tokenizer, Template, Sampling, _system) = (model, tokenizer, template, sampling.Checked(), system);
        _scheduler = new Scheduler(model, tokenizer, new SchedulerSettings
        {
            PromptRows = int.MaxValue,
            IdleTokens = Math.Min(model.Info.MaxPositions, KeptTokens),
            RowsAlike = false, // one token alone may read packed codes, which a prompt's rows do not
        });
    }

    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    public Template Template { get; }

    /// <summary>What a person should know before the first question.</summary>
    public IReadOnlyList<string> Notes { get; private init; } = [];

    /// <summary>Rows that the model has computed for this session: a turn adds its new tokens alone.</summary>
    public long Rows => _scheduler.Rows;

    /// <summary>May be changed between turns.</summary>
    public Sampling Sampling { get; set; }

    /// <summary>
    /// The adapter that answers: one of <see cref="NamedAdapters.Of"/>, `base`, or null for the attached one. May be changed between turns; the
    /// conversation goes on.
    /// </summary>
    public string? Adapter
    {
        get;
        set
        {
            NamedAdapters.Check(Model, value);
            field = value;
        }
    }

    /// <summary>Loads base and adapters as a config or key=value pairs say.</summary>
    public static ChatSession Open(params string[] arguments) => Open(null, arguments);

    /// <param name="loading">Told how far the model has come in.</param>
    /// <param name="arguments">A YAML file, the folder of a model or of an adapter, and key=value pairs over it.</param>
    public static ChatSession Open(Action<WorkProgress>? loading, string[] arguments)
    {
        var (completed, told) = ModelTarget.Complete(arguments);
        var c = Settings.Read(completed);
        var (keys, sampling, system, asMade) = ReadKeys(c);
        var notes = c.Finish("kt chat");
        keys.Check();
        var (model, tokenizer) = (keys with { Adapters = [] }).Load(loading); // adapters lie beside each other here, to be switched
        try
        {
            var names = NamedAdapters.Load(model, keys.Adapters, keys.Log);
            return new ChatSession(model, tokenizer, keys.Template, sampling, system)
            {
                Adapter = names.Count > 0 ? names[0] : null,
                _owned = true,
                Notes = [.. told, .. notes, .. asMade, .. keys.Notes, .. model.Notes],
            };
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>What its keys say, before anything is loaded.</summary>
    public static (ModelKeys Model, Sampling Sampling, string? System, IReadOnlyList<string> Notes) ReadKeys(Settings c)
    {
        var keys = ModelKeys.Read(c);
        var asMade = GenerationConfig.Read(keys.Path);
        var sampling = ModelKeys.ReadSampling(c, asMade);
        var given = ModelKeys.SamplingGiven(c);
        var source = (asMade is null ? [] : new[] { Path.Combine(keys.Path, GenerationConfig.FileName) }).Concat(given).ToArray();
        var note = source.Length == 0 ? [] : new[] { $"as {string.Join(", ", source)} say{(source.Length == 1 ? "s" : "")}: {sampling.Describe()}" };
        return (keys, sampling, c.Text("default_system"), note);
    }

    /// <summary>Forgets the conversation.</summary>
    public void Clear() => _messages.Clear();

    /// <summary>Why the last whole answer ended; <see cref="FinishReason.Length"/>: it was cut.</summary>
    public FinishReason Ended { get; private set; }

    /// <summary>
    /// Adds a question and yields the answer in pieces of whole characters; question and answer join the conversation when the answer is complete.
    /// </summary>
    public IEnumerable<string> Ask(string question, CancellationToken cancel = default)
    {
        // Rows that a cached beginning cuts into other passes are rounded otherwise, so a conversation begins with nothing of the ones before it: the same
        // questions get the same answers, whatever was asked earlier.
        if (_messages.Count == 0) _scheduler.ForgetPrompts();
        var asked = new Message(Role.User, question);
        var prompt = Template.EncodePrompt(Tokenizer, [.. _messages, asked], _system);
        var stops = Template.StopIds(Tokenizer).ToHashSet();
        var answer = _scheduler.Add(new GenerationRequest(prompt, Sampling) { StopIds = stops, Adapter = Adapter });
        foreach (var token in _scheduler.Read(answer, cancel))
            if (token.Text.Length > 0) yield return token.Text;
        Ended = answer.Reason;
        _messages.Add(asked);
        _messages.Add(new Message(Role.Assistant, answer.Text));
    }

    /// <summary>The whole answer to one question, outside the conversation, whose next turn computes it again from its beginning.</summary>
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

    /// <summary>Frees what it kept of the conversation, and the model, where it was loaded here.</summary>
    public void Dispose()
    {
        _scheduler.Dispose();
        if (_owned) Model.Dispose();
    }
}
