using System.Text;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>Stands in for Console.Out, Console.Error and Console.In: text goes to, and lines come from, the cell that the caller belongs to.</summary>
internal sealed class CellConsole(string stream, TextWriter original) : TextWriter
{
    public override Encoding Encoding => Encoding.UTF8;

    public override void Write(char value) => Write(value.ToString());

    public override void Write(char[] buffer, int index, int count) => Write(new string(buffer, index, count));

    public override void Write(ReadOnlySpan<char> buffer) => Write(buffer.ToString());

    public override void Write(string? value)
    {
        if (string.IsNullOrEmpty(value)) return;
        if (Cell.Current is { } cell) cell.Output.Write(stream, value);
        else original.Write(value);
    }

    public override void WriteLine() => Write("\n");

    public override void WriteLine(string? value) => Write(value + "\n");

    public override void WriteLine(ReadOnlySpan<char> buffer) => Write(string.Concat(buffer, "\n"));

    /// <summary>Until disposed, the process's console belongs to the cells.</summary>
    internal static IDisposable Install() => new Installed();

    private sealed class Installed : IDisposable
    {
        private readonly TextWriter _out = Console.Out, _error = Console.Error;
        private readonly TextReader _in = Console.In;

        public Installed()
        {
            Console.SetOut(new CellConsole("stdout", _out));
            Console.SetError(new CellConsole("stderr", _error));
            Console.SetIn(new Lines());
        }

        public void Dispose()
        {
            Console.SetOut(_out);
            Console.SetError(_error);
            Console.SetIn(_in);
        }
    }

    private sealed class Lines : TextReader
    {
        public override string? ReadLine() => Cell.Current is { } cell ? cell.Output.ReadLine("", false, cell.KernelCancel) : null;
    }
}
