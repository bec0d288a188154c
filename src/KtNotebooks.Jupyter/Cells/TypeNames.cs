namespace KtNotebooks.Jupyter.Cells;

/// <summary>Types as they are written in C#.</summary>
internal static class TypeNames
{
    /// <summary>Without namespaces: List&lt;Int32&gt;.</summary>
    internal static string Of(Type type) => Write(type, t => t.Name);

    /// <summary>As code that means just this type; null: code cannot name it, as anonymous and private ones.</summary>
    internal static string? Code(Type type) =>
        IsNameable(type) ? Write(type, t => $"global::{(t.Namespace is { } space ? space + "." : "")}{Nested(t)}") : null;

    private static string Write(Type type, Func<Type, string> name)
    {
        if (type.IsArray) return $"{Write(type.GetElementType()!, name)}[{new string(',', type.GetArrayRank() - 1)}]";
        if (type.Name.StartsWith("<>", StringComparison.Ordinal)) return "";
        if (!type.IsGenericType) return name(type);
        var plain = name(type);
        var tick = plain.IndexOf('`');
        return tick < 0 ? plain : $"{plain[..tick]}<{string.Join(", ", type.GetGenericArguments().Select(a => Write(a, name)))}>";
    }

    private static string Nested(Type type) => type.DeclaringType is { } outer ? $"{Nested(outer)}.{type.Name}" : type.Name;

    /// <summary>A type inside a generic one has the arguments of both in one list, which is not worth telling apart.</summary>
    private static bool IsNameable(Type type) =>
        type.IsArray ? IsNameable(type.GetElementType()!)
        : type.IsVisible && !type.IsByRefLike && !type.IsPointer && !(type.IsNested && type.DeclaringType!.IsGenericType)
            && type.DeclaringType?.Name.StartsWith("Submission#", StringComparison.Ordinal) != true && type.GetGenericArguments().All(IsNameable);
}
