using System.CommandLine;
using System.Text.Json.Nodes;

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
        var json = new Option<bool>("--json") { Description = "one line of JSON" };
        var command = new Command("experts",
            "The routed experts of one layer (DeepSeek-V2-Lite's by default), forward and backward, in TFLOP/s; checked against the definition first")
        {
            experts, width, inner, top, tokens, rank, format, device, json
        };
        command.SetAction(parsed =>
        {
            var s = new ExpertBenchmarkSettings(parsed.GetValue(experts), parsed.GetValue(width), parsed.GetValue(inner), parsed.GetValue(top),
                parsed.GetValue(tokens), parsed.GetValue(rank), StorageFormat.Parse(parsed.GetRequiredValue(format)),
                Device.Parse(parsed.GetRequiredValue(device)));
            var r = ExpertBenchmark.Run(s);
            if (parsed.GetValue(json))
            {
                Console.WriteLine(Json(s, r));
                return;
            }
            var where = s.Device.Kind == DeviceKind.Cpu ? $"CPU, {Interop.Cpu.Variant}, {Interop.Cpu.Threads} threads"
                : CudaDevice.Get(s.Device.Index).ToString();
            Console.WriteLine($"{s.Experts} experts {s.Width} × {s.Inner}, {s.TopK} a token, {s.Tokens} tokens, rank {s.Rank}, {s.Format.Name}, "
                + $"{where}; error of a small bank {r.Error:P2}");
            string Share(double tflops) => r.Peak > 0 ? $"   {tflops / r.Peak,4:P0} of {r.Peak:F1}, registers alone" : "";
            Console.WriteLine($"  forward               {r.ForwardMs,10:F2} ms   {r.ForwardTflops,7:F2} TFLOP/s{Share(r.ForwardTflops)}");
            Console.WriteLine($"  forward and backward  {r.BothMs,10:F2} ms   {r.BothTflops,7:F2} TFLOP/s{Share(r.BothTflops)}");
            Console.WriteLine($"  of it backward        {r.BackwardMs,10:F2} ms");
            if (s.Rank > 0) Console.WriteLine($"  of it low-rank pairs  {r.LoraMs,10:F2} ms");
            if (r.Peak > 0)
            {
                var rate = Bytes(s) / r.ForwardMs / 1e6;
                Console.WriteLine($"  forward reads weights once: {rate:F1} GB/s, {rate / r.ReadGbPerSecond:P0} of {r.ReadGbPerSecond:F0}, this memory alone");
            }
        });
        return command;
    }

    private static double Bytes(ExpertBenchmarkSettings s) =>
        s.Experts * ((2 * s.Format.Bytes(s.Inner, s.Width)) + s.Format.Bytes(s.Width, s.Inner));

    private static string Json(ExpertBenchmarkSettings s, ExpertBenchmarkResult r)
    {
        var node = new JsonObject
        {
            ["experts"] = s.Experts,
            ["width"] = s.Width,
            ["inner"] = s.Inner,
            ["top_k"] = s.TopK,
            ["tokens"] = s.Tokens,
            ["rank"] = s.Rank,
            ["format"] = s.Format.Name,
            ["device"] = s.Device.ToString(),
            ["cpu"] = Interop.Cpu.Variant,
            ["threads"] = Interop.Cpu.Threads,
            ["forward_ms"] = r.ForwardMs,
            ["total_ms"] = r.BothMs,
            ["backward_ms"] = r.BackwardMs,
            ["lora_ms"] = r.LoraMs,
            ["forward_tflops"] = r.ForwardTflops,
            ["total_tflops"] = r.BothTflops,
            ["max_rel_error"] = r.Error,
        };
        if (r.Peak > 0)
        {
            node["peak_tflops"] = r.Peak;
            node["forward_peak_share"] = r.ForwardTflops / r.Peak;
            node["total_peak_share"] = r.BothTflops / r.Peak;
            node["read_gb_per_s"] = r.ReadGbPerSecond;
            node["bandwidth_share"] = Bytes(s) / r.ForwardMs / 1e6 / r.ReadGbPerSecond;
        }
        return node.ToJsonString();
    }
}
