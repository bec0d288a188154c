// The whole C ABI of libktnative: CPU kernels that pay in C++. C# declares the same names in Interop/Native.cs.
//
// Conventions: every function returns 0, or a status whose text kt_last_error() gives (thread-local); nothing throws across the border.
// Matrices are row-major; `ld` is the distance between rows in elements. Types: KT_F32, KT_BF16 (storage; sums are always F32).
// "overwrites" / "adds" says what happens to the output. R rows, N outputs, K inputs of a linear layer, r LoRA rank, E experts.
// Grouped functions: rows [offsets[e], offsets[e+1]) of the row matrices belong to expert e (offsets: E+1 ints, offsets[0] = 0,
// offsets[E] = R); per-expert matrices are arrays of E pointers; an expert without rows is never read. A dense layer is E = 1.
#pragma once
#include <stdint.h>

#include "formats.h"
#if defined(__cplusplus)
extern "C" {
#endif
#define KT_API __attribute__((visibility("default")))

// Weights may be low-bit; a value is code · scale, dequantized block by block to the type of the rows that it meets.

// ---- library -------------------------------------------------------------------------------------------------------------
KT_API int32_t kt_abi_version(void);       // 9
KT_API const char* kt_last_error(void);    // of the calling thread; never null
KT_API const char* kt_cpu_variants(void);  // supported here, best first, comma-separated: "amx,avx512bf16,avx512,avx2"
// Chooses the variant (null or "": the best; "amx-emulated", for tests, computes AMX tiles with loops) and sizes the thread pool (0: all
// physical processors this process may use). Callable again.
KT_API int32_t kt_init(const char* variant, int32_t threads);
KT_API const char* kt_cpu_variant(void);  // the chosen one
KT_API int32_t kt_threads(void);
// A loop of the caller on the same threads. kt_begin: the pool's threads call task(context, i) for indices that they take; a task must not
// throw. null: they do not, and the caller runs all of [0, count) itself (loops within loops; one thread). Else it takes indices too, by
// kt_next until that is -1, and must then call kt_end, which returns when all that was taken is done.
KT_API void* kt_begin(int64_t count, void (*task)(void* context, int64_t index), void* context);
KT_API int64_t kt_next(void* job);
KT_API void kt_end(void* job);
// On: a row's results do not depend on the rows that are computed with it, bit for bit (few rows then take the slower path of many).
// For calls from the calling thread; off at first.
KT_API void kt_set_row_invariant(int32_t on);
// From now until kt_unwatch(begin) a read of these mapped bytes that the file no longer has (SIGBUS) writes the line to standard error and
// ends the process with exit code 2. Other addresses go to the handler that was there when the first map came.
KT_API int32_t kt_watch(const void* begin, int64_t bytes, const char* line);
KT_API void kt_unwatch(const void* begin);

// Ceilings, on all threads. Registers alone are multiplied, of the type (F32 or BF16) by the variant in use: *flop operations were done.
KT_API int32_t kt_spin(int32_t type, int64_t rounds, double* flop);
// Reads so many bytes once, a thread at 1 or 4 places of a mebibyte in turn.
KT_API int32_t kt_read(const void* data, int64_t bytes, int32_t places);

// ---- dense GEMM ----------------------------------------------------------------------------------------------------------
// C[M,N] = alpha · op(A)·op(B) + beta · C, op(X) = X or Xᵀ (transA: A is stored [K,M]; transB: B is stored [N,K]).
KT_API int32_t kt_gemm(int32_t transA, int32_t transB, int64_t M, int64_t N, int64_t K, float alpha, const void* A, int64_t lda,
                       int32_t typeA, const void* B, int64_t ldb, int32_t typeB, float beta, void* C, int64_t ldc, int32_t typeC);

// ---- grouped linear with LoRA --------------------------------------------------------------------------------------------
// y[i,:] = W_e x[i,:] + scale · B_e (A_e xl[i,:]) for the rows i of each expert e; the sum is rounded to y's type once.
// x [R,K] ; xl [R,K] what LoRA sees, like x (x itself, or x with dropout) ; W_e [N,K] ; A_e [r,K] f32 ; B_e [N,r] f32 ;
// y [R,N] overwritten ; p [R,r] f32 = A_e xl, overwritten, kept for backward. loraA null: no LoRA (xl, p unused).
// scalesW: per-expert scales of low-bit W, else unused. typeW may be KT_BF16 | KT_TILED where rows are BF16 (kt_multiplies_tiles).
KT_API int32_t kt_grouped_linear(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* xl,
                                 const void* const* W, int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA,
                                 const float* const* loraB, float scale, float* p, void* y, int32_t typeY);
// dx[i,:] = W_eᵀ dy[i,:]  (+ A_eᵀ q[i,:] when dxl is null) ; q[i,:] = scale · B_eᵀ dy[i,:] ; dxl[i,:] = A_eᵀ q[i,:].
// dy [R,N] ; q [R,r] f32 overwritten ; dx, dxl [R,K] overwritten. dx may be null: only q (and dxl) are computed.
KT_API int32_t kt_grouped_linear_dx(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* dy, int32_t typeDy,
                                    const void* const* W, int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA,
                                    const float* const* loraB, float scale, float* q, void* dx, void* dxl, int32_t typeDx);
// dA_e [r,K] = qᵀ xl ; dB_e [N,r] = scale · dyᵀ p over the rows of e; overwritten (zero where e has no rows).
KT_API int32_t kt_grouped_lora_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* xl, int32_t typeX, const float* p,
                                    const void* dy, int32_t typeDy, const float* q, int32_t r, float scale, float* const* dA,
                                    float* const* dB);
// dW_e [N,K] f32 = dyᵀ x over the rows of e; overwritten (zero where e has no rows). Full-parameter training.
KT_API int32_t kt_grouped_weight_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* dy,
                                      int32_t typeDy, float* const* dW);
