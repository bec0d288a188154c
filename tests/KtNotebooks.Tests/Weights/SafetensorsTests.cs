using System.Buffers.Binary;
using System.Text;

using KtNotebooks.Tensors;
using KtNotebooks.Tests.Tokenizers;
using KtNotebooks.Weights;

using Xunit;

namespace KtNotebooks.Tests.Weights;

public sealed class SafetensorsTests : IDisposable
{
    private readonly Samples.Folder _folder = new();

    private string Target => Path.Combine(_folder.Path, "x.safetensors");

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void What_was_written_is_read_again_bit_by_bit()
    {
        using var a = Tensor.From([1.5f, -0f, float.NaN, float.Epsilon, 1e38f, -7], 2, 3);
        using var b = Tensor.From([1, 2, 3.14159f], DType.BF16, 3);
        using var c = Tensor.From([int.MinValue, 5], 2, 1);
        using var scalar = Tensor.From([4f]);
        using var empty = Tensor.Empty(DType.F32, 0, 7);
        (string, Tensor)[] tensors = [("a", a), ("b.\"quoted\" 名", b), ("c", c), ("scalar", scalar), ("empty", empty)];
        SafetensorsWriter.Write(Target, tensors, new Dictionary<string, string> { ["made by"] = "a test" });

        using var file = new SafetensorsFile(Target);
        Assert.Equal("a test", file.Metadata["made by"]);
        Assert.Equal("pt", file.Metadata["format"]);
        Assert.Equal(tensors.Length, file.Entries.Count);
        foreach (var (name, tensor) in tensors)
        {
            using var read = file.Get(name);
            Assert.Equal(tensor.ToString(), read.ToString());
            Assert.Equal(Bits(tensor), Bits(read));
        }
    }

    [Fact]
    public void Data_begins_at_a_multiple_of_eight_bytes()
    {
        for (var n = 1; n < 10; n++)
        {
            using var t = Tensor.Zeros(DType.F32, 1);
            SafetensorsWriter.Write(Target, [(new string('n', n), t)]);
            Assert.Equal(0, BinaryPrimitives.ReadInt64LittleEndian(File.ReadAllBytes(Target)) % 8);
        }
    }

    public static TheoryData<string, byte[], string> Damaged => new()
    {
        { "empty", [], "is too short for a safetensors header" },

        {
            "a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"u8.ToArray(),
            "does not start with a safetensors header length"
        },

        {
            "header cut off", Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 0)[..30],
            "is truncated: its header needs 62 bytes, the file has 30"
        },

        {
            "data cut off", Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 7),
            "is truncated: tensor 'a' ends at byte 8 of the data, the file has 7"
        },
        { "not JSON", Encode("{\"a\":", 8), "has a damaged safetensors header" },
        { "not an object", Encode("[1, 2, 3]", 8), "has a damaged safetensors header" },
        { "no dtype", Encode("""{"a":{"shape":[2],"data_offsets":[0,8]}}""", 8), "has a damaged safetensors header" },

        {
            "size does not fit the shape", Encode("""{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}""", 8),
            "says tensor 'a' has 8 bytes, but F32[3] needs 12"
        },
        { "size overflows", Encode("""{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}}""", 8), "has a damaged safetensors header" },

        {
            "negative sizes that multiply well", Encode("""{"a":{"dtype":"F32","shape":[-1,-2],"data_offsets":[0,8]}}""", 8),
            "says tensor 'a' has the shape [-1, -2]"
        },
        { "negative start", Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}""", 8), "says tensor 'a' begins at byte -8" },

        {
            "twice the same name", Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8),
            "has a damaged safetensors header"
        },
        { "a tensor that is no object", Encode("""{"a":7}""", 8), "has a damaged safetensors header: tensor 'a' is a number, not an object" },
        { "a shape of texts", Encode("""{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}""", 8),
            "has a damaged safetensors header: tensor 'a' has no 'shape'" },
        { "one offset", Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}""", 8),
            "has a damaged safetensors header: tensor 'a' has no 'data_offsets'" },
        { "half a character", Encode("""{"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 8),
            "has a damaged safetensors header: a text holds half a character" },
        { "unknown type", Encode("""{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}""", 8), "stores tensor 'a' as F4, a type that is not supported" },
    };

    [Theory]
    [MemberData(nameof(Damaged))]
    public void A_damaged_file_is_named_with_what_is_wrong(string what, byte[] bytes, string message)
    {
        File.WriteAllBytes(Target, bytes);
        var error = Assert.Throws<InvalidDataException>(() => new SafetensorsFile(Target));
        Assert.True(error.Message.StartsWith($"{Target} {message}", StringComparison.Ordinal), $"{what}: {error.Message}");
    }

    [Fact]
    public void Garbage_never_crashes_the_reader()
    {
        var random = new Random(3);
        var good = Encode("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}""", 12);
        for (var i = 0; i < 2000; i++)
        {
            var bytes = (byte[])good.Clone();
            for (var n = random.Next(1, 4); n > 0; n--) bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            File.WriteAllBytes(Target, bytes);
            try
            {
                using var file = new SafetensorsFile(Target);
                foreach (var name in file.Entries.Keys)
                {
                    using var tensor = file.Get(name);
                    Bits(tensor); // every byte that the header promises can be read
                }
            }
            catch (InvalidDataException error)
            {
                Assert.StartsWith(Target, error.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void A_missing_file_and_a_missing_tensor_are_named()
    {
        Assert.Contains(Target, Assert.Throws<FileNotFoundException>(() => new SafetensorsFile(Target)).Message, StringComparison.Ordinal);
        File.WriteAllBytes(Target, Encode("{}", 0));
        using var file = new SafetensorsFile(Target);
        Assert.Equal($"{Target} has no tensor 'x'", Assert.Throws<InvalidDataException>(() => file.Get("x")).Message);
    }

    [Fact]
    public void A_tensor_outlives_its_file()
    {
        using var a = Tensor.From([1f, 2, 3], 3);
        SafetensorsWriter.Write(Target, [("a", a)]);
        Tensor view;
        using (var file = new SafetensorsFile(Target)) view = file.Get("a");
        using (view)
        {
            File.Delete(Target);
            Assert.Equal([1, 2, 3], view.ToFloats());
            Assert.True(IsMapped(Target));
        }
        Assert.False(IsMapped(Target));
    }

    /// <summary>Is the file mapped into this process?</summary>
    internal static bool IsMapped(string path) => File.ReadLines("/proc/self/maps").Any(line => line.Contains(path, StringComparison.Ordinal));

    private static byte[] Encode(string header, int dataLength)
    {
        var json = Encoding.UTF8.GetBytes(header);
        var bytes = new byte[8 + json.Length + dataLength];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, json.Length);
        json.CopyTo(bytes, 8);
        return bytes;
    }

    private static unsafe byte[] Bits(Tensor tensor) => new ReadOnlySpan<byte>((void*)tensor.Pointer, (int)tensor.ByteLength).ToArray();
}
