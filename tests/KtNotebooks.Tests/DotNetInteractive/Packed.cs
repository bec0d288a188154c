using KtNotebooks.Tests.Cli;

using Xunit;

namespace KtNotebooks.Tests.DotNetInteractive;

/// <summary>The packages of this checkout, and .NET Interactive installed with them; made once for all tests that want them.</summary>
public sealed class Packed : IDisposable
{
    public const string Name = "packed";
    private static readonly string[] Kept = ["JUPYTER_PATH", "NUGET_PACKAGES"];
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("kt-packed-");
    private readonly string?[] _before = [.. Kept.Select(Environment.GetEnvironmentVariable)];

    public Packed()
    {
        using var install = Kt.Start("kernel", "install", "--prefix", _folder.FullName, "--with-dotnet-interactive", Tools);
        var (exit, said, errors) = install.End(minutes: 10);
        Missing = exit == 0 ? null : $"{said}{errors}".Trim();
        Environment.SetEnvironmentVariable("JUPYTER_PATH", Path.Combine(_folder.FullName, "share", "jupyter"));
        // What kernels unpack of our packages is not what another checkout has made.
        Environment.SetEnvironmentVariable("NUGET_PACKAGES", Path.Combine(_folder.FullName, "nuget"));
    }

    /// <summary>The folder of the packages.</summary>
    public string Feed => Path.Combine(Tools, "packages");

    /// <summary>Why .NET Interactive is not here; null: it is.</summary>
    public string? Missing { get; }

    private string Tools => Path.Combine(_folder.FullName, "tools");

    public void Dispose()
    {
        foreach (var (name, value) in Kept.Zip(_before)) Environment.SetEnvironmentVariable(name, value);
        _folder.Delete(recursive: true);
    }
}

[CollectionDefinition(Packed.Name)]
public sealed class PackedCollection : ICollectionFixture<Packed>;
