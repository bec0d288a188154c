using KtNotebooks.Interop.Cuda;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests.Ops;

/// <summary>
/// The attention kernels of a card where their tiles end: sequences around the 128 rows of a tile and the 32 of a step, several tiles, cached keys, shared
/// key heads, every choice of kernel by head size. Against the definition, as in the harness.
/// </summary>
[Trait("card", "cuda")]
[Collection(Alone.Name)]
public class AttentionKernelTests
{
    private static readonly Dictionary<string, Spans> Sequences = new()
    {
        ["one of 1"] = Spans.Self([0, 1]),
        ["one of 127, 128 and 129"] = Spans.Self([0, 127, 255, 384]),
        ["one of 300"] = Spans.Self([0, 300]),
        ["many short ones, some empty"] = Spans.Self([0, 0, 1, 3, 3, 20, 36, 69, 100, 101, 101]),
        ["cached, one new row each"] = new Spans([0, 1, 2, 3], [0, 1, 34, 167]),
        ["cached, a piece of a prompt"] = new Spans([0, 40, 40, 75], [0, 173, 180, 215]),
    };

    public static TheoryData<string, int, int, int, int> Cases
    {
        get
        {
            var data = new TheoryData<string, int, int, int, int>();
            foreach (var name in Sequences.Keys)
            {
                data.Add(name, 2, 2, 192, 128); // MLA
                data.Add(name, 4, 2, 128, 128); // grouped queries
                data.Add(name, 3, 1, 16, 48);
            }
            data.Add("one of 300", 1, 1, 256, 256);
            data.Add("cached, a piece of a prompt", 2, 1, 256, 128); // dK and dV in two walks
            data.Add("one of 300", 2, 1, 112, 160);
            data.Add("one of 127, 128 and 129", 2, 1, 40, 24); // no multiples of 16
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void A_card_gives_what_the_definition_gives(string name, int H, int Hk, int D, int Dv)
    {
        Require.Hardware("cuda", CudaDevice.Missing);
        var spans = Sequences[name];
        var (Tq, Tk) = (spans.Queries[^1], spans.Keys[^1]);
        foreach (var type in (DType[])[DType.BF16, DType.F32])
        {
            if (type == DType.F32 && D > 48) continue; // one kernel for all sizes: the small ones show it
            // Scores of unit variance times three: some rows look at one key nearly alone, and the running maximum moves.
            var test = new OpCase(typeof(Attention), $"{type} {name}", (Tk * H / Hk)
                + D, [Input.Of(type, Tq, H, D), Input.Of(type, Tk, Hk, D), Input.Of(type, Tk, Hk, Dv)],
                x => [Attention.Apply(x[0], x[1], x[2], spans, 3 / MathF.Sqrt(D))])
            { Roundings = 4, Terms = 1 };
            // dP − delta cancels terms of size √Dv that carry the rounding of out; dq and dk take them times scale and a key or query of up to √3.
            var gradient = test with { Terms = 3 * MathF.Sqrt(3f * Dv / D) };
            var (expected, actual) = (OpHarness.Plain(test), OpHarness.Run(test, Variant.Of("cuda:0")));
            if (Tolerance.Difference($"{type} output", test, expected.Outputs[0], actual.Outputs[0]) is { } wrong) Assert.Fail(wrong);
            for (var i = 0; i < 3; i++)
                if (Tolerance.Difference($"{type} gradient of input {i}", i < 2 ? gradient : test, expected.Gradients[i], actual.Gradients[i]) is { } off)
                    Assert.Fail(off);
        }
    }
}
