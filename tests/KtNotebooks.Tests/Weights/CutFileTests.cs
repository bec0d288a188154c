using System.Text.Json.Nodes;

using KtNotebooks.Tensors;
using KtNotebooks.Tests.Cli;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

/// <summary>A mapped file that somebody cuts while it is read: the system sends SIGBUS, which .NET ends by without a word.</summary>
public sealed class CutFileTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void A_model_file_cut_under_a_reader_ends_with_one_line_that_names_it()
    {
        if (!KtNotebooks.Interop.Cpu.HasLibrary) Assert.Skip("the native library is not here");
        var path = Path.Combine(_folder.Path, "model.safetensors");
        using (var ones = Tensor.From(Enumerable.Repeat(1f, 1 << 20).ToArray(), 1 << 20)) SafetensorsWriter.Write(path, [("w", ones)]);
        var (exit, errors) = Cell($"""
            var map = new SafetensorsFile("{path}").Get("w");
            Process.Start("truncate", ["-s", "8192", "{path}"]).WaitForExit();
            map.ToFloats().Sum()
            """);
        Assert.Equal($"kt: {path} has become shorter while it was read; leave a model's files alone while it is in use\n", errors);
        Assert.Equal(2, exit);
    }

    [Fact]
    public void Files_of_others_and_null_pointers_meet_the_handlers_of_NET()
    {
        var (other, model) = (_folder.Write("other.bin", new string('x', 1 << 20)), Path.Combine(_folder.Path, "model.safetensors"));
        using (var one = Tensor.From([1f], 1)) SafetensorsWriter.Write(model, [("w", one)]);
        var watched = $"var kept = new SafetensorsFile(\"{model}\").Get(\"w\");\n";
        var (exit, errors) = Cell(watched + "string none = null; try { _ = none.Length; } catch (NullReferenceException) { Console.WriteLine(\"caught\"); }");
        Assert.Equal((0, ""), (exit, errors));
        (exit, errors) = Cell(watched + $"""
            var map = System.IO.MemoryMappedFiles.MemoryMappedFile.CreateFromFile("{other}");
            var view = map.CreateViewAccessor();
            Process.Start("truncate", ["-s", "0", "{other}"]).WaitForExit();
            view.ReadByte(100_000)
            """);
        Assert.DoesNotContain("has become shorter", errors, StringComparison.Ordinal);
        Assert.True(exit > 128, $"{exit}: {errors}"); // a signal, as .NET has it
    }

    /// <summary>In a process of its own, by the kernel's runner.</summary>
    private (int Exit, string Errors) Cell(string code)
    {
        var notebook = new JsonObject
        {
            ["cells"] = new JsonArray(new JsonObject
            {
                ["cell_type"] = "code",
                ["id"] = "c",
                ["metadata"] = new JsonObject(),
                ["execution_count"] = null,
                ["outputs"] = new JsonArray(),
                ["source"] = code,
            }),
            ["metadata"] = new JsonObject(),
            ["nbformat"] = 4,
            ["nbformat_minor"] = 5,
        };
        var (exit, _, errors) = Kt.Run("notebook", "run", _folder.Write("cut.ipynb", notebook.ToJsonString()));
        return (exit, errors);
    }
}