// Rows [row, row + rows) of a low-bit matrix with rows of K elements → out [rows,K] of typeOut, overwritten. On the calling thread alone.
KT_API int32_t kt_dequantize(int32_t type, const void* data, const void* scales, int64_t K, int64_t row, int64_t rows, void* out,
                             int32_t typeOut);

// 1 where the variant in use multiplies tiled BF16 weights (KT_BF16 | KT_TILED, formats.h); else tiles are refused.
KT_API int32_t kt_multiplies_tiles(void);
// rows [N,K] of BF16 → tiles, overwritten: round(N) · round(K) elements, rounded up to 32. On the calling thread alone.
KT_API int32_t kt_tile(int64_t N, int64_t K, const void* rows, void* tiles);

// ---- a layer of routed experts ---------------------------------------------------------------------------------------------
// y[t] = Σ_j weights[t,j] · down_e( silu(gate_e x[t]) · up_e x[t] ), each projection with its low-rank pair where there is one, in BF16.
// Row i of the R sorted rows is route routes[i] = t · top_k + j: its token t, its weight weights[routes[i]]. Gate, up [I,D] ; down [D,I].
// Rows are gathered and h is made where they are packed: neither is ever stored whole by the forward.
typedef struct {
    const void* const* W;        // E matrices
    const void* const* scalesW;  // E, of low-bit ones
    const float* const* A;       // E of [r,in] ; null: no low-rank pair
    const float* const* B;       // E of [out,r]
    int32_t typeW, r;
} kt_projection;
typedef struct {
    int32_t E, top_k;
    int64_t T, D, I;
    const int32_t* offsets;
    const int32_t* routes;
    kt_projection gate, up, down;
    float scale;  // of the low-rank pairs
} kt_experts;

// x [T,D] bf16 ; weights [T,top_k] f32 ; g, u [R,I] bf16 and pGate, pUp, pDown [R,r] f32 overwritten, kept for backward (p null without
// pairs) ; rows [R,D] bf16 working memory ; y [T,D] of typeY overwritten, zero for tokens without a route here. y null: the activations
// alone (rows unused). Where tokens are few, experts with few rows are multiplied by dot products, unless rows are to be alike
// (kt_set_row_invariant); those of other experts are rounded to BF16 before they are summed.
KT_API int32_t kt_experts_forward(const kt_experts* experts, const void* x, const float* weights, void* g, void* u, float* pGate,
                                  float* pUp, float* pDown, void* rows, void* y, int32_t typeY);
// dx [T,D] of typeDx = Σ of a token's routes, overwritten ; dWeights[routes[i]] written ; dA, dB of gate, up, down overwritten (all null:
// not wanted; zero where an expert has no rows). Working memory: rows [R,D], h, dh, du [R,I] bf16 ; qGate, qUp, qDown [R,r] f32 (null
// without pairs).
typedef struct {
    void *rows, *h, *dh, *du;
    float *qGate, *qUp, *qDown;
    float *const *dAGate, *const *dBGate, *const *dAUp, *const *dBUp, *const *dADown, *const *dBDown;
} kt_experts_backward;
KT_API int32_t kt_experts_grad(const kt_experts* experts, const void* dy, const void* x, const float* weights, const void* g, const void* u,
                               const float* pGate, const float* pUp, const float* pDown, const kt_experts_backward* work, void* dx,
                               int32_t typeDx, float* dWeights);

// ---- attention -----------------------------------------------------------------------------------------------------------
// Block-diagonal causal attention. Sequence s owns query rows [startsQ[s], startsQ[s+1]) and key rows [startsK[s], startsK[s+1]);
// query j of a sequence with Lq queries and Lk keys sees keys 0 … Lk − Lq + j (Lk ≥ Lq: the first Lk − Lq keys are the cache).
// q [Tq,H,D], k [Tk,Hk,D], v [Tk,Hk,Dv], out [Tq,H,Dv] overwritten, one type for all; H a multiple of Hk; lse [Tq,H] f32 overwritten
// (log-sum-exp of the scaled scores). With window > 0 a query sees the last `window` of these keys alone.
KT_API int32_t kt_attention(int32_t nseq, const int32_t* startsQ, const int32_t* startsK, int32_t H, int32_t Hk, int32_t D, int32_t Dv,
                            int32_t window, float scale, const void* q, const void* k, const void* v, int32_t type, void* out, float* lse);
// The same over a paged cache, for inference: key j of sequence s is row pages[firstPage[s] + j / pageRows] · pageRows + j % pageRows of k
// and v, whose rows are pitchK and pitchV elements apart; counts[s] keys, those of its queries included. v may be k: values are then the
// first Dv columns of the keys (Hk = 1). lse may be null. Few or many rows, alone or among others, on any pages: the same bits.
KT_API int32_t kt_attention_cached(int32_t nseq, const int32_t* startsQ, const int32_t* counts, const int32_t* firstPage,
                                   const int32_t* pages, int32_t pageRows, int32_t H, int32_t Hk, int32_t D, int32_t Dv, int32_t window,
                                   float scale, const void* q, const void* k, int64_t pitchK, const void* v, int64_t pitchV, int32_t type,
                                   void* out, float* lse);
// dq, dk, dv like q, k, v; all overwritten. out, lse from the forward.
KT_API int32_t kt_attention_grad(int32_t nseq, const int32_t* startsQ, const int32_t* startsK, int32_t H, int32_t Hk, int32_t D, int32_t Dv,
                                 int32_t window, float scale, const void* q, const void* k, const void* v, const void* out,
                                 const float* lse, const void* dout, int32_t type, void* dq, void* dk, void* dv);
#if defined(__cplusplus)
}
#endif
