// The grouped linear layer with LoRA, forward and backward, as lists of products (gemm.h). Formulas and shapes: kt.h.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu.h"
#include "gemm.h"
#include "low_rank.h"

namespace kt {
namespace {

constexpr int32_t F32 = KT_F32;

Matrix rows_of(const void* x, int32_t type, int64_t width, int64_t first) { return Matrix{x, type, width, 1}.from(first, 0); }

Product& with(Product& p, const Matrix& a, const Matrix& b, int64_t k, float scale = 1) {
    p.terms[p.term_count++] = {a, b, k, scale};
    return p;
}

// Calls body(expert, first row, rows) for each expert that has rows.
template <class Body>
void each_expert(int32_t E, const int32_t* offsets, Body&& body) {
    for (int32_t e = 0; e < E; e++)
        if (offsets[e + 1] > offsets[e]) body(e, static_cast<int64_t>(offsets[e]), static_cast<int64_t>(offsets[e + 1] - offsets[e]));
}

// Beside BF16 rows low-rank pairs are multiplied by BF16 registers, in parts.
Product& with_lora(Product& p, const Matrix& a, const Matrix& b, int64_t k, int32_t type_rows, float scale = 1) {
    p.terms[p.term_count++] = {a, b, k, scale, type_rows == KT_BF16};
    return p;
}

void check_experts(const char* what, const void* const* W, int32_t E, const int32_t* offsets) {
    need(what, W);
    each_expert(E, offsets, [&](int32_t e, int64_t, int64_t rows) {
        if (!W[e]) throw Error(InvalidArgument, "%s[%d] is null, but expert %d has %lld rows", what, e, e, static_cast<long long>(rows));
    });
}

void grouped_linear(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* xl,
                    const void* const* W, int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA,
                    const float* const* loraB, float scale, float* p, void* y, int32_t typeY) {
    const bool lora = loraA != nullptr;
    int64_t R = check_offsets(E, offsets);
    check_size("N", N), check_size("K", K), check_type("typeX", typeX), check_weights(typeW, K, typeX), check_type("typeY", typeY);
    if (R == 0) return;
    need("x", x), need("y", y), check_experts("W", W, E, offsets);
    if (is_low_bit(typeW)) check_experts("scalesW", scalesW, E, offsets);
    if (lora) {
        check_size("r", r), need("xl", xl), need("p", p);
        check_experts("loraA", reinterpret_cast<const void* const*>(loraA), E, offsets);
        check_experts("loraB", reinterpret_cast<const void* const*>(loraB), E, offsets);
    }
    std::vector<Product> low, full;
    each_expert(E, offsets, [&](int32_t e, int64_t first, int64_t rows) {
        Product out = onto(y, typeY, N, first, rows, 1);
        with(out, rows_of(x, typeX, K, first), weights_of(W[e], typeW, scalesW ? scalesW[e] : nullptr, K), K);
        if (lora) {
            Product down = onto(p, F32, r, first, rows, 1);
            low.push_back(with_lora(down, rows_of(xl, typeX, K, first), {loraA[e], F32, K, 1}, K, typeX));
            with_lora(out, rows_of(p, F32, r, first), {loraB[e], F32, r, 1}, r, typeX, scale);
        }
        full.push_back(out);
    });
    multiply(std::move(low));
    multiply(std::move(full));
}

void grouped_linear_dx(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* dy, int32_t typeDy, const void* const* W,
                       int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA, const float* const* loraB,
                       float scale, float* q, void* dx, void* dxl, int32_t typeDx) {
    const bool lora = loraA != nullptr;
    int64_t R = check_offsets(E, offsets);
    check_size("N", N), check_size("K", K), check_type("typeDy", typeDy), check_weights(typeW, K, typeDy), check_type("typeDx", typeDx);
    if (R == 0) return;
    need("dy", dy);
    if (dx) check_experts("W", W, E, offsets);
    if (dx && is_low_bit(typeW)) check_experts("scalesW", scalesW, E, offsets);
    if (lora) {
        check_size("r", r), need("q", q);
        check_experts("loraA", reinterpret_cast<const void* const*>(loraA), E, offsets);
        check_experts("loraB", reinterpret_cast<const void* const*>(loraB), E, offsets);
    } else if (dxl) {
        throw Error(InvalidArgument, "dxl is given, but loraA is null: without LoRA there is no such gradient");
    }
    std::vector<Product> low, full;
    each_expert(E, offsets, [&](int32_t e, int64_t first, int64_t rows) {
        Matrix dyE = rows_of(dy, typeDy, N, first), qE = lora ? rows_of(q, F32, r, first) : Matrix{};
        Matrix aT = lora ? Matrix{loraA[e], F32, 1, K} : Matrix{};  // [K, r]
        if (lora) {
            Product down = onto(q, F32, r, first, rows, scale);
            low.push_back(with_lora(down, dyE, {loraB[e], F32, 1, r}, N, typeDy));
        }
        if (dx) {
            Product out = onto(dx, typeDx, K, first, rows, 1);
            with(out, dyE, weights_of(W[e], typeW, scalesW ? scalesW[e] : nullptr, K).transposed(), N);
            if (lora && !dxl) with_lora(out, qE, aT, r, typeDy);
            full.push_back(out);
        }
        if (dxl) {
            Product out = onto(dxl, typeDx, K, first, rows, 1);
            full.push_back(with_lora(out, qE, aT, r, typeDy));
        }
    });
    multiply(std::move(low));
    multiply(std::move(full));
}

void grouped_lora_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* xl, int32_t typeX, const float* p,
                       const void* dy, int32_t typeDy, const float* q, int32_t r, float scale, float* const* dA, float* const* dB) {
    int64_t R = check_offsets(E, offsets);
    check_size("N", N), check_size("K", K), check_size("r", r), check_type("typeX", typeX), check_type("typeDy", typeDy);
    if (R > 0) need("xl", xl), need("p", p), need("dy", dy), need("q", q);
    need("dA", dA), need("dB", dB);
    std::vector<OuterSum> sums;
    for (int32_t e = 0; e < E; e++) {
        if (!dA[e] || !dB[e]) throw Error(InvalidArgument, "%s[%d] is null", dA[e] ? "dB" : "dA", e);
        const int64_t first = offsets[e], rows = offsets[e + 1] - first;
        sums.push_back({{rows_of(xl, typeX, K, first).data, typeX, K, rows, nullptr}, q + first * r, r, K, 1, dA[e], false});
        sums.push_back({{rows_of(dy, typeDy, N, first).data, typeDy, N, rows, nullptr}, p + first * r, r, N, scale, dB[e], true});
    }
    add_up(sums);
}

void grouped_weight_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* dy,
                         int32_t typeDy, float* const* dW) {
    int64_t R = check_offsets(E, offsets);
    check_size("N", N), check_size("K", K), check_type("typeX", typeX), check_type("typeDy", typeDy);
    if (R > 0) need("x", x), need("dy", dy);
    need("dW", dW);
    std::vector<Product> products;
    for (int32_t e = 0; e < E; e++) {
        if (!dW[e]) throw Error(InvalidArgument, "dW[%d] is null", e);
        int64_t first = offsets[e], rows = offsets[e + 1] - first;
        Product w = onto(dW[e], F32, K, 0, N, 1);
        if (rows > 0) with(w, rows_of(dy, typeDy, N, first).transposed(), rows_of(x, typeX, K, first).transposed(), rows);
        products.push_back(w);
    }
    multiply(std::move(products));
}

