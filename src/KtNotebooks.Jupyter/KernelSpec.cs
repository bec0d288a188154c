using System.Text.Json;
using System.Text.Json.Nodes;

namespace KtNotebooks.Jupyter;

/// <summary>Makes the kernel known to Jupyter: a folder with a kernel.json where Jupyter looks for kernels.</summary>
public static class KernelSpec
{
    public const string Name = "ktnotebooks";

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
            var folder = Folder(prefix, name);
            Directory.CreateDirectory(folder);
            File.WriteAllText(Path.Combine(folder, "kernel.json"), Json(command) + "\n");
            folders.Add(folder);
        }
        return folders;
    }

    /// <returns>The folders that were there and are gone now.</returns>
    public static IReadOnlyList<string> Uninstall(string? prefix)
    {
        var folders = new[] { Name, DotNetInteractiveAlias }.Select(n => Folder(prefix, n)).Where(IsOurs).ToArray();
        foreach (var folder in folders) Directory.Delete(folder, recursive: true);
        return folders;
    }

    private static string Folder(string? prefix, string name) =>
        Path.Combine(prefix is null ? UserDataFolder : Path.Combine(Path.GetFullPath(prefix), "share", "jupyter"), "kernels", name);

    /// <summary>The alias may belong to .NET Interactive itself, which is not ours to remove.</summary>
    private static bool IsOurs(string folder)
    {
        var file = Path.Combine(folder, "kernel.json");
        return File.Exists(file) && File.ReadAllText(file).Contains("KtNotebooks", StringComparison.Ordinal);
    }

    private static string Json(IReadOnlyList<string> command) => new JsonObject
    {
        ["argv"] = new JsonArray([.. command.Select(a => (JsonNode)a)]),
        ["display_name"] = "C# (KtNotebooks)",
        ["language"] = "C#",
        // Without this, clients send SIGINT to the process instead of a message to the kernel.
        ["interrupt_mode"] = "message",
        ["env"] = new JsonObject(Inherited.Select(n => KeyValuePair.Create(n, (JsonNode?)Environment.GetEnvironmentVariable(n)))
            .Where(v => (string?)v.Value is { Length: > 0 })),
        ["metadata"] = new JsonObject { ["debugger"] = false },
    }.ToJsonString(new JsonSerializerOptions { WriteIndented = true });
}
