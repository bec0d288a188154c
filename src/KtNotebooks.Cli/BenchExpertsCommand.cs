using System.CommandLine;

using KtNotebooks.Bench;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;

namespace KtNotebooks.Cli;

/// <summary>`kt bench experts`: one bank of routed experts alone, forward and backward.</summary>
internal static class BenchExpertsCommand
{
    public static Command Create()
    {
        Option<int> Number(string name, int normal, string what) => new(name) { Description = what, DefaultValueFactory = _ => normal };
        var (experts, width, inner, top) = (Number("--experts", 64, "experts of the bank"), Number("--width", 2048, "width of a row"),
            Number("--inner", 1408, "width of an expert"), Number("--top-k", 6, "experts a token"));
        var (tokens, rank) = (Number("--tokens", 2048, "tokens"), Number("--rank", 8, "LoRA rank on all experts; 0: none"));
        var format = new Option<string>("--format") { Description = string.Join(", ", StorageFormat.BankNames), DefaultValueFactory = _ => "bf16" };
        var device = new Option<string>("--device") { Description = "cpu or cuda:N", DefaultValueFactory = _ => CudaDevice.Count > 0 ? "cuda:0" : "cpu" };
        var command = new Command("experts",
            "The routed experts of one layer (DeepSeek-V2-Lite's by default), forward and backward, in TFLOP/s; checked against the definition first")
        {
            experts, width, inner, top, tokens, rank, format, device
        };
        command.SetAction(parsed =>
        {
            var s = new ExpertBenchmarkSettings(parsed.GetValue(experts), parsed.GetValue(width), parsed.GetValue(inner), parsed.GetValue(top),
                parsed.GetValue(tokens), parsed.GetValue(rank), StorageFormat.Parse(parsed.GetRequiredValue(format)),
                Device.Parse(parsed.GetRequiredValue(device)));
            var r = ExpertBenchmark.Run(s);
            var where = s.Device.Kind == DeviceKind.Cpu ? $"CPU, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads"
                : CudaDevice.Get(s.Device.Index).ToString();
            Console.WriteLine($"{s.Experts} experts {s.Width} × {s.Inner}, {s.TopK} a token, {s.Tokens} tokens, rank {s.Rank}, {s.Format.Name}, "
                + $"{where}; error of a small bank {r.Error:P2}");
            Console.WriteLine($"  forward               {r.ForwardMs,10:F2} ms   {r.ForwardTflops,7:F2} TFLOP/s");
            Console.WriteLine($"  forward and backward  {r.BothMs,10:F2} ms   {r.BothTflops,7:F2} TFLOP/s");
        });
        return command;
    }
}
