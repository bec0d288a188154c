using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter;

/// <summary>Makes the kernel known to Jupyter: a folder with a kernel.json where Jupyter looks for kernels.</summary>
public static class KernelSpec
{
    public const string Name = "ktnotebooks";

    public const string DisplayName = "C# (KtNotebooks)";

    /// <summary>The name under which .NET Interactive's notebooks ask for their kernel.</summary>
    public const string DotNetInteractiveAlias = ".net-csharp";

    /// <summary>
    /// What the kernel's process needs and a notebook server need not have: where a runtime outside the system's folders is, such as ~/.dotnet, and whether
    /// it must do without ICU, which is not there.
    /// </summary>
    private static readonly string[] Inherited = ["DOTNET_ROOT", "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT"];

    /// <summary>$JUPYTER_DATA_DIR, $XDG_DATA_HOME/jupyter or ~/.local/share/jupyter, as Jupyter itself chooses.</summary>
    public static string UserDataFolder =>
        Environment.GetEnvironmentVariable("JUPYTER_DATA_DIR") is { Length: > 0 } data ? data
        : OperatingSystem.IsWindows() ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.ApplicationData), "jupyter")
        : OperatingSystem.IsMacOS() ? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), "Library", "Jupyter")
        : Path.Combine(Environment.GetEnvironmentVariable("XDG_DATA_HOME") is { Length: > 0 } xdg ? xdg
            : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".local", "share"), "jupyter");

    /// <summary>Where Jupyter looks for kernels, in its order.</summary>
    private static IEnumerable<string> Folders =>
        (Environment.GetEnvironmentVariable("JUPYTER_PATH") ?? "").Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .Append(UserDataFolder).Concat(OperatingSystem.IsWindows() ? [] : (string[])["/usr/local/share/jupyter", "/usr/share/jupyter"])
            .Select(f => Path.Combine(f, "kernels"));

    /// <summary>The kernel.json of an installed kernel.</summary>
    /// <exception cref="FileNotFoundException">There is none of this name; the line names those that are.</exception>
    internal static JsonObject Read(string name)
    {
        foreach (var file in Folders.Select(f => Path.Combine(f, name, "kernel.json")).Where(File.Exists))
        {
            var spec = JsonNode.Parse(File.ReadAllText(file)) as JsonObject;
            return spec?["argv"] is JsonArray { Count: > 0 } ? spec
                : throw new InvalidDataException($"[kernel] {file}: has no argv, the command that starts it");
        }
        var folders = Folders.Where(Directory.Exists).SelectMany(Directory.GetDirectories);
        var installed = string.Join(", ", folders.Select(f => Path.GetFileName(f)!).Distinct().Order(StringComparer.Ordinal));
        throw new FileNotFoundException($"[kernel] no kernel '{name}' is installed; there is {(installed.Length == 0 ? "none" : installed)}. "
            + (name == DotNetInteractiveAlias ? "./kt kernel install --with-dotnet-interactive installs it" : $"./kt kernel install installs {Name}"));
    }

    /// <param name="prefix">An environment such as /usr/local: the kernel goes to its share/jupyter. Null: the user's own folder.</param>
    /// <param name="command">The command that starts the kernel, for example kt kernel run --connection-file {connection_file}.</param>
    /// <param name="alias">Whether to install it under <see cref="DotNetInteractiveAlias"/> too.</param>
    /// <returns>The folders that were written.</returns>
    public static IReadOnlyList<string> Install(string? prefix, IReadOnlyList<string> command, bool alias = false)
    {
        if (!command.Contains("{connection_file}"))
            throw new ArgumentException("[kernel spec] the command must contain {connection_file}, which Jupyter replaces", nameof(command));
        List<string> folders = [];
        foreach (var name in alias ? (string[])[Name, DotNetInteractiveAlias] : [Name])
        {
            folders.Add(Write(prefix, name, Spec(command)));
        }
        return folders;
    }

    /// <summary>Makes .NET Interactive's own C# kernel known, under the name that it has everywhere.</summary>
    /// <param name="prefix">As for <see cref="Install"/>.</param>
    /// <param name="program">The tool dotnet-interactive.</param>
    /// <param name="feed">The folder of our packages, in which `#r "nuget: KtNotebooks"` is looked for besides the user's own sources.</param>
    /// <returns>The folder that was written.</returns>
    public static string InstallDotNetInteractive(string? prefix, string program, string feed) => Write(prefix, DotNetInteractiveAlias, new JsonObject
    {
        ["argv"] = new JsonArray(program, "jupyter", "--default-kernel", "csharp", "--http-local-only", "{connection_file}"),
        ["display_name"] = ".NET (C#), with KtNotebooks",
        ["language"] = "C#",
        // MSBuild takes variables of the environment as properties. The tool itself would tell Microsoft about its use.
        ["env"] = Variables(("RestoreAdditionalProjectSources", feed), ("DOTNET_INTERACTIVE_CLI_TELEMETRY_OPTOUT", "1")),
    });

    /// <returns>The folders that were there and are gone now.</returns>
    public static IReadOnlyList<string> Uninstall(string? prefix)
    {
        var folders = new[] { Name, DotNetInteractiveAlias }.Select(n => Folder(prefix, n)).Where(IsOurs).ToArray();
        foreach (var folder in folders) Directory.Delete(folder, recursive: true);
        return folders;
    }

    /// <summary>What Jupyter has of a user, or of an environment.</summary>
    public static string DataFolder(string? prefix) => prefix is null ? UserDataFolder : Path.Combine(Path.GetFullPath(prefix), "share", "jupyter");

    private static string Folder(string? prefix, string name) => Path.Combine(DataFolder(prefix), "kernels", name);

    /// <summary>The alias may belong to .NET Interactive itself, which is not ours to remove.</summary>
    private static bool IsOurs(string folder)
    {
        var file = Path.Combine(folder, "kernel.json");
        return File.Exists(file) && File.ReadAllText(file).Contains("KtNotebooks", StringComparison.Ordinal);
    }

    private static string Write(string? prefix, string name, JsonObject spec)
    {
        var folder = Folder(prefix, name);
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "kernel.json"), spec.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
        return folder;
    }

    private static JsonObject Spec(IReadOnlyList<string> command) => new()
    {
        ["argv"] = new JsonArray([.. command.Select(a => (JsonNode)a)]),
        ["display_name"] = DisplayName,
        ["language"] = "C#",
        // Without this, clients send SIGINT to the process instead of a message to the kernel.
        ["interrupt_mode"] = "message",
        ["env"] = Variables(),
        ["metadata"] = new JsonObject { ["debugger"] = false },
    };

    private static JsonObject Variables(params IEnumerable<(string Name, string? Value)> more) => new(
        Inherited.Select(n => (Name: n, Value: Environment.GetEnvironmentVariable(n))).Where(v => v.Value is { Length: > 0 }).Concat(more)
            .Select(v => KeyValuePair.Create(v.Name, (JsonNode?)v.Value)));
}
