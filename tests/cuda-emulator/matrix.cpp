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
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < 32; lane++) {
        auto p = static_cast<KtMmaPayload*>(payloads[lane]);
        int g = lane / 4, t = lane % 4 * 2;
        for (int half = 0; half < 2; half++) {  // the low and the high 16 bits of a register
            auto part = [half](uint32_t r) { return widen(half ? r >> 16 : r & 0xffff); };
            a[g][t + half] = part(p->a[0]);
            a[g + 8][t + half] = part(p->a[1]);
            a[g][t + 8 + half] = part(p->a[2]);
            a[g + 8][t + 8 + half] = part(p->a[3]);
            b[t + half][g] = part(p->b[0]);
            b[t + 8 + half][g] = part(p->b[1]);
            c[g][t + half] = p->c[half];
            c[g + 8][t + half] = p->c[2 + half];
        }
    }
    for (int m = 0; m < 16; m++) {
        float sum[8];
        memcpy(sum, c[m], sizeof sum);
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) sum[n] += a[m][k] * b[k][n];
        memcpy(c[m], sum, sizeof sum);
    }
    for (int lane = 0; lane < 32; lane++) {
        auto p = static_cast<KtMmaPayload*>(payloads[lane]);
        int g = lane / 4, t = lane % 4 * 2;
        for (int half = 0; half < 2; half++) {
            p->c[half] = c[g][t + half];
            p->c[2 + half] = c[g + 8][t + half];
        }
    }
}
}
