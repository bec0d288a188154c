using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace KtNotebooks.Interop.Cuda;

/// <summary>The run-time compiler: CUDA C++ text to machine code of one architecture, or to PTX where this compiler does not know the card yet.</summary>
internal static unsafe partial class Nvrtc
{
    private const string Library = CudaLibraries.Nvrtc;
    private static readonly Lazy<int> NewestArchitecture = new(FindNewestArchitecture);

    /// <summary>1000 · major + minor.</summary>
    public static int Version
    {
        get
        {
            int major, minor;
            Ok(nvrtcVersion(&major, &minor));
            return (major * 1000) + minor;
        }
    }

    /// <summary>`-arch=sm_90`, or `-arch=compute_NN` of the newest architecture known here when the card is newer: the driver then compiles the PTX.</summary>
    public static string ArchitectureOption(int architecture) => architecture <= NewestArchitecture.Value ? $"-arch=sm_{architecture}"
        : $"-arch=compute_{NewestArchitecture.Value}";

    /// <exception cref="InvalidDataException">The text does not compile: the compiler's log and the numbered source.</exception>
    public static byte[] Compile(string name, string source, IReadOnlyList<string> options)
    {
        var pointers = new nint[options.Count];
        for (var i = 0; i < pointers.Length; i++) pointers[i] = Marshal.StringToCoTaskMemUTF8(options[i]);
        nint program = 0;
        try
        {
            var (text, title) = (Encoding.UTF8.GetBytes(source + '\0'), Encoding.UTF8.GetBytes(name + ".cu\0"));
            fixed (byte* s = text, t = title) Ok(nvrtcCreateProgram(&program, s, t, 0, null, null));
            int status;
            fixed (nint* o = pointers) status = nvrtcCompileProgram(program, pointers.Length, (byte**)o);
            if (status != 0) throw new InvalidDataException($"{name}.cu does not compile ({string.Join(' ', options)}):\n{Log(program)}\n{Numbered(source)}");
            nuint bytes;
            var real = options.Any(o => o.StartsWith("-arch=sm_", StringComparison.Ordinal));
            Ok(real ? nvrtcGetCUBINSize(program, &bytes) : nvrtcGetPTXSize(program, &bytes));
            var image = new byte[bytes];
            fixed (byte* p = image) Ok(real ? nvrtcGetCUBIN(program, p) : nvrtcGetPTX(program, p));
            return image;
        }
        finally
        {
            if (program != 0) _ = nvrtcDestroyProgram(&program);
            foreach (var pointer in pointers) Marshal.FreeCoTaskMem(pointer);
        }
    }

    private static int FindNewestArchitecture()
    {
        int count;
        Ok(nvrtcGetNumSupportedArchs(&count));
        var architectures = new int[count];
        fixed (int* p = architectures) Ok(nvrtcGetSupportedArchs(p));
        return architectures.Max();
    }

    private static string Log(nint program)
    {
        nuint bytes;
        Ok(nvrtcGetProgramLogSize(program, &bytes));
        var log = new byte[bytes];
        fixed (byte* p = log) Ok(nvrtcGetProgramLog(program, p));
        return Encoding.UTF8.GetString(log).TrimEnd('\0', '\n');
    }

    private static string Numbered(string source) => string.Join('\n', source.Split('\n').Select((line, i) => $"{i + 1,4}  {line}"));

    private static void Ok(int status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status != 0) throw new KtNativeException("NVRTC", call, status, Marshal.PtrToStringUTF8((nint)nvrtcGetErrorString(status)) ?? "no text");
    }

    [LibraryImport(Library)] private static partial int nvrtcVersion(int* major, int* minor);

    [LibraryImport(Library)] private static partial byte* nvrtcGetErrorString(int status);

    [LibraryImport(Library)] private static partial int nvrtcGetNumSupportedArchs(int* count);

    [LibraryImport(Library)] private static partial int nvrtcGetSupportedArchs(int* architectures);

    [LibraryImport(Library)]
    private static partial int nvrtcCreateProgram(nint* program, byte* source, byte* name, int headers, byte** headerTexts,
        byte** headerNames);

    [LibraryImport(Library)] private static partial int nvrtcCompileProgram(nint program, int count, byte** options);

    [LibraryImport(Library)] private static partial int nvrtcGetProgramLogSize(nint program, nuint* bytes);

    [LibraryImport(Library)] private static partial int nvrtcGetProgramLog(nint program, byte* log);

    [LibraryImport(Library)] private static partial int nvrtcGetCUBINSize(nint program, nuint* bytes);

    [LibraryImport(Library)] private static partial int nvrtcGetCUBIN(nint program, byte* image);

    [LibraryImport(Library)] private static partial int nvrtcGetPTXSize(nint program, nuint* bytes);

    [LibraryImport(Library)] private static partial int nvrtcGetPTX(nint program, byte* image);

    [LibraryImport(Library)] private static partial int nvrtcDestroyProgram(nint* program);
}
