namespace KtNotebooks.Interop;

internal static class Cpu { public static bool IsNative => false; }

internal static unsafe class Native
{
    public static void Ok(int s) { }
    public static int kt_grouped_linear(int E, int* offsets, long N, long K, void* x, int typeX, void* xl, void** W, int typeW, int r, float** A, float** B, float scale, float* p, void* y, int typeY) => 0;
    public static int kt_grouped_linear_dx(int E, int* offsets, long N, long K, void* dy, int typeDy, void** W, int typeW, int r, float** A, float** B, float scale, float* q, void* dx, void* dxl, int typeDx) => 0;
    public static int kt_grouped_lora_grad(int E, int* offsets, long N, long K, void* xl, int typeX, float* p, void* dy, int typeDy, float* q, int r, float scale, float** dA, float** dB) => 0;
    public static int kt_grouped_weight_grad(int E, int* offsets, long N, long K, void* x, int typeX, void* dy, int typeDy, float** dW) => 0;
    public static int kt_attention(int nseq, int* sq, int* sk, int H, int Hk, int D, int Dv, float scale, void* q, void* k, void* v, int type, void* o, float* lse) => 0;
    public static int kt_attention_grad(int nseq, int* sq, int* sk, int H, int Hk, int D, int Dv, float scale, void* q, void* k, void* v, void* o, float* lse, void* dout, int type, void* dq, void* dk, void* dv) => 0;
}
