using System.CommandLine;

using KtNotebooks.Jupyter;

namespace KtNotebooks.Cli;

/// <summary>kt kernel: the Jupyter kernel and its installation.</summary>
internal static class KernelCommands
{
    public static Command Create() => new("kernel", "The C# Jupyter kernel") { Install(), Uninstall(), Run() };

    private static Command Run()
    {
        var file = new Option<string>("--connection-file") { Required = true, Description = "written by Jupyter" };
        var command = new Command("run", "Serve one Jupyter client; Jupyter calls this") { file };
        command.Hidden = true;
        // Not an async action: those come with a Ctrl-C handler that ends the process, while here Ctrl-C only interrupts the cell.
        command.SetAction(parsed => KernelServer.Run(parsed.GetRequiredValue(file), CancellationToken.None));
        return command;
    }

    private static Command Install()
    {
        var prefix = new Option<string?>("--prefix") { Description = "install for an environment, in PREFIX/share/jupyter, instead of for the user" };
        var alias = new Option<bool>("--dotnet-interactive") { Description = "also answer to .net-csharp, the name that .NET Interactive's notebooks ask for" };
        var host = new Option<string?>("--with-dotnet-interactive")
        {
            Description = "also install .NET Interactive, with our packages in its reach; into a FOLDER, or beside the kernel",
            Arity = ArgumentArity.ZeroOrOne,
            HelpName = "FOLDER",
        };
        var command = new Command("install", "Make the kernel known to Jupyter") { prefix, alias, host };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var withHost = parsed.GetResult(host) is not null;
            if (withHost && parsed.GetValue(alias))
                return Failures.Refuse($"--dotnet-interactive and --with-dotnet-interactive both want the name {KernelSpec.DotNetInteractiveAlias}; give one");
            foreach (var folder in KernelSpec.Install(parsed.GetValue(prefix), Start(), parsed.GetValue(alias))) Console.WriteLine($"installed {folder}");
            if (withHost) InstallDotNetInteractive(parsed.GetValue(prefix), parsed.GetValue(host), cancel);
            return 0;
        }, CancellationToken.None));
        return command;
    }

    private static void InstallDotNetInteractive(string? prefix, string? folder, CancellationToken cancel)
    {
        folder = Path.GetFullPath(folder ?? Path.Combine(KernelSpec.DataFolder(prefix), "dotnet-interactive"));
        var program = Packages.InstallDotNetInteractive(folder, cancel);
        var feed = Path.Combine(folder, "packages");
        Packages.Pack(feed, cancel);
        Console.WriteLine($"installed {KernelSpec.InstallDotNetInteractive(prefix, program, feed)}, which starts {program}");
    }

    private static Command Uninstall()
    {
        var prefix = new Option<string?>("--prefix") { Description = "as given to install" };
        var command = new Command("uninstall", "Remove the kernel from Jupyter") { prefix };
        command.SetAction(parsed =>
        {
            foreach (var folder in KernelSpec.Uninstall(parsed.GetValue(prefix))) Console.WriteLine($"removed {folder}");
        });
        return command;
    }

    /// <summary>This very program: through `dotnet` when it runs as kt.dll, directly when it is the executable.</summary>
    internal static string[] Start()
    {
        var host = Environment.ProcessPath!;
        string[] program = Path.GetFileNameWithoutExtension(host) == "dotnet" ? [host, Path.Combine(AppContext.BaseDirectory, "kt.dll")] : [host];
        return [.. program, "kernel", "run", "--connection-file", "{connection_file}"];
    }
}
