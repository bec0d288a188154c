using System.CommandLine;
using System.Text.Json;

using KtNotebooks.Interactive;
using KtNotebooks.Models;
using KtNotebooks.Planning;

namespace KtNotebooks.Cli;

/// <summary>`kt plan CONFIG`: where every module goes and what memory it takes, before anything is loaded.</summary>
internal static class PlanCommand
{
    private static readonly JsonSerializerOptions Json = new() { WriteIndented = true, PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };

    public static Command Create()
    {
        var arguments = new Argument<string[]>(Commands.Config)
        {
            Description = $"a training config, a model folder, a config.json or the name of a shape ({string.Join(", ", ModelShapes.Known)}); then key=value",
            Arity = ArgumentArity.OneOrMore,
        };
        var json = new Option<bool>("--json") { Description = "print the plan as JSON; `fits` says whether this machine has what it needs" };
        var command = new Command("plan",
            "Show where a model goes, what memory it needs and whether this machine has it, before anything is loaded: kt plan deepseek-v2-lite "
                + "tokens_per_step=8192") { arguments, json };
        command.SetAction(parsed =>
        {
            var plan = MemoryPlan.Open(parsed.GetValue(arguments)!);
            var machine = Machine.Here(Environment.CurrentDirectory);
            var (fits, line) = machine.Judge(plan);
            if (parsed.GetValue(json))
            {
                var node = JsonSerializer.SerializeToNode(plan, Json)!.AsObject();
                (node["fits"], node["machine"]) = (fits, line);
                Console.WriteLine(node.ToJsonString(Json));
                return;
            }
            Console.WriteLine($"{Text(plan)}\n\n{line}");
            foreach (var advice in machine.Advice(plan)) Console.WriteLine($"less host memory: {advice}");
            if (!fits) Console.WriteLine(DoctorCommand.NotebooksAnyway);
        });
        return command;
    }

    internal static string Text(MemoryPlan plan)
    {
        var modules = new Table("modules", "parameters", "computes", "weights", "format", "experts by",
            "size")
        {
            Caption = $"{plan.Model} ({plan.ModelType}): {plan.Parameters:N0} parameters"
                + $"{(plan.Trainable > 0 ? $", {plan.Trainable:N0} trained" : "")}"
        }
            .Align(Alignment.Left, Alignment.Right, Alignment.Left, Alignment.Left, Alignment.Left, Alignment.Left, Alignment.Right);
        foreach (var r in plan.Rows) modules.Row(r.Modules, r.Parameters, r.Compute, r.Weights, r.Format, r.Executor, Size(r.Bytes));
        var memory = new Table("device", "memory", "size")
        {
            Caption = plan.Tokens > 0 ? $"memory, {plan.Tokens:N0} tokens a step at most"
            : "memory, without training"
        }.Align(Alignment.Left, Alignment.Left, Alignment.Right);
        foreach (var device in plan.Devices)
        {
            foreach (var item in plan.Items.Where(i => i.Device == device)) memory.Row(device, item.What, Size(item.Bytes));
            memory.Row(device, plan.Bytes(device, MemoryPlan.Mapped) > 0 ? "together, without mapped" : "together", Size(plan.Total(device)));
        }
        return string.Join('\n', [modules.ToText(), "", memory.ToText(), .. plan.Notes.Select(n => "note: " + n)]);
    }

    private static string Size(long bytes) => bytes >= 1e9 ? $"{bytes / 1e9:N2} GB" : $"{bytes / 1e6:N2} MB";
}
