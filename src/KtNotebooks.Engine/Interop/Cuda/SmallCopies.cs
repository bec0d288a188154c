namespace KtNotebooks.Interop.Cuda;

/// <summary>
/// Copies between host and card by kernels that read or write pinned memory over the bus, for what must not stand behind the experts' copies: the engines
/// serve all streams in the order in which commands came, and gigabytes of experts are queued ahead. A list of tiles that went by one waited for all of them,
/// and with it the thread that drives the card (140 of 160 ms of a layer of DeepSeek-V3, `kt bench train --trace`); so did low-rank pairs and inputs that
/// come back.
/// </summary>
internal sealed unsafe class SmallCopies(CudaDevice card)
{
    /// <summary>More than so many bytes go by a copy engine.</summary>
    public const long Most = 1 << 18;

    private const long ChunkBytes = 1 << 20, Line = 64;

    private const string Source = """
        // Four bytes a thread.
        extern "C" __global__ void copy_few(const unsigned char* from, unsigned char* to, long long bytes)
        {
            long long at = (blockIdx.x * (long long)blockDim.x + threadIdx.x) * 4;
            if (at + 4 <= bytes && (((unsigned long long)from | (unsigned long long)to) & 3) == 0)
                *(unsigned int*)(to + at) = *(const unsigned int*)(from + at);
            else
                for (long long i = at; i < at + 4 && i < bytes; i++) to[i] = from[i];
        }

        struct __align__(16) Sixteen { unsigned int v[4]; };

        // Four times 16 bytes a thread are on their way at a time.
        extern "C" __global__ void copy_many(const unsigned char* from, unsigned char* to, long long bytes)
        {
            long long all = gridDim.x * (long long)blockDim.x, self = blockIdx.x * (long long)blockDim.x + threadIdx.x, count = bytes / 16;
            const Sixteen* source = (const Sixteen*)from;
            Sixteen* target = (Sixteen*)to;
            long long i = self;
            for (; i + 3 * all < count; i += 4 * all)
            {
                Sixteen a = source[i], b = source[i + all], c = source[i + 2 * all], d = source[i + 3 * all];
                target[i] = a;
                target[i + all] = b;
                target[i + 2 * all] = c;
                target[i + 3 * all] = d;
            }
            for (; i < count; i += all) target[i] = source[i];
            for (long long at = count * 16 + self; at < bytes; at += all) to[at] = from[at];
        }
        """;

    private static readonly CudaProgram Program = new("SmallCopies", Source);
    private readonly Lock _gate = new();
    private readonly Queue<(PinnedMemory Chunk, CudaEvent Read)> _full = [];
    private PinnedMemory? _chunk;
    private long _used;

    /// <summary>The host's bytes may change when this returns.</summary>
    public void ToCard(nint target, void* source, long bytes)
    {
        lock (_gate)
        {
            if (_chunk is null || _used + bytes > ChunkBytes) _chunk = Next();
            var place = _chunk.Pointer + (nint)_used;
            _used += (bytes + Line - 1) / Line * Line;
            System.Buffer.MemoryCopy(source, (void*)place, bytes, bytes);
            Copy(target, place, bytes);
        }
    }

    /// <summary>
    /// Any number of bytes of pinned memory, in the order of another stream: beside what the copy engines have queued, with which it shares the bus.
    /// Pointers are multiples of 16.
    /// </summary>
    public void Fetch(CudaStream stream, nint target, nint pinned, long bytes)
    {
        const int Blocks = 8, Threads = 512; // 0.26 MB on their way keep the bus busy; more of them take multiprocessors from products
        Program.Kernel(card, "copy_many", "").Launch(stream, (Blocks, 1, 1), Threads, 0, pinned, target, bytes);
    }

    /// <summary>From or to pinned memory; who reads there waits for the compute stream first.</summary>
    public void Copy(nint target, nint source, long bytes)
    {
        const int Threads = 256;
        var blocks = (int)((bytes + (4 * Threads) - 1) / (4 * Threads));
        card.Use();
        Program.Kernel(card, "copy_few", "").Launch((blocks, 1), Threads, source, target, bytes);
    }

    /// <summary>The chunk that was full first, where the card has read all of it; else a new one.</summary>
    private PinnedMemory Next()
    {
        if (_chunk is { } full)
        {
            var read = new CudaEvent(card);
            read.Record(card.Compute);
            _full.Enqueue((full, read));
        }
        _used = 0;
        if (!_full.TryPeek(out var oldest) || !oldest.Read.IsReached) return new PinnedMemory(card, ChunkBytes);
        _full.Dequeue();
        oldest.Read.Dispose();
        return oldest.Chunk;
    }
}
