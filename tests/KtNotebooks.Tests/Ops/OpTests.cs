using System.Reflection;

using KtNotebooks.Autograd;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>
/// The same questions for every op: is it right, is it the same everywhere, is the gradient right, does it fail well, is it repeatable, does it leak.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)] // buffers alive are counted process-wide
public class OpTests
{
    public static TheoryData<string, string> CasesEverywhere
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (var test in OpCases.All)
                foreach (var variant in Variant.Present)
                    data.Add(test.Name, variant.Name);
            return data;
        }
    }

    /// <summary>Those of several outputs with a gradient; of one, a missing gradient would be no backward pass at all.</summary>
    public static TheoryData<string, string> CasesOfSeveralOutputs
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (var test in OpCases.All.Where(c => OpHarness.Plain(c).Outputs.Count(o => o is not null) > 1))
                foreach (var variant in Variant.Present)
                    data.Add(test.Name, variant.Name);
            return data;
        }
    }

    public static TheoryData<string> FloatCases => [.. OpCases.All.Where(c => c.Precision == DType.F32 && c.Smooth).Select(c => c.Name)];

    public static TheoryData<string> Errors => [.. OpErrors.All.Select(e => e.What)];

    public static TheoryData<string> Variants => [.. Variant.Known.Where(v => v.IsCuda || !Require.EmulatedCard).Select(v => v.Name)];

    private static IEnumerable<Type> AllOps => typeof(Op).Assembly.GetTypes()
        .Where(t => t.IsSubclassOf(typeof(Op)) && t is { IsAbstract: false, IsPublic: true });

    /// <summary>The other questions are asked of the variants that are here; this one says which are not, once.</summary>
    [Theory]
    [MemberData(nameof(Variants))]
    public void The_variant_is_here(string name)
    {
        var variant = Variant.Of(name);
        Require.Hardware(variant.IsCuda ? "cuda" : variant.Kernels!, variant.Missing);
    }

    [Theory]
    [MemberData(nameof(CasesEverywhere))]
    public void Every_variant_gives_what_the_definition_gives(string name, string variant)
    {
        var (test, where) = (OpCases.Named(name), Variant.Of(variant));
        using var kernels = where.Use();
        Same(test, OpHarness.Plain(test), OpHarness.Run(test, where));
    }

    [Theory]
    [MemberData(nameof(CasesEverywhere))]
    public void Two_runs_give_the_same_bits(string name, string variant)
    {
        var (test, where) = (OpCases.Named(name), Variant.Of(variant));
        using var kernels = where.Use();
        var (first, second) = (OpHarness.Run(test, where), OpHarness.Run(test, where));
        for (var i = 0; i < first.Outputs.Length; i++) Assert.Equal(first.Outputs[i], second.Outputs[i]);
        for (var i = 0; i < first.Gradients.Length; i++) Assert.Equal(first.Gradients[i], second.Gradients[i]);
    }

    [Theory]
    [MemberData(nameof(CasesEverywhere))]
    public void Each_gradient_may_be_asked_for_alone(string name, string variant)
    {
        var (test, where) = (OpCases.Named(name), Variant.Of(variant));
        using var kernels = where.Use();
        var all = OpHarness.Plain(test);
        for (var only = 0; only < test.Inputs.Length; only++)
        {
            if (all.Gradients[only] is null) continue;
            // Expert matrices are trained together: an op may take them as one input group.
            var group = test.Together?.Contains(only) == true ? test.Together : [only];
            var alone = OpHarness.Run(test, where, i => group.Contains(i));
            Agree($"gradient of input {only}", test, all.Gradients[only], alone.Gradients[only]);
        }
    }

    [Theory]
    [MemberData(nameof(CasesOfSeveralOutputs))]
    public void A_missing_output_gradient_counts_as_zero(string name, string variant)
    {
        var (test, where) = (OpCases.Named(name), Variant.Of(variant));
        using var kernels = where.Use();
        var outputs = OpHarness.Run(test, where).Outputs;
        Assert.True(outputs.Count(o => o is not null) > 1);
        for (var missing = 0; missing < outputs.Length; missing++)
            if (outputs[missing] is not null)
                Same(test, OpHarness.Run(test, where, missing: missing, missingAsZero: true), OpHarness.Run(test, where, missing: missing));
    }

    [Theory]
    [MemberData(nameof(CasesEverywhere))]
    public void Nothing_leaks(string name, string variant)
    {
        var (test, where) = (OpCases.Named(name), Variant.Of(variant));
        using var kernels = where.Use();
        OpHarness.Run(test, where); // what is cached for good is made now
        GC.Collect(); // and what failed tests left behind is gone
        GC.WaitForPendingFinalizers();
        var (count, bytes) = (Tensors.Buffer.AliveCount, Tensors.Buffer.AliveBytes);
        OpHarness.Run(test, where);
        Assert.Equal((count, bytes), (Tensors.Buffer.AliveCount, Tensors.Buffer.AliveBytes));
    }

    [Fact]
    public void A_kernel_that_fails_leaves_nothing()
    {
        GC.Collect();
        GC.WaitForPendingFinalizers();
        var before = Tensors.Buffer.AliveCount;
        using (var x = Tensor.Zeros(DType.F32, 2, 4))
        using (var weights = Tensor.Zeros(DType.F32, 2, 1))
        using (var indices = Tensor.From([0, 2], 2, 1)) // found out while the kernel sorts them
        using (var gate = Tensor.Zeros(DType.F32, 2, 3, 4))
        using (var down = Tensor.Zeros(DType.F32, 2, 4, 3))
        {
            var set = new ExpertSet(Matrices.Stack(gate), Matrices.Stack(gate), Matrices.Stack(down));
            Assert.Throws<ArgumentException>(() => RoutedExperts.Apply(x, weights, indices, set));
        }
        Assert.Equal(before, Tensors.Buffer.AliveCount);
    }

    /// <summary>
    /// The definition's gradient against four-point differences of the definition: at most eight elements of each input. Outputs are stored in F32, so the
    /// difference carries a rounding of every output that moves, divided by the step; the error of the formula itself is of the fourth order in the step.
    /// </summary>
    [Theory]
    [MemberData(nameof(FloatCases))]
    public void The_gradient_is_the_slope(string name)
    {
        const float Step = 1f / 64;
        var test = OpCases.Named(name);
        var gradients = OpHarness.Plain(test).Gradients;
        var inputs = test.MakeInputs();
        for (var i = 0; i < inputs.Length; i++) inputs[i].RequiresGrad = test.Inputs[i].Trained;
        try
        {
            for (var i = 0; i < inputs.Length; i++)
            {
                if (gradients[i] is not { } gradient) continue;
                var largest = gradient.Select(Math.Abs).DefaultIfEmpty().Max();
                for (var at = 0; at < gradient.Length; at += Math.Max(1, gradient.Length / 8))
                {
                    var slope = Slope(test, inputs, inputs[i].Span<float>(), at, Step, out var size);
                    var limit = (1e-4 * largest) + (4 * size / (1 << 23) / Step);
                    Assert.True(Math.Abs(slope - gradient[at]) <= limit,
                        $"gradient of input {i}[{at}] is {gradient[at]:R}, the slope is {slope:R}, allowed {limit:g3}");
                }
            }
        }
        finally
        {
            foreach (var input in inputs) input.Dispose();
        }
    }

    [Theory]
    [MemberData(nameof(Errors))]
    public void A_wrong_argument_is_named(string what)
    {
        var error = OpErrors.All.Single(e => e.What == what);
        using var scratch = Tape.Scratch();
        Assert.Equal(error.Message, Assert.Throws<ArgumentException>(error.Act).Message);
    }

    [Fact]
    public void Every_op_has_a_cuda_kernel() =>
        Assert.Empty(AllOps.Where(t => t.GetMethod("Cuda", BindingFlags.NonPublic | BindingFlags.Instance)!.DeclaringType == typeof(Op)).Select(t => t.Name));

    [Fact]
    public void Every_op_has_cases_in_both_types_and_an_error()
    {
        foreach (var op in AllOps)
        {
            var cases = OpCases.All.Where(c => c.Op == op).ToList();
            Assert.True(cases.Exists(c => c.Precision == DType.F32), $"{op.Name} has no F32 case in OpCases");
            // A router reads logits in F32 alone.
            Assert.True(op.Name == "Router" || cases.Exists(c => c.Precision == DType.BF16), $"{op.Name} has no BF16 case in OpCases");
            Assert.True(OpErrors.All.Any(e => e.Op == op), $"{op.Name} has no wrong argument in OpErrors");
        }
    }

    private static void Same(OpCase test, OpResult expected, OpResult actual)
    {
        for (var i = 0; i < expected.Outputs.Length; i++)
        {
            Assert.Equal(expected.Indices[i], actual.Indices[i]);
            Agree($"output {i}", test, expected.Outputs[i], actual.Outputs[i]);
        }
        for (var i = 0; i < expected.Gradients.Length; i++) Agree($"gradient of input {i}", test, expected.Gradients[i], actual.Gradients[i]);
    }

    private static void Agree(string what, OpCase test, float[]? expected, float[]? actual)
    {
        Assert.Equal(expected is null, actual is null);
        if (expected is not null && Tolerance.Difference(what, test, expected, actual) is { } difference) Assert.Fail(difference);
    }

    /// <summary>(8 (f(h) − f(−h)) − (f(2h) − f(−2h))) / 12h at one element.</summary>
    private static double Slope(OpCase test, Tensor[] inputs, Span<float> values, int at, float step, out double size)
    {
        var value = values[at];
        Span<double> losses = stackalloc double[4];
        ReadOnlySpan<int> steps = [1, -1, 2, -2];
        size = 0;
        for (var i = 0; i < 4; i++)
        {
            values[at] = value + (steps[i] * step);
            (losses[i], size) = OpHarness.Loss(test, inputs);
        }
        // What was really added: value + step is rounded.
        double h = ((double)(value + step) - (value - step)) / 2;
        values[at] = value;
        return ((8 * (losses[0] - losses[1])) - (losses[2] - losses[3])) / (12 * h);
    }
}
