using System.IO.Compression;
using System.Xml.Linq;

using Xunit;

namespace KtNotebooks.Tests.DotNetInteractive;

/// <summary>What `kt pack` makes, as NuGet and notebook hosts expect it.</summary>
[Collection(Packed.Name)]
public sealed class PackageTests(Packed packed)
{
    private static readonly string[] All =
        ["KtNotebooks", "KtNotebooks.Bench", "KtNotebooks.Course", "KtNotebooks.DotNetInteractive", "KtNotebooks.Engine", "KtNotebooks.Interactive",
            "KtNotebooks.Server"];

    [Fact]
    public void There_is_a_package_for_every_project_that_others_may_use()
    {
        Require.Hardware("dotnet-interactive", packed.Missing);
        Assert.Equal(All, Directory.GetFiles(packed.Feed, "*.nupkg").Select(p => (string)Spec(p).Single("id")!).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Each_says_what_it_is_under_which_licence_and_has_a_readme_and_symbols()
    {
        Require.Hardware("dotnet-interactive", packed.Missing);
        foreach (var package in All.Select(Package))
        {
            var spec = Spec(package);
            Assert.Equal("Apache-2.0", spec.Single("license"));
            Assert.InRange(spec.Single("description")!.Length, 40, 200);
            Assert.Contains("#r \"nuget: KtNotebooks\"", Text(package, spec.Single("readme")!), StringComparison.Ordinal);
            // The package of packages has no code.
            Assert.Equal(spec.Single("id") != "KtNotebooks", File.Exists(Path.ChangeExtension(package, "snupkg")));
        }
    }

    [Fact]
    public void The_engine_brings_its_native_library()
    {
        Require.Hardware("dotnet-interactive", packed.Missing);
        Assert.SkipUnless(File.Exists(Path.Combine(AppContext.BaseDirectory, "libktnative.so")), "built without the native library");
        using var zip = ZipFile.OpenRead(Package("KtNotebooks.Engine"));
        Assert.NotNull(zip.GetEntry("runtimes/linux-x64/native/libktnative.so"));
    }

    [Fact]
    public void The_extension_is_where_hosts_look_and_leaves_the_host_s_own_packages_to_it()
    {
        Require.Hardware("dotnet-interactive", packed.Missing);
        var extension = Package("KtNotebooks.DotNetInteractive");
        Assert.Contains("KtNotebooksExtension.Load", Text(extension, "interactive-extensions/dotnet/extension.dib"), StringComparison.Ordinal);
        Assert.DoesNotContain(Spec(extension).Dependencies, d => d.StartsWith("Microsoft.DotNet.Interactive", StringComparison.Ordinal));
        Assert.Contains("KtNotebooks.DotNetInteractive", Spec(Package("KtNotebooks")).Dependencies);
    }

    private string Package(string id) => Directory.GetFiles(packed.Feed, $"{id}.*.nupkg").Single(p => (string?)Spec(p).Single("id") == id);

    private static string Text(string package, string entry)
    {
        using var zip = ZipFile.OpenRead(package);
        using var reader = new StreamReader(zip.GetEntry(entry)!.Open());
        return reader.ReadToEnd();
    }

    private static Nuspec Spec(string package)
    {
        using var zip = ZipFile.OpenRead(package);
        using var stream = zip.Entries.Single(e => e.FullName.EndsWith(".nuspec", StringComparison.Ordinal)).Open();
        return new Nuspec(XDocument.Load(stream));
    }

    private sealed record Nuspec(XDocument Document)
    {
        public IEnumerable<string> Dependencies => Document.Descendants().Where(e => e.Name.LocalName == "dependency").Select(e => (string)e.Attribute("id")!);

        public string? Single(string name) => Document.Descendants().FirstOrDefault(e => e.Name.LocalName == name)?.Value;
    }
}
