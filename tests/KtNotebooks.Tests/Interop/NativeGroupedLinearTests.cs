using KtNotebooks.Interop;

using Xunit;

namespace KtNotebooks.Tests.Interop;

/// <summary>The grouped linear layer with LoRA and its four gradients, against sums in double over every row, expert and type.</summary>
[Collection("cpu variant")]
public sealed unsafe class NativeGroupedLinearTests
{
    public static TheoryData<string> Variants => OnVariant.All;

    // Rows of each expert: empty ones, single rows, all in one, more than one range of 512.
    private static readonly int[][] Groups = [[1], [0, 3, 0], [4, 0, 5, 1], [13, 0, 0, 0], [0, 0], [2, 33, 100], [0, 520]];

    [Theory, MemberData(nameof(Variants))]
    public void All_passes_equal_the_definition(string variant)
    {
        using var on = new OnVariant(variant);
        var random = new Random(11);
        var ranks = new[] { 0, 1, 4, 8, 64 };
        var index = 0;
        foreach (var group in Groups)
            foreach (var rank in ranks)
                for (var types = 0; types < 4; types++, index++)
                {
                    int n = 1 + random.Next(70), k = 1 + random.Next(70);
                    using var layer = new Layer(random, group, n, k, rank, typeX: types & 1, typeW: types >> 1, dropout: index % 2 == 1);
                    layer.CheckForward();
                    layer.CheckInputGradient(withDx: index % 3 != 2);
                    layer.CheckWeightGradients();
                }
    }

    [Theory, MemberData(nameof(Variants))]
    public void Long_reductions_cross_the_blocks_of_k(string variant)
    {
        using var on = new OnVariant(variant);
        var random = new Random(12);
        for (var types = 0; types < 4; types++)
        {
            using var layer = new Layer(random, [7, 2], 401, 1003, 8, types & 1, types >> 1, dropout: true);
            layer.CheckForward();
            layer.CheckInputGradient(withDx: true);
            layer.CheckWeightGradients();
        }
    }

    /// <summary>A random layer; outputs of a pass are the next one's inputs, as in training.</summary>
    private sealed class Layer : IDisposable
    {
        private const float Scale = 1.75f;
        private readonly int _n, _k, _r, _rows, _typeX, _typeW;
        private readonly int[] _offsets;
        private readonly Numbers _x, _xl, _dy, _p, _q;
        private readonly Numbers?[] _w, _a, _b;
        private readonly List<Numbers> _tiles = [];

        public Layer(Random random, int[] group, int n, int k, int r, int typeX, int typeW, bool dropout)
        {
            (_n, _k, _r, _typeX, _typeW) = (n, k, r, typeX, typeW);
            _offsets = [0, .. group.Select((_, e) => group.Take(e + 1).Sum())];
            _rows = group.Sum();
            _x = new(_rows * k, typeX, random);
            _xl = new(_rows * k, typeX, random);
            for (var i = 0; i < _xl.Count; i++)
                _xl[i] = dropout ? (random.Next(4) == 0 ? 0 : _x[i]) : _x[i];
            _dy = new(_rows * n, typeX, random);
            (_p, _q) = (new(_rows * r, Native.F32), new(_rows * r, Native.F32));
            // Experts without rows have no weights: reading them would crash.
            _w = [.. group.Select(rows => rows > 0 ? new Numbers(n * k, typeW, random) : null)];
            _a = [.. group.Select(rows => rows > 0 && r > 0 ? new Numbers(r * k, Native.F32, random) : null)];
            _b = [.. group.Select(rows => rows > 0 && r > 0 ? new Numbers(n * r, Native.F32, random) : null)];
            Dropout = dropout;
        }

        private bool Dropout { get; }

        /// <summary>Beside BF16 rows an F32 side is the sum of two BF16 parts (gemm.h): 2⁻¹⁷ of each product is lost, 2⁻¹⁶ where both sides are.</summary>
        private double Lost => _typeX == Native.BF16 && Cpu.MultipliesTiles ? 1.0 / (1 << 16) : 0;

