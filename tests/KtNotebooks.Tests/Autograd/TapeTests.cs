using KtNotebooks.Autograd;
using KtNotebooks.Ops;
using KtNotebooks.Tensors;
using KtNotebooks.Tests.Models;

using Xunit;

namespace KtNotebooks.Tests.Autograd;

/// <summary>Who owns what, and where gradients go; the ops have tests of their own.</summary>
[Collection("cpu variant")]
public class TapeTests
{
    [Fact]
    public void A_tensor_that_is_used_often_gets_the_sum_of_its_gradients()
    {
        using var a = Leaf(1, 2);
        using var dy = Tensor.From([10f, 20], 2);
        using (var tape = Tape.Record())
        {
            var twice = Add.Apply(a, a);
            tape.Backward(Add.Apply(Add.Apply(twice, a), twice), dy);
        }
        Assert.Equal([50, 100], a.Grad!.ToFloats());
        Assert.Equal([10, 20], dy.ToFloats()); // the caller's gradient is only read
    }

    [Fact]
    public void Gradients_of_several_passes_add_up()
    {
        using var a = Leaf(1, 2);
        using var dy = Tensor.From([1f, 2], 2);
        for (var pass = 0; pass < 3; pass++)
        {
            using var tape = Tape.Record();
            tape.Backward(Add.Apply(a, a), dy);
        }
        Assert.Equal([6, 12], a.Grad!.ToFloats());
    }

    [Fact]
    public void Only_what_a_gradient_can_reach_is_recorded()
    {
        using var a = Leaf(1, 2);
        using var frozen = Tensor.From([3f, 4], 2);
        using var tape = Tape.Record();
        var constant = Add.Apply(frozen, frozen);
        Assert.Empty(tape.Frames);
        Assert.False(constant.RequiresGrad);
        var y = Add.Apply(constant, a);
        Assert.Single(tape.Frames);
        using var dy = Tensor.From([1f, 1], 2);
        tape.Backward(y, dy);
        Assert.Empty(tape.Frames);
        Assert.Null(frozen.Grad);
        using (var scratch = Tape.Scratch())
        {
            Add.Apply(a, a);
            Assert.Empty(scratch.Frames);
        }
    }

    [Fact]
    public void A_tape_frees_what_was_made_under_it_but_for_what_is_kept()
    {
        using var a = Leaf(1, 2);
        var before = Tiny.Alive().Count;
        Tensor kept;
        using (var tape = Tape.Record())
        {
            var b = Add.Apply(a, a);
            kept = tape.Keep(Add.Apply(b, b));
            using (var inner = Tape.Scratch()) Add.Apply(a, a);
            Add.Apply(b, a);
        }
        Assert.Equal(before + 1, KtNotebooks.Tensors.Buffer.AliveCount);
        Assert.Equal([4, 8], kept.ToFloats());
        kept.Dispose();
        Assert.Equal(before, KtNotebooks.Tensors.Buffer.AliveCount);
    }

    [Fact]
    public void Backward_leaves_nothing_but_the_leaves_gradients()
    {
        using var a = Leaf(1, 2);
        using var dy = Tensor.From([1f, 1], 2);
        var before = Tiny.Alive().Count;
        using var tape = Tape.Record();
        var y = a;
        for (var i = 0; i < 5; i++) y = Add.Apply(y, a);
        tape.Backward(y, dy);
        Assert.Equal(before + 1, KtNotebooks.Tensors.Buffer.AliveCount);
    }

    [Fact]
    public void Only_a_scalar_starts_from_one()
    {
        using var a = Leaf(1, 2);
        using var tape = Tape.Record();
        Assert.Equal("[Tape] backward from F32[2] needs its gradient; only a scalar starts from 1",
            Assert.Throws<ArgumentException>(() => tape.Backward(Add.Apply(a, a))).Message);
    }

    private static Tensor Leaf(params float[] values)
    {
        var leaf = Tensor.From(values, values.Length);
        leaf.RequiresGrad = true;
        return leaf;
    }
}
