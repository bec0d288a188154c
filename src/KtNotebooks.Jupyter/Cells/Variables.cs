using System.Reflection;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// The variables of all cells by name. Re-running `var model = …` makes a new field in a new submission; without care the old one would
/// hold the old model for ever. So after a successful cell the older fields of the same names are cleared, and what they held is disposed
/// if it belongs to KtNotebooks (models and tensors hold native memory) and no other variable still refers to it.
/// </summary>
internal sealed class Variables
{
    private readonly Dictionary<string, (object State, FieldInfo Field)> _fields = [];

    internal IEnumerable<(string Name, Type Type, object? Value)> All =>
        _fields.OrderBy(f => f.Key, StringComparer.Ordinal).Select(f => (f.Key, f.Value.Field.FieldType, f.Value.Field.GetValue(f.Value.State)));

    internal bool TryGet(string name, out object? value)
    {
        var found = _fields.TryGetValue(name, out var at);
        value = found ? at.Field.GetValue(at.State) : null;
        return found;
    }

    internal void Set(string name, object? value)
    {
        var (state, field) = _fields[name];
        field.SetValue(state, value);
    }

    /// <param name="state">The submission object of a cell that has run.</param>
    /// <param name="release">Whether to clear older variables of the same names.</param>
    internal void Add(object state, bool release)
    {
        List<(object State, FieldInfo Field)> replaced = [];
        foreach (var field in state.GetType().GetFields(BindingFlags.Public | BindingFlags.Instance | BindingFlags.DeclaredOnly))
        {
            if (!char.IsLetter(field.Name[0]) && field.Name[0] != '_') continue;     // the compiler's own
            if (_fields.TryGetValue(field.Name, out var old)) replaced.Add(old);
            _fields[field.Name] = (state, field);
        }
        if (!release) return;
        foreach (var old in replaced) Release(old.State, old.Field);
    }

    private void Release(object state, FieldInfo field)
    {
        if (field.FieldType.IsPrimitive || field.IsInitOnly || field.IsLiteral) return;
        var value = field.GetValue(state);
        field.SetValue(state, null);
        if (value is IDisposable disposable && IsOurs(value.GetType()) && !_fields.Values.Any(f => ReferenceEquals(f.Field.GetValue(f.State), value)))
            disposable.Dispose();
    }

    private static bool IsOurs(Type type) => type.Assembly.GetName().Name!.StartsWith("KtNotebooks.", StringComparison.Ordinal);
}