        /// <summary>Rows, and tiles where these rows meet such.</summary>
        private IEnumerable<bool> Layouts => _typeX == Native.BF16 && _typeW == Native.BF16 && Cpu.MultipliesTiles ? [false, true] : [false];

        private int CodeOf(bool tiled) => tiled ? _typeW | Native.Tiled : _typeW;

        private Numbers?[] WeightsIn(bool tiled) => tiled ? [.. _w.Select(w => w is null ? null : Tiled(w))] : _w;

        private Numbers Tiled(Numbers rows)
        {
            static int Padded(int n) => (n + 31) / 32 * 32;
            var tiles = new Numbers(Padded(_n) * Padded(_k), Native.BF16);
            Native.Ok(Native.kt_tile(_n, _k, rows.Pointer, tiles.Pointer));
            _tiles.Add(tiles);
            return tiles;
        }

        private int Experts => _offsets.Length - 1;
        private string Where => $"{Cpu.Variant} rows [{string.Join(' ', _offsets)}] N{_n} K{_k} r{_r} types {_typeX}{_typeW} dropout {Dropout}";

        private int Expert(int row) => Enumerable.Range(0, Experts).First(e => row < _offsets[e + 1]);

        private static nint[] Pointers(Numbers?[] numbers) => [.. numbers.Select(x => x is null ? 0 : (nint)x.Pointer)];

        public void CheckForward()
        {
            foreach (var tiled in Layouts) CheckForward(tiled);
        }

        private void CheckForward(bool tiled)
        {
            using var y = new Numbers(_rows * _n, _typeX);
            fixed (int* offsets = _offsets)
            fixed (nint* w = Pointers(WeightsIn(tiled)), a = Pointers(_a), b = Pointers(_b))
                Native.Ok(Native.kt_grouped_linear(Experts, offsets, _n, _k, _x.Pointer, _typeX, _xl.Pointer, (void**)w, CodeOf(tiled), null, _r,
                    _r > 0 ? (float**)a : null, _r > 0 ? (float**)b : null, Scale, _p.Floats, y.Pointer, _typeX));
            for (var i = 0; i < _rows; i++)
            {
                Numbers w = _w[Expert(i)]!, a = _a[Expert(i)]!, b = _b[Expert(i)]!;
                var p = new Reference[_r];
                for (var j = 0; j < _r; j++)
                {
                    p[j] = Reference.Sum(_k, l => _xl[i * _k + l], l => a[j * _k + l]);
                    p[j].Check(_p, i * _r + j, _k, () => $"p, {Where}", Lost);
                }
                for (var j = 0; j < _n; j++)
                {
                    var y0 = Reference.Sum(_k, l => _x[i * _k + l], l => w[j * _k + l]);
                    var lora = Reference.Sum(_r, l => Scale * p[l].Value, l => b[j * _r + l]);
                    var size = Reference.Sum(_r, l => Scale * p[l].Magnitude, l => Math.Abs(b[j * _r + l])).Value;
                    new Reference(y0.Value + lora.Value, y0.Magnitude + size).Check(y, i * _n + j, _k + _r, () => $"y, {Where}", Lost);
                }
            }
        }

        // With dropout LoRA's share of dx goes to dxl; without, it is added to dx.
        public void CheckInputGradient(bool withDx)
        {
            foreach (var tiled in Layouts) CheckInputGradient(withDx, tiled);
        }

