// The tensor cores: what a warp does together, done by its last lane. The layouts are those of PTX's ldmatrix and mma.m16n8k16; Prelude.cu
// states them.
#include <cstdint>
#include <cstring>

#include "block.h"

namespace {

float widen(uint32_t bits16) {
    uint32_t bits = bits16 << 16;
    float v;
    memcpy(&v, &bits, 4);
    return v;
}

void load_matrix(void** payloads, bool transposed) {
    uint16_t rows[4][8][8];
    for (int lane = 0; lane < 32; lane++) {
        auto row = static_cast<KtLoadMatrixPayload*>(payloads[lane])->row;
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
            kt::BlockRunner::here()->fail(716, "load_matrix: a row's address is not a multiple of 16");
        memcpy(rows[lane / 8][lane % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
        auto registers = static_cast<KtLoadMatrixPayload*>(payloads[lane])->registers;
        int g = lane / 4, t = lane % 4 * 2;
        for (int m = 0; m < 4; m++) {
            uint32_t low = transposed ? rows[m][t][g] : rows[m][g][t], high = transposed ? rows[m][t + 1][g] : rows[m][g][t + 1];
            registers[m] = low | high << 16;
        }
    }
}

}  // namespace

extern "C" {

void kt_complete_load_matrix(unsigned, void** payloads) { load_matrix(payloads, false); }
void kt_complete_load_matrix_trans(unsigned, void** payloads) { load_matrix(payloads, true); }

void kt_complete_mma(unsigned, void** payloads) {
    typedef float Row __attribute__((vector_size(32)));
    alignas(32) float a[16][16], b[16][8];
    Row c[16];
    auto wide = [](uint32_t pair) { return uint64_t{pair & 0xffff0000u} << 32 | pair << 16; };  // two BF16 as two floats
    for (int lane = 0; lane < 32; lane++) {
        auto p = static_cast<KtMmaPayload*>(payloads[lane]);
        int g = lane / 4, t = lane % 4 * 2;
        for (int quarter = 0; quarter < 4; quarter++) {
            auto pair = wide(p->a[quarter]);
            memcpy(&a[g + quarter % 2 * 8][t + quarter / 2 * 8], &pair, 8);
        }
        for (int half = 0; half < 2; half++) {
            b[t + half * 8][g] = widen(p->b[half] & 0xffff);
            b[t + half * 8 + 1][g] = widen(p->b[half] >> 16);
            memcpy(reinterpret_cast<float*>(&c[g + half * 8]) + t, p->c + 2 * half, 8);
        }
    }
    for (int m = 0; m < 16; m += 4) {  // four sums at a time hide each other's latency
        Row c0 = c[m], c1 = c[m + 1], c2 = c[m + 2], c3 = c[m + 3];
        for (int k = 0; k < 16; k++) {
            Row row;
            memcpy(&row, b[k], sizeof row);
            c0 += a[m][k] * row;
            c1 += a[m + 1][k] * row;
            c2 += a[m + 2][k] * row;
            c3 += a[m + 3][k] * row;
        }
        c[m] = c0;
        c[m + 1] = c1;
        c[m + 2] = c2;
        c[m + 3] = c3;
    }
    for (int lane = 0; lane < 32; lane++) {
        auto p = static_cast<KtMmaPayload*>(payloads[lane]);
        for (int half = 0; half < 2; half++) memcpy(p->c + 2 * half, reinterpret_cast<float*>(&c[lane / 4 + half * 8]) + lane % 4 * 2, 8);
    }
}
}
