using System.CommandLine;

using KtNotebooks.Interactive;

namespace KtNotebooks.Cli;

/// <summary>kt pack: this checkout as NuGet packages.</summary>
internal static class PackCommand
{
    public static Command Create()
    {
        var output = new Option<string?>("--out") { Description = "the folder of the packages, a NuGet feed (default: artifacts/packages of the checkout)" };
        var command = new Command("pack", "Make the NuGet packages, for #r \"nuget: KtNotebooks\" in notebooks") { output };
        command.SetAction((parsed, cancel) => Task.Run(() =>
        {
            var folder = Path.GetFullPath(parsed.GetValue(output) ?? Repository.Path("artifacts/packages"));
            var packages = Packages.Pack(folder, cancel);
            foreach (var package in packages) Console.WriteLine($"{Path.GetFileName(package)} {new FileInfo(package).Length / 1000.0:N0} kB");
            Console.WriteLine($"{packages.Count} packages in {folder}; in a cell of .NET Interactive: #i \"nuget:{folder}\" and #r \"nuget: KtNotebooks\"");
        }, CancellationToken.None));
        return command;
    }
}