        private void CheckInputGradient(bool withDx, bool tiled)
        {
            var separate = _r > 0 && (Dropout || !withDx);
            using var dx = new Numbers(_rows * _k, _typeX);
            using var dxl = new Numbers(_rows * _k, _typeX);
            fixed (int* offsets = _offsets)
            fixed (nint* w = Pointers(WeightsIn(tiled)), a = Pointers(_a), b = Pointers(_b))
                Native.Ok(Native.kt_grouped_linear_dx(Experts, offsets, _n, _k, _dy.Pointer, _typeX, withDx ? (void**)w : null, CodeOf(tiled), null, _r,
                    _r > 0 ? (float**)a : null, _r > 0 ? (float**)b : null, Scale, _q.Floats, withDx ? dx.Pointer : null, separate ? dxl.Pointer : null,
                    _typeX));
            for (var i = 0; i < _rows; i++)
            {
                Numbers w = _w[Expert(i)]!, a = _a[Expert(i)]!, b = _b[Expert(i)]!;
                var q = new Reference[_r];
                for (var j = 0; j < _r; j++)
                {
                    var sum = Reference.Sum(_n, l => _dy[i * _n + l], l => b[l * _r + j]);
                    q[j] = new(Scale * sum.Value, Scale * sum.Magnitude);
                    q[j].Check(_q, i * _r + j, _n, () => $"q, {Where}", Lost);
                }
                for (var j = 0; j < _k; j++)
                {
                    var lora = new Reference(Reference.Sum(_r, l => q[l].Value, l => a[l * _k + j]).Value,
                        Reference.Sum(_r, l => q[l].Magnitude, l => Math.Abs(a[l * _k + j])).Value);
                    var main = Reference.Sum(_n, l => _dy[i * _n + l], l => w[l * _k + j]);
                    if (separate)
                        lora.Check(dxl, i * _k + j, _n + _r, () => $"dxl, {Where}", Lost);
                    if (withDx)
                        (separate ? main : new(main.Value + lora.Value, main.Magnitude + lora.Magnitude))
                            .Check(dx, i * _k + j, _n + _r, () => $"dx, {Where}", Lost);
                }
            }
        }

        public void CheckWeightGradients()
        {
            Numbers[] Outputs(int count) => [.. Enumerable.Range(0, Experts).Select(_ => new Numbers(count, Native.F32))];
            Numbers[] dw = Outputs(_n * _k), da = Outputs(_r * _k), db = Outputs(_n * _r);
            fixed (int* offsets = _offsets)
            fixed (nint* w = Pointers(dw), a = Pointers(da), b = Pointers(db))
            {
                Native.Ok(Native.kt_grouped_weight_grad(Experts, offsets, _n, _k, _x.Pointer, _typeX, _dy.Pointer, _typeX, (float**)w));
                if (_r > 0)
                    Native.Ok(Native.kt_grouped_lora_grad(Experts, offsets, _n, _k, _xl.Pointer, _typeX, _p.Floats, _dy.Pointer, _typeX,
                        _q.Floats, _r, Scale, (float**)a, (float**)b));
            }
            for (var e = 0; e < Experts; e++)
            {
                int first = _offsets[e], rows = _offsets[e + 1] - first;
                for (var i = 0; i < _n; i++)
                    for (var j = 0; j < _k; j++)
                        Reference.Sum(rows, l => _dy[(first + l) * _n + i], l => _x[(first + l) * _k + j]).Check(dw[e], i * _k + j, rows, () => $"dW, {Where}");
                for (var i = 0; i < _r; i++)
                    for (var j = 0; j < _k; j++)
                        Reference.Sum(rows, l => _q[(first + l) * _r + i], l => _xl[(first + l) * _k + j])
                            .Check(da[e], i * _k + j, rows, () => $"dA, {Where}", Lost);
                for (var i = 0; i < _n; i++)
                    for (var j = 0; j < _r; j++)
                        Reference.Sum(rows, l => Scale * _dy[(first + l) * _n + i], l => _p[(first + l) * _r + j])
                            .Check(db[e], i * _r + j, rows, () => $"dB, {Where}", Lost);
            }
            foreach (var output in (Numbers[])[.. dw, .. da, .. db])
                output.Dispose();
        }

        public void Dispose()
        {
            foreach (var numbers in (Numbers?[])[_x, _xl, _dy, _p, _q, .. _w, .. _a, .. _b, .. _tiles])
                numbers?.Dispose();
        }
    }
}
