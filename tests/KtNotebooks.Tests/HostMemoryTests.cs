using KtNotebooks.Interop;
using KtNotebooks.Tensors;

using Xunit;

namespace KtNotebooks.Tests;

/// <summary>Weights that the machine has no room for are refused before the system kills the process.</summary>
public class HostMemoryTests
{
    [Fact]
    public void More_than_there_is_is_refused_and_what_there_is_is_not()
    {
        var memory = HostMemory.Read();
        if (memory.Count == 0) Assert.Skip("this system has no /proc/meminfo");
        Assert.InRange(memory["MemAvailable"], 1, memory["MemTotal"]);
        HostMemory.Require(16 << 20);
        var message = Assert.Throws<InsufficientMemoryException>(() => HostMemory.Require(memory["MemTotal"])).Message;
        Assert.StartsWith($"{ByteSize.Text(memory["MemTotal"])} more do not fit the host memory, of which ", message, StringComparison.Ordinal);
        Assert.Contains("map the weights", message, StringComparison.Ordinal);
        Assert.Contains("fewer tokens a step", Assert.Throws<InsufficientMemoryException>(() => HostMemory.RequirePinned(memory["MemTotal"])).Message,
            StringComparison.Ordinal);
    }
}