void gemm(int32_t transA, int32_t transB, int64_t M, int64_t N, int64_t K, float alpha, const void* A, int64_t lda, int32_t typeA,
          const void* B, int64_t ldb, int32_t typeB, float beta, void* C, int64_t ldc, int32_t typeC) {
    check_extent("M", M), check_extent("N", N), check_extent("K", K);
    check_type("typeA", typeA), check_type("typeB", typeB), check_type("typeC", typeC);
    check_stride("lda", lda, transA ? M : K), check_stride("ldb", ldb, transB ? K : N), check_stride("ldc", ldc, N);
    if (M == 0 || N == 0) return;
    need("C", C);
    if (K > 0) need("A", A), need("B", B);
    Product p = onto(C, typeC, N, 0, M, alpha);
    p.rows = ldc;
    p.beta = beta;
    Matrix a{A, typeA, lda, 1}, b{B, typeB, 1, ldb};
    if (K > 0) with(p, transA ? a.transposed() : a, transB ? b.transposed() : b, K);
    multiply({p});
}

void dequantize(int32_t type, const void* data, const void* scales, int64_t K, int64_t row, int64_t rows, void* out, int32_t typeOut) {
    check_size("K", K), check_extent("row", row), check_extent("rows", rows), check_type("typeOut", typeOut),
        check_weights(type, K, KT_BF16);
    if (type <= KT_BF16) throw Error(InvalidArgument, "type must be a low-bit format, 2 to %d, but is %d", KT_FORMATS - 1, type);
    if (rows == 0) return;
    need("data", data), need("scales", scales), need("out", out);
    kernels().dequantize({data, type, K, 1, {scales, K, row, 0, false}}, rows, K, out, typeOut);
}

