using System.Diagnostics;
using System.Reflection;
using System.Security;
using System.Text;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter.Cells;

/// <summary>
/// `#r "nuget: Name, Version"`: writes a project that references all packages asked for so far, lets `dotnet restore` resolve it with the
/// user's own NuGet settings, and reads the compile, run-time and native files from project.assets.json.
/// </summary>
internal sealed class NuGetReferences(CellLoadContext loader)
{
    private static readonly List<string> Sources = [];
    private static readonly string OwnVersion =
        typeof(NuGetReferences).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion.Split('+')[0];

    private readonly Dictionary<string, string> _versions = new(StringComparer.OrdinalIgnoreCase);
    private readonly HashSet<string> _referenced = new(StringComparer.OrdinalIgnoreCase);

    /// <summary>Of all packages that are there, unpacked.</summary>
    internal IReadOnlyList<string> Folders { get; private set; } = [];

    /// <summary>`#i "nuget: URL or folder"`.</summary>
    internal static void AddSource(string argument) => Sources.Add(argument["nuget:".Length..].Trim());

    /// <summary>Restores <paramref name="package"/>: "Name" or "Name, Version"; a version may float, as in *-*.</summary>
    /// <returns>Paths of assemblies to give to the compiler that it does not have yet.</returns>
    internal List<string> Add(string package, CancellationToken cancel)
    {
        var parts = package.Split(',', 2, StringSplitOptions.TrimEntries);
        var (name, version) = (parts[0], parts.Length > 1 ? parts[1] : "*");
        if (IsOwn(name))
        {
            if (version is "*" or "*-*" || version == OwnVersion) return [];
            throw new InvalidOperationException(
                $"[#r nuget] this kernel is KtNotebooks {OwnVersion} itself and cannot take {name} {version}: leave the version away, or install that kernel");
        }
        if (_versions.TryGetValue(name, out var old))
        {
            if (parts.Length == 1 || old == version) return [];
            throw new InvalidOperationException($"[#r nuget] {name} {old} is already loaded and cannot be replaced by {version}: restart the kernel to change "
                + "it");
        }
        _versions[name] = version;
        var folder = Directory.CreateTempSubdirectory("kt-nuget-");
        try
        {
            File.WriteAllText(Path.Combine(folder.FullName, "cells.csproj"), Project());
            Restore(folder.FullName, package, cancel);
            return Read(Path.Combine(folder.FullName, "obj", "project.assets.json"));
        }
        catch
        {
            _versions.Remove(name);
            throw;
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    /// <summary>What the kernel is made of is there already, so that a notebook for .NET Interactive, which brings it in, runs here too.</summary>
    private static bool IsOwn(string name) =>
        name.Equals("KtNotebooks", StringComparison.OrdinalIgnoreCase) || name.StartsWith("KtNotebooks.", StringComparison.OrdinalIgnoreCase)
            && (Framework.Has(name) || name.Equals("KtNotebooks.DotNetInteractive", StringComparison.OrdinalIgnoreCase));

    private string Project()
    {
        var items = string.Concat(_versions.Select(v =>
            $"<PackageReference Include=\"{SecurityElement.Escape(v.Key)}\" Version=\"{SecurityElement.Escape(v.Value)}\" />"));
        var sources = Sources.Count == 0
            ? "" : $"<RestoreAdditionalProjectSources>{SecurityElement.Escape(string.Join(';', Sources))}</RestoreAdditionalProjectSources>";
        return $"""
            <Project Sdk="Microsoft.NET.Sdk">
              <PropertyGroup>
                <TargetFramework>net{Environment.Version.ToString(2)}</TargetFramework>
                <RuntimeIdentifier>{System.Runtime.InteropServices.RuntimeInformation.RuntimeIdentifier}</RuntimeIdentifier>
                <ManagePackageVersionsCentrally>false</ManagePackageVersionsCentrally>{sources}
              </PropertyGroup>
              <ItemGroup>{items}</ItemGroup>
            </Project>
            """;
    }

    private static void Restore(string folder, string package, CancellationToken cancel)
    {
        var start = new ProcessStartInfo("dotnet", ["restore", "--nologo", "-v:q"])
        {
            WorkingDirectory = folder,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = Process.Start(start)
            ?? throw new InvalidOperationException("[#r nuget] cannot start `dotnet restore`; is the .NET SDK on the PATH?");
        using var stop = cancel.Register(() => process.Kill(entireProcessTree: true));
        var output = new StringBuilder();
        void Keep(object _, DataReceivedEventArgs line) { lock (output) output.AppendLine(line.Data); }
        process.OutputDataReceived += Keep;
        process.ErrorDataReceived += Keep;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        process.WaitForExit();
        if (cancel.IsCancellationRequested) throw new InterruptedException();
        if (process.ExitCode == 0) return;
        var reason = output.ToString().Split('\n').Select(l => l.Trim()).FirstOrDefault(l => l.Contains("error", StringComparison.Ordinal))
            ?? output.ToString().Trim();
        throw new InvalidOperationException($"[#r nuget] {package.Trim()} cannot be restored: {reason}");
    }

    private List<string> Read(string assetsPath)
    {
        var assets = JsonNode.Parse(File.ReadAllText(assetsPath))!.AsObject();
        var roots = assets["packageFolders"]!.AsObject().Select(f => f.Key).ToArray();
        // The target with the runtime identifier also lists native files.
        var target = assets["targets"]!.AsObject().OrderByDescending(t => t.Key.Length).First().Value!.AsObject();
        List<string> compile = [], folders = [];
        foreach (var (key, library) in target)
        {
            if (assets["libraries"]?[key]?["path"] is not { } relative) continue;
            if (roots.Select(r => Path.Combine(r, relative.GetValue<string>())).FirstOrDefault(Directory.Exists) is not { } root) continue;
            folders.Add(root);
            foreach (var file in Files(library, "runtime"))
            {
                var name = Path.GetFileNameWithoutExtension(file);
                if (!Framework.Has(name)) loader.Add(Path.Combine(root, file), Path.GetDirectoryName(Path.Combine(root, file))!);
            }
            foreach (var file in Files(library, "native")) loader.AddFolder(Path.GetDirectoryName(Path.Combine(root, file))!);
            foreach (var file in Files(library, "compile"))
            {
                var name = Path.GetFileNameWithoutExtension(file);
                if (!Framework.Has(name) && _referenced.Add(name)) compile.Add(Path.Combine(root, file));
            }
        }
        Folders = folders;
        return compile;
    }

    private static IEnumerable<string> Files(JsonNode? library, string kind) =>
        (library?[kind] as JsonObject ?? []).Select(f => f.Key).Where(f => !f.EndsWith("/_._", StringComparison.Ordinal));
}
