using System.Collections;
using System.Reflection;
using System.Text;

namespace Microsoft.DotNet.Interactive.Formatting;

/// <summary>Values as plain text: scalars and types with their own ToString by that, sequences in brackets, other objects with their properties.</summary>
internal static class PlainText
{
    private const int ShortLength = 80;

    internal static string Of(object? value)
    {
        var text = new StringBuilder();
        Write(text, value, 0);
        return text.ToString();
    }

    /// <summary>One line of at most 80 characters.</summary>
    internal static string Short(object? value)
    {
        var text = Of(value).ReplaceLineEndings(" ");
        return text.Length <= ShortLength ? text : text[..(ShortLength - 1)] + "…";
    }

    internal static bool IsScalar(Type type) =>
        type.IsPrimitive || type.IsEnum || type == typeof(string) || typeof(IFormattable).IsAssignableFrom(type) || typeof(Type).IsAssignableFrom(type)
        || typeof(Exception).IsAssignableFrom(type) || Nullable.GetUnderlyingType(type) is { } inner && IsScalar(inner);

    /// <summary>Public properties and fields, in the order of their declaration. A property that throws shows its exception's message.</summary>
    internal static List<(string Name, object? Value)> Members(object value) =>
    [
        .. value.GetType().GetProperties(BindingFlags.Public | BindingFlags.Instance)
        .Where(p => p.CanRead && p.GetIndexParameters().Length == 0 && !p.PropertyType.IsByRefLike)
            .Select(p => (p.Name, Try(() => p.GetValue(value)))),
        .. value.GetType().GetFields(BindingFlags.Public | BindingFlags.Instance).Select(f => (f.Name, f.GetValue(value))),
    ];

    internal static bool HasOwnText(Type type)
    {
        var owner = type.GetMethod(nameof(ToString), Type.EmptyTypes)?.DeclaringType;
        return owner != typeof(object) && owner != typeof(ValueType);
    }

    private static void Write(StringBuilder text, object? value, int depth)
    {
        switch (value)
        {
            case null: text.Append(Formatter.NullString); break;
            case AspNetCore.Html.IHtmlContent html: text.Append(HtmlText.Of(html)); break;
            case string s: text.Append(s); break;
            case var v when IsScalar(v.GetType()): text.Append(v); break;
            case var _ when depth >= Formatter.RecursionLimit: text.Append(TypeNames.Of(value.GetType())); break;
            case IDictionary map:
                Join(text, map.Cast<object?>(), "{ ", " }",
                e => { var (k, v) = Entry(e); Write(text, k, depth + 1); text.Append(": "); Write(text, v, depth + 1); }); break;
            case IEnumerable items when !HasOwnText(value.GetType()): Join(text, items.Cast<object?>(), "[ ", " ]", i => Write(text, i, depth + 1)); break;
            case var _ when HasOwnText(value.GetType()): text.Append(value); break;
            default:
                text.Append(TypeNames.Of(value.GetType()));
                Join(text, Members(value).Cast<object?>(), " { ", " }",
                    m => { var (n, v) = ((string, object?))m!; text.Append(n).Append(": "); Write(text, v, depth + 1); });
                break;
        }
    }

    internal static (object? Key, object? Value) Entry(object? entry) => entry is DictionaryEntry e ? (e.Key, e.Value)
        : (Get(entry!, "Key"), Get(entry!, "Value"));

    private static object? Get(object entry, string property) => entry.GetType().GetProperty(property)?.GetValue(entry);

    private static object? Try(Func<object?> get)
    {
        try
        {
            return get();
        }
        catch (TargetInvocationException e)
        {
            return $"({e.InnerException?.Message})";
        }
    }

    private static void Join(StringBuilder text, IEnumerable<object?> items, string open, string close, Action<object?> write)
    {
        text.Append(open);
        var count = 0;
        foreach (var item in items)
        {
            if (count == Formatter.ListExpansionLimit)
            {
                text.Append(", …");
                break;
            }
            if (count++ > 0) text.Append(", ");
            write(item);
        }
        text.Append(close);
    }
}

internal static class TypeNames
{
    /// <summary>A type as it is written in C#, without namespaces: List&lt;Int32&gt;.</summary>
    internal static string Of(Type type)
    {
        if (type.IsArray) return $"{Of(type.GetElementType()!)}[{new string(',', type.GetArrayRank() - 1)}]";
        if (type.Name.StartsWith("<>", StringComparison.Ordinal)) return "";
        if (!type.IsGenericType) return type.Name;
        var tick = type.Name.IndexOf('`');
        return tick < 0 ? type.Name : $"{type.Name[..tick]}<{string.Join(", ", type.GetGenericArguments().Select(Of))}>";
    }
}
