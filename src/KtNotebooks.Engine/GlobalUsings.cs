// System.Numerics.Tensors has a Tensor of its own; here the word means ours.
global using Tensor = KtNotebooks.Tensors.Tensor;
