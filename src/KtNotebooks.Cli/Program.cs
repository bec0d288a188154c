using System.CommandLine;

var root = new RootCommand("kt: fine-tune mixture-of-experts models on one machine");
return await root.Parse(args).InvokeAsync();
