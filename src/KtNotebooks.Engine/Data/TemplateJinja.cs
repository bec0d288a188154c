namespace KtNotebooks.Data;

/// <summary>
/// A template as the Jinja that tokenizer_config.json holds as chat_template, so that a model which was trained with it is told conversations in the same
/// form by transformers, vLLM and `template: auto`. As LLaMA-Factory writes it, a question brings what an answer begins with, with add_generation_prompt or
/// without.
/// </summary>
public static class TemplateJinja
{
    /// <summary>Its text; null for a template that Jinja of this form cannot tell: one with thoughts, or whose answers are ended by what follows.</summary>
    public static string? Of(Template template)
    {
        ArgumentNullException.ThrowIfNull(template);
        if (template.Chat is not null || template.Thinking is not null || template.EfficientEos) return null;
        var eos = template.ReplaceEos ? Quoted(template.StopWords[0]) : "eos_token";
        string Told(IReadOnlyList<Slot> slots, string content) => string.Join(" + ", slots.SelectMany(slot => Parts(slot, content, eos)));
        var system = template.DefaultSystem is { } words ? Quoted(words) : "''";
        var prefix = Told(template.Prefix, "''");
        return "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% set messages = messages[1:] %}{% else %}"
            + "{% set system_message = " + system + " %}{% endif %}"
            + (prefix.Length > 0 ? "{{ " + prefix + " }}" : "")
            + "{% if system_message %}{{ " + Told(template.System, "system_message") + " }}{% endif %}{% for message in messages %}"
            + "{% if message['role'] == 'user' %}{{ " + Told(template.User, "message['content']") + " }}"
            + "{% elif message['role'] == 'assistant' %}{{ " + Told(template.Assistant, "message['content']") + " }}{% endif %}{% endfor %}";
    }

    private static IEnumerable<string> Parts(Slot slot, string content, string eos)
    {
        string[] parts = slot switch
        {
            Slot.Text(var before, null) => [Quoted(before)],
            Slot.Text(var before, var after) => [Quoted(before), content, Quoted(after)],
            Slot.Token(var token) => [Quoted(token)],
            Slot.BosToken => ["bos_token"],
            _ => [eos],
        };
        return parts.Where(part => part != "''");
    }

    private static string Quoted(string text) => "'" + text.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("'", "\\'", StringComparison.Ordinal)
        .Replace("\n", "\\n", StringComparison.Ordinal) + "'";
}