void tile(int64_t N, int64_t K, const void* rows, void* tiles) {
    check_size("N", N), check_size("K", K), need("rows", rows), need("tiles", tiles);
    const int64_t padded = (K + TileUnit - 1) / TileUnit * TileUnit, strip = padded * TileRows * 2;
    char* to = static_cast<char*>(tiles);
    for (int64_t i = 0; i < (N + TileUnit - 1) / TileUnit * TileUnit; i += TileRows, to += strip) {
        if (i < N)
            kernels().pack(to, 2, {static_cast<const uint16_t*>(rows) + i * K, KT_BF16, K, 1}, std::min(TileRows, N - i), K, TileRows, 2,
                           padded, 1, Whole);
        else
            std::memset(to, 0, strip);
    }
}

}  // namespace
}  // namespace kt

using kt::guarded;

int32_t kt_gemm(int32_t transA, int32_t transB, int64_t M, int64_t N, int64_t K, float alpha, const void* A, int64_t lda, int32_t typeA,
                const void* B, int64_t ldb, int32_t typeB, float beta, void* C, int64_t ldc, int32_t typeC) {
    return guarded("kt_gemm", [&] { kt::gemm(transA, transB, M, N, K, alpha, A, lda, typeA, B, ldb, typeB, beta, C, ldc, typeC); });
}

int32_t kt_grouped_linear(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* xl,
                          const void* const* W, int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA,
                          const float* const* loraB, float scale, float* p, void* y, int32_t typeY) {
    return guarded("kt_grouped_linear",
                   [&] { kt::grouped_linear(E, offsets, N, K, x, typeX, xl, W, typeW, scalesW, r, loraA, loraB, scale, p, y, typeY); });
}

int32_t kt_grouped_linear_dx(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* dy, int32_t typeDy, const void* const* W,
                             int32_t typeW, const void* const* scalesW, int32_t r, const float* const* loraA, const float* const* loraB,
                             float scale, float* q, void* dx, void* dxl, int32_t typeDx) {
    return guarded("kt_grouped_linear_dx", [&] {
        kt::grouped_linear_dx(E, offsets, N, K, dy, typeDy, W, typeW, scalesW, r, loraA, loraB, scale, q, dx, dxl, typeDx);
    });
}

int32_t kt_grouped_lora_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* xl, int32_t typeX, const float* p,
                             const void* dy, int32_t typeDy, const float* q, int32_t r, float scale, float* const* dA, float* const* dB) {
    return guarded("kt_grouped_lora_grad", [&] { kt::grouped_lora_grad(E, offsets, N, K, xl, typeX, p, dy, typeDy, q, r, scale, dA, dB); });
}

int32_t kt_grouped_weight_grad(int32_t E, const int32_t* offsets, int64_t N, int64_t K, const void* x, int32_t typeX, const void* dy,
                               int32_t typeDy, float* const* dW) {
    return guarded("kt_grouped_weight_grad", [&] { kt::grouped_weight_grad(E, offsets, N, K, x, typeX, dy, typeDy, dW); });
}

int32_t kt_dequantize(int32_t type, const void* data, const void* scales, int64_t K, int64_t row, int64_t rows, void* out,
                      int32_t typeOut) {
    return guarded("kt_dequantize", [&] { kt::dequantize(type, data, scales, K, row, rows, out, typeOut); });
}

int32_t kt_multiplies_tiles(void) { return kt::kernels().bf16.element != 0; }

int32_t kt_tile(int64_t N, int64_t K, const void* rows, void* tiles) {
    return guarded("kt_tile", [&] { kt::tile(N, K, rows, tiles); });
}
