using KtNotebooks.Tensors;
namespace KtNotebooks.Ops;
internal static class RouteKernels
{
    public static void Sort(Tensor indices, int experts, Tensor offsets, Tensor routes, Tensor rowOf) => throw new NotSupportedException();
    public static void Gather(Tensor x, Tensor routes, int k, Tensor rows) => throw new NotSupportedException();
    public static void Combine(Tensor rows, int firstRow, Tensor rowOf, Tensor? weights, int k, Tensor y, bool add) => throw new NotSupportedException();
    public static void SwiGluBackward(Tensor dh, Tensor g, Tensor u, Tensor routes, Tensor weights, Tensor dWeights, Tensor h, Tensor rowWeights) => throw new NotSupportedException();
    public static void ScaleRows(Tensor rows, Tensor weights) => throw new NotSupportedException();
}
