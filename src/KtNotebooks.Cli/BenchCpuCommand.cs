using System.CommandLine;
using System.Text.Json.Nodes;

using KtNotebooks.Bench;

namespace KtNotebooks.Cli;

/// <summary>`kt bench cpu`: the CPU kernels against the registers and the memory of this machine.</summary>
internal static class BenchCpuCommand
{
    public static Command Create()
    {
        Option<int> Number(string name, int normal, string what) => new(name) { Description = what, DefaultValueFactory = _ => normal };
        var (experts, width, inner, top) = (Number("--experts", 64, "experts of the bank"), Number("--width", 2048, "width of a row"),
            Number("--inner", 1408, "width of an expert"), Number("--top-k", 6, "experts a token"));
        var (tokens, rank, size) = (Number("--tokens", 512, "tokens of the many rows"), Number("--rank", 8, "LoRA rank of the many rows; 0: none"),
            Number("--size", 2048, "rows and columns of the dense product"));
        var few = NumberLists.Create("--few", "numbers of tokens that are few rows", 1, 4, 16);
        var json = new Option<bool>("--json") { Description = "one line of JSON" };
        var command = new Command("cpu",
            "The CPU kernels: a product, a bank of experts with many rows, and with few rows in every format, as shares of registers alone and of this "
                + "memory's reading alone; checked against sums in double first")
        {
            experts, width, inner, top, tokens, rank, size, few, json
        };
        command.SetAction(parsed =>
        {
            var s = new CpuBenchmarkSettings(parsed.GetValue(experts), parsed.GetValue(width), parsed.GetValue(inner), parsed.GetValue(top),
                parsed.GetValue(tokens), parsed.GetValue(rank), parsed.GetRequiredValue(few), parsed.GetValue(size));
            var result = CpuBenchmark.Run(s);
            if (parsed.GetValue(json)) Console.WriteLine(Json(s, result).ToJsonString());
            else Print(s, result);
        });
        return command;
    }

    private static void Print(CpuBenchmarkSettings s, CpuBenchmarkResult r)
    {
        var many = r.Many;
        Console.WriteLine($"{r.Variant}, {r.Threads} threads: registers alone {r.Peak.Rate:F2} TFLOP/s in BF16, memory alone {r.Read.Rate:F1} GB/s");
        Console.WriteLine($"  product {s.Product}³           {r.Product.Rate,8:F2} TFLOP/s   {r.Product.Rate / r.Peak.Rate,4:P0} of registers alone; "
            + $"{r.ThreadSpeedUp:F2} × one thread");
        Console.WriteLine($"  a managed loop         {r.LoopMicroseconds,8:F1} µs");
        Console.WriteLine($"{s.Experts} experts {s.Width} × {s.Inner}, {s.TopK} a token");
        Console.WriteLine($"  {s.Tokens} tokens, rank {s.Rank}, bf16: forward {many.ForwardMs:F1} ms, {many.ForwardTflops / many.Peak:P0} of registers alone; "
            + $"forward and backward {many.BothMs:F1} ms, {many.BothTflops / many.Peak:P0}");
        foreach (var f in r.Few)
            Console.WriteLine($"  {f.Tokens,2} tokens, {f.Format,-6}{f.Ms,9:F2} ms{f.GbPerSecond,8:F1} GB/s   {f.BandwidthShare,4:P0} of memory alone; "
                + $"error {f.Error:P2}");
    }

    private static double Error(CpuBenchmarkResult r) => Math.Max(r.Many.Error, r.Few.Max(f => f.Error));

    private static JsonObject Json(CpuBenchmarkSettings s, CpuBenchmarkResult r) => new()
    {
        ["cpu"] = r.Variant,
        ["threads"] = r.Threads,
        ["peak_tflops"] = r.Peak.Rate,
        ["read_gb_per_s"] = r.Read.Rate,
        ["product_size"] = s.Product,
        ["product_tflops"] = r.Product.Rate,
        ["product_peak_share"] = r.Product.Rate / r.Peak.Rate,
        ["thread_speed_up"] = r.ThreadSpeedUp,
        ["loop_us"] = r.LoopMicroseconds,
        ["experts"] = s.Experts,
        ["width"] = s.Width,
        ["inner"] = s.Inner,
        ["top_k"] = s.TopK,
        ["tokens"] = s.Tokens,
        ["rank"] = s.Rank,
        ["forward_ms"] = r.Many.ForwardMs,
        ["backward_ms"] = r.Many.BackwardMs,
        ["lora_ms"] = r.Many.LoraMs,
        ["total_ms"] = r.Many.BothMs,
        ["forward_tflops"] = r.Many.ForwardTflops,
        ["total_tflops"] = r.Many.BothTflops,
        ["forward_peak_share"] = r.Many.ForwardTflops / r.Many.Peak,
        ["total_peak_share"] = r.Many.BothTflops / r.Many.Peak,
        ["max_rel_error"] = Error(r),
        ["few"] = new JsonArray([.. r.Few.Select(f => (JsonNode)new JsonObject
        {
            ["format"] = f.Format,
            ["tokens"] = f.Tokens,
            ["ms"] = f.Ms,
            ["gb_per_s"] = f.GbPerSecond,
            ["bandwidth_share"] = f.BandwidthShare,
            ["rel_error"] = f.Error,
        })]),
    };
}
