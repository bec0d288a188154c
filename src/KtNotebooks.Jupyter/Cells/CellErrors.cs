using System.Diagnostics;
using System.Reflection;

using Microsoft.CodeAnalysis;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// Turns an exception into what a notebook shows: the type, the message's first line, and a traceback with the source lines of the
/// user's own cells. Frames of the framework and the kernel are left out unless KT_FULL_TRACE=1.
/// </summary>
internal static class CellErrors
{
    private const string Red = "\e[31m", Cyan = "\e[36m", Dim = "\e[2m", Bold = "\e[1m", Reset = "\e[0m";

    internal static CellError Describe(Exception error, IReadOnlyDictionary<string, CellText> sources)
    {
        while (error is TargetInvocationException or AggregateException { InnerExceptions.Count: 1 } && error.InnerException is { } inner) error = inner;
        return error switch
        {
            CompilationFailedException e => Compilation(e, sources),
            CodeRefusedException => Plain("CompilationError", error.Message),
            InsufficientExecutionStackException => Plain("CompilationError", "the code is nested too deep for the compiler; use a loop, or parts with names"),
            InterruptedException => new CellError("Interrupted", error.Message, [$"{Red}Interrupted{Reset}: {error.Message}"]),
            _ => new CellError(Name(error), FirstLine(error.Message), [.. Runtime(error, sources, "")]),
        };
    }

    /// <summary>One line, with the place in a cell where there is one.</summary>
    internal static string Brief(Exception error)
    {
        var frame = (error as EndlessRecursionException)?.Innermost
            ?? new StackTrace(error, fNeedFileInfo: true).GetFrames().FirstOrDefault(f => f.GetFileName() is not null && !IsKernel(f));
        var place = frame?.GetFileName() is { } file ? $" ({Path.GetFileName(file)}:{frame.GetFileLineNumber()})" : "";
        return $"{Name(error)}: {FirstLine(error.Message)}{place}";
    }

    private static CellError Plain(string name, string message) => new(name, FirstLine(message), [$"{Red}{name}{Reset}: {message}"]);

    private static string Name(Exception e) => e.GetType().Name;

    private static string FirstLine(string text) => text.Split('\n', 2)[0].TrimEnd('\r');

    private static CellError Compilation(CompilationFailedException e, IReadOnlyDictionary<string, CellText> sources)
    {
        List<string> traceback = [];
        foreach (var diagnostic in e.Errors)
        {
            var span = diagnostic.Location.GetLineSpan();
            var (line, column) = (span.StartLinePosition.Line + 1, span.StartLinePosition.Character + 1);
            traceback.Add($"{Cyan}{span.Path}({line},{column}){Reset}: {Red}{diagnostic.Id}{Reset}: {diagnostic.GetMessage()}");
            var width = span.EndLinePosition.Line == span.StartLinePosition.Line ? span.EndLinePosition.Character - span.StartLinePosition.Character : 1;
            var source = sources.GetValueOrDefault(span.Path) ?? (span.Path == e.Label ? new CellText(e.Code) : null);
            AddSource(traceback, source, line, column, width, "");
            if (ScriptHints.For(diagnostic, source?.Line(line)) is { } hint) traceback.Add($"  {Bold}hint{Reset}: {hint}");
        }
        var first = e.Errors[0];
        var more = e.Errors.Count > 1 ? $" (and {e.Errors.Count - 1} more)" : "";
        return new CellError("CompilationError", FirstLine($"{Position(first)}: {first.Id}: {first.GetMessage()}{more}"), traceback);
    }

    private static string Position(Diagnostic d)
    {
        var span = d.Location.GetLineSpan();
        return $"{span.Path}({span.StartLinePosition.Line + 1},{span.StartLinePosition.Character + 1})";
    }

    private static List<string> Runtime(Exception error, IReadOnlyDictionary<string, CellText> sources, string indent)
    {
        List<string> lines = [$"{indent}{Red}{Name(error)}{Reset}: {error.Message}"];
        if (Environment.GetEnvironmentVariable("KT_FULL_TRACE") == "1")
        {
            lines.AddRange((error.StackTrace ?? "").Split('\n').Select(l => indent + l));
        }
        else
        {
            foreach (var frame in error is EndlessRecursionException { Innermost: { } innermost } ? [innermost]
                : new StackTrace(error, fNeedFileInfo: true).GetFrames())
            {
                var file = frame.GetFileName();
                var line = frame.GetFileLineNumber();
                if (file is null || line <= 0 || IsKernel(frame)) continue;
                // The compiler stores a full path, although the cell has only a name.
                file = Path.GetFileName(file);
                var cell = sources.GetValueOrDefault(file);
                lines.Add($"{indent}{Cyan}{file}:{line}{Reset} {Dim}{Method(frame)}{Reset}");
                AddSource(lines, cell, line, cell?.Column(line, frame.GetFileColumnNumber()) ?? 0, 1, indent);
            }
        }
        foreach (var inner in error is AggregateException many ? many.InnerExceptions : error.InnerException is { } one ? (IEnumerable<Exception>)[one] : [])
        {
            lines.Add($"{indent}  {Dim}caused by{Reset}");
            lines.AddRange(Runtime(inner, sources, indent + "  "));
        }
        return lines;
    }

    private static bool IsKernel(StackFrame frame) => frame.GetMethod()?.DeclaringType?.Assembly == typeof(CellErrors).Assembly;

    /// <summary>The name as the user wrote it: state machines and local functions carry it in angle brackets.</summary>
    internal static string Method(StackFrame frame)
    {
        var method = frame.GetMethod();
        var owner = method?.DeclaringType;
        var name = method?.Name ?? "";
        if (name == "MoveNext" && owner is not null) (name, owner) = (owner.Name, owner.DeclaringType);
        if (name.Contains("<Initialize>", StringComparison.Ordinal) || name is "<Factory>") return "top level";
        var start = name.LastIndexOf('<') + 1;
        var end = name.IndexOf('>', start);
        if (start > 0 && end > start) name = name[start..end];
        return owner is null || owner.Name.StartsWith("Submission#", StringComparison.Ordinal) || owner.Name.Contains('<') ? $"{name}()"
            : $"{owner.Name}.{name}()";
    }

    private static void AddSource(List<string> lines, CellText? source, int line, int column, int width, string indent)
    {
        if (source?.Line(line) is not { } text) return;
        (text, column) = Window(text, column);
        lines.Add($"{indent}    {text}");
        if (column > 0 && column <= text.Length + 1)
        {
            var blank = string.Concat(text[..Math.Min(column - 1, text.Length)].Select(c => c == '\t' ? '\t' : ' '));
            lines.Add($"{indent}    {blank}{Red}^{new string('~', Math.Clamp(width - 1, 0, Math.Max(0, text.Length - column)))}{Reset}");
        }
    }

    /// <summary>Of a line that is longer than a screen the part around the place.</summary>
    private static (string Text, int Column) Window(string text, int column)
    {
        const int Most = 160, Before = 80;
        if (text.Length <= Most) return (text, column);
        var start = Math.Clamp(column - 1 - Before, 0, text.Length - Most);
        var cut = $"{(start > 0 ? "…" : "")}{text.Substring(start, Most)}{(start + Most < text.Length ? "…" : "")}";
        return (cut, column > 0 ? column - start + (start > 0 ? 1 : 0) : column);
    }
}
