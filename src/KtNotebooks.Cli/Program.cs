using System.CommandLine;

using KtNotebooks.Cli;

var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine");
root.Subcommands.Add(KernelCommands.Create());
root.Subcommands.Add(NotebookCommands.Create());
return await root.Parse(args).InvokeAsync();
