using KtNotebooks.Bench;
using KtNotebooks.Experts;
using KtNotebooks.Formats;
using KtNotebooks.Interop.Cuda;
using KtNotebooks.Tensors;
using KtNotebooks.Weights;

namespace KtNotebooks.Tests.Experts;

/// <summary>What a disk does, or does not, in a test.</summary>
/// <param name="before">Told the file and the place of every read before it happens.</param>
/// <param name="after">Given the bytes that were read, says how many it was.</param>
/// <param name="direct">Past the page cache.</param>
internal sealed class TestDisk(Action<string, long>? before = null, Func<int, int>? after = null, bool direct = true)
{
    private int _reads;

    public int Reads => _reads;

    /// <summary>A ring of its own, small ones above all.</summary>
    public Func<CudaDevice, DiskRing> Ring(int blocks = 4, int readers = 2, int block = 1 << 20, double patience = 5) => card =>
        new DiskRing(card, file => new Reader(this, new DirectFile(file, direct)), blocks, readers, block) { Patience = TimeSpan.FromSeconds(patience) };

    private int Read(DirectFile file, nint target, long at, int count)
    {
        Interlocked.Increment(ref _reads);
        before?.Invoke("", at);
        var got = file.Read(target, at, count);
        return after?.Invoke(got) ?? got;
    }

    private sealed class Reader(TestDisk disk, DirectFile file) : IShardReader
    {
        public int Read(nint target, long at, int count) => disk.Read(file, target, at, count);

        public void Dispose() => file.Dispose();
    }
}

/// <summary>A checkpoint of expert banks alone, its tensors dealt out to shards, each at an odd place.</summary>
internal static class DiskFixture
{
    public const int E = 8, D = 256, I = 128;

    public static string Path(int bank) => $"model.layers.{bank}.mlp.experts";

    /// <param name="scales">Type in which FP8's scales are stored.</param>
    public static string Write(string folder, StorageFormat format, int banks = 1, int shards = 1, DType? scales = null)
    {
        Directory.CreateDirectory(folder);
        var weights = new PatternWeights(Device.Cpu, format);
        List<(string Name, Tensor Tensor)>[] files = [.. Enumerable.Range(0, shards).Select(s =>
            new List<(string, Tensor)> { ($"filler.{s}", Tensor.Zeros(DType.U8, 37 + (2 * s))) })];
        var next = 0;
        for (var b = 0; b < banks; b++)
            foreach (var (names, n, k) in ((ExpertProjection, int, int)[])
                [(ExpertNames.Each(Path(b)).Gate, I, D), (ExpertNames.Each(Path(b)).Up, I, D), (ExpertNames.Each(Path(b)).Down, D, I)])
            {
                var matrices = weights.TakeExperts(names, DType.BF16, E, n, k);
                for (var e = 0; e < E; e++)
                {
                    var (name, data) = (names.Weight(e), matrices.Data(e));
                    void Put(string suffix, Tensor tensor) => files[next++ % shards].Add((name + suffix, tensor));
                    if (format == StorageFormat.Int4) Put("_packed", data.Reinterpret(0, DType.I32, n, k / 8));
                    else Put("", data);
                    if (matrices.Scales(e) is not { } scale) continue;
                    if (scales is { } type && type != scale.Type) scale = scale.To(type);
                    Put(format == StorageFormat.Int4 ? "_scale" : "_scale_inv", scale);
                }
            }
        var map = new System.Text.Json.Nodes.JsonObject();
        for (var s = 0; s < shards; s++)
        {
            var file = $"model-{s + 1:D5}-of-{shards:D5}.safetensors";
            SafetensorsWriter.Write(System.IO.Path.Combine(folder, file), files[s]);
            foreach (var (name, tensor) in files[s])
            {
                map[name] = file;
                tensor.Dispose();
            }
        }
        File.WriteAllText(System.IO.Path.Combine(folder, "model.safetensors.index.json"), new System.Text.Json.Nodes.JsonObject { ["weight_map"] = map }
            .ToJsonString());
        return folder;
    }

    public static ExpertBank Bank(Checkpoint checkpoint, int bank = 0) => new(checkpoint, ExpertNames.Each(Path(bank)), DType.BF16, E, D, I) { TopK = 2 };

    /// <summary>Opens a group and fails unless every byte of every piece is the checkpoint's.</summary>
    public static void OpenAndCompare(ExpertBank bank, ExpertBank expected, int group)
    {
        var (streamed, layout) = ((StreamedExperts)bank.Executor, bank.Layout);
        var visit = new GroupVisit(streamed, group);
        var (first, count) = streamed.Groups[group];
        using var copy = Tensor.Empty(DType.U8, count * layout.ExpertBytes);
        var card = CudaDevice.Get(0);
        unsafe
        {
            card.Read((void*)copy.Pointer, bank.Stream!.Open(visit), copy.ByteLength);
        }
        bank.Stream.Close(visit);
        for (var e = first; e < first + count; e++)
            foreach (var (matrices, piece) in ((Matrices, BankLayout.Piece)[])
                [(expected.Set.Gate, layout.Gate), (expected.Set.Up, layout.Up), (expected.Set.Down, layout.Down)])
            {
                void Same(Tensor? stored, long at)
                {
                    if (stored is null) return;
                    using (stored)
                    using (var bytes = stored.Reinterpret(0, DType.U8, stored.ByteLength))
                        Xunit.Assert.True(copy.Span<byte>().Slice((int)(((e - first) * layout.ExpertBytes) + at), (int)stored.ByteLength)
                            .SequenceEqual(bytes.Span<byte>()), $"expert {e}, {piece.N} x {piece.K}");
                }
                Same(matrices.Data(e), piece.Data);
                Same(matrices.Scales(e), piece.Scales);
            }
    }
}
