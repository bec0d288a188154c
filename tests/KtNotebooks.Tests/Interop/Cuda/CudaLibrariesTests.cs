using KtNotebooks.Interop;
using KtNotebooks.Interop.Cuda;

using Xunit;

namespace KtNotebooks.Tests.Interop.Cuda;

public class CudaLibrariesTests
{
    [Fact]
    public void A_missing_library_lists_every_path_tried()
    {
        var error = Assert.Throws<FileNotFoundException>(() => NativeLibraries.Open("frob",
            ["/nowhere/libfrob.so.13", "libfrob-of-nobody.so.13"], CudaLibraries.Advice, out _));
        Assert.Equal("frob was not found; tried /nowhere/libfrob.so.13, libfrob-of-nobody.so.13 (the loader's path). Install it, or set CUDA_HOME to the "
            + "folder of a CUDA toolkit", error.Message);
    }

    [Fact]
    public void A_file_that_is_no_library_is_said_to_be_there()
    {
        var file = Path.GetTempFileName();
        try
        {
            Assert.Contains($"{file} (there, but does not load)",
                Assert.Throws<FileNotFoundException>(() => NativeLibraries.Open("frob", [file], CudaLibraries.Advice, out _)).Message);
        }
        finally
        {
            File.Delete(file);
        }
    }

    [Fact]
    public void Only_major_versions_that_the_driver_can_run_are_tried()
    {
        Assert.DoesNotContain(CudaLibraries.Versioned("nvrtc", 12), p => p.EndsWith(".13", StringComparison.Ordinal));
        var all = CudaLibraries.Versioned("nvrtc", 13).ToList();
        Assert.Contains("libnvrtc.so.12", all);
        Assert.True(all.IndexOf("libnvrtc.so.13") < all.IndexOf("libnvrtc.so.12"));
        Assert.Equal("the NVIDIA driver is for CUDA 11; this program needs a driver for CUDA 12 or newer",
            Assert.Throws<NotSupportedException>(() => CudaLibraries.Versioned("nvrtc", 11).ToList()).Message);
    }
}
