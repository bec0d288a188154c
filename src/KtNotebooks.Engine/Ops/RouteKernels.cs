using KtNotebooks.Tensors;

namespace KtNotebooks.Ops;

internal static class RouteKernels
{
    public static void Sort(Tensor indices, int experts, Tensor offsets, Tensor routes, Tensor rowOf) => throw new NotSupportedException();

    public static void Gather(Tensor x, Tensor routes, int first, int count, int k, Tensor xs) => throw new NotSupportedException();

    public static void Combine(Tensor rows, Tensor rowOf, int first, int count, int k, Tensor? weights, Tensor y, bool add) => throw new NotSupportedException();

    public static void SwiGlu(Tensor g, Tensor u, Tensor h) => throw new NotSupportedException();

    public static void SwiGluGrad(Tensor dh, Tensor g, Tensor u, Tensor weights, Tensor routes, int first, Tensor dg, Tensor du, Tensor? h, Tensor dWeights) => throw new NotSupportedException();

    public static void ScaleRows(Tensor x, Tensor weights, Tensor? routes, int first) => throw new NotSupportedException();
}
