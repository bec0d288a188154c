// AMX, BF16 and INT8. tdpbf16ps multiplies a tile of A (16 rows × 32 k) with a tile of B (16 pairs of k × 16 columns) onto a tile of 16 ×
// 16 floats. Four C tiles (0-3) stay in registers over a whole block of k; A uses tiles 4 and 5, B tiles 6 and 7. A panels hold 32 k of a
// row together (64 bytes, a row of the tile), strips of B pairs of k of 16 columns: every tile is 1 KB in a piece. tdpbssd does the same
// with 64 k of a row, fours of k, and integers for sums. Compiled a second time with KT_EMULATE_TILES, where the six tile instructions are
// loops: the same logic, testable anywhere.
#include "kernels.h"
#include "simd.h"

namespace kt {
namespace {

constexpr int Rows = 16, RowBytes = 64;

#if defined(KT_EMULATE_TILES)

struct Tile {
    alignas(64) unsigned char bytes[Rows * RowBytes];
};
thread_local Tile tiles[8];
thread_local bool configured;

template <int T>
void tile_zero() {
    std::memset(&tiles[T], 0, sizeof(Tile));
}
template <int T>
void tile_load(const void* p, int64_t stride) {
    for (int i = 0; i < Rows; i++) std::memcpy(tiles[T].bytes + i * RowBytes, static_cast<const char*>(p) + i * stride, RowBytes);
}
template <int T>
void tile_store(void* p, int64_t stride) {
    for (int i = 0; i < Rows; i++) std::memcpy(static_cast<char*>(p) + i * stride, tiles[T].bytes + i * RowBytes, RowBytes);
}
template <int C, int A, int B>
void tile_multiply_bytes() {
    auto c = reinterpret_cast<int32_t*>(tiles[C].bytes);
    auto a = reinterpret_cast<const int8_t*>(tiles[A].bytes), b = reinterpret_cast<const int8_t*>(tiles[B].bytes);
    if (!configured) std::memset(c, 0x7f, sizeof(Tile));
    for (int i = 0; i < Rows; i++)
        for (int l = 0; l < 16; l++)
            for (int j = 0; j < 16; j++)
                for (int q = 0; q < 4; q++) c[i * 16 + j] += a[i * 64 + 4 * l + q] * b[l * 64 + 4 * j + q];
}
template <int C, int A, int B>
void tile_multiply() {
    auto c = reinterpret_cast<float*>(tiles[C].bytes);
    auto a = reinterpret_cast<const uint16_t*>(tiles[A].bytes), b = reinterpret_cast<const uint16_t*>(tiles[B].bytes);
    if (!configured) std::memset(c, 0xff, sizeof(Tile));  // what would be SIGILL: make it visible
    for (int i = 0; i < Rows; i++)
        for (int l = 0; l < 16; l++)
            for (int j = 0; j < 16; j++) {
                c[i * 16 + j] += widen(a[i * 32 + 2 * l]) * widen(b[l * 32 + 2 * j]);
                c[i * 16 + j] += widen(a[i * 32 + 2 * l + 1]) * widen(b[l * 32 + 2 * j + 1]);
            }
}
void begin() { configured = true; }
void end() { configured = false; }

#else

// Not the compiler's intrinsics: in g++ 12 they are macros that take no template argument, and they hide from the compiler what they read.
template <int T>
KT_INLINE void tile_zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
KT_INLINE void tile_load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
KT_INLINE void tile_store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
KT_INLINE void tile_multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}
template <int C, int A, int B>
KT_INLINE void tile_multiply_bytes() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

// All eight tiles are 16 rows of 64 bytes. The layout is Intel's (palette 1).
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {RowBytes, RowBytes, RowBytes, RowBytes, RowBytes, RowBytes, RowBytes, RowBytes};
    uint8_t rows[16] = {Rows, Rows, Rows, Rows, Rows, Rows, Rows, Rows};
};
static_assert(sizeof(TileConfig) == 64, "ldtilecfg reads 64 bytes");

void begin() {
    TileConfig config;
    // The operand names all 64 bytes. g++ 12's _tile_loadconfig claims 8 and the compiler drops the other stores: SIGILL at the first tile.
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
void end() { asm volatile("tilerelease" : : : "memory"); }

#endif

KT_INLINE void to_first_cache(const char* p) {
    for (int i = 0; i < 16; i++) _mm_prefetch(p + i * 64, _MM_HINT_T0);
}

// The four loads of a step stand together, and work for other parts of the core (prefetches of the next step) stands between the products:
// of two threads of a core each finds few free tile registers, and products in a row keep the other from its own. With both factors in the
// second cache this order was half again as fast as the one that spreads the loads and prefetches nothing. Vector work between the products
// (turning or dequantizing the next strips there) takes longer than beforehand: docs/results/h200/2026-11-29/amx-probe.txt.
template <bool Bytes, int C, int A, int B>
KT_INLINE void multiply() {
    if constexpr (Bytes)
        tile_multiply_bytes<C, A, B>();
    else
        tile_multiply<C, A, B>();
}

template <bool Bytes, bool Tall, bool Wide>
void tile_of(const Segment* segments, int32_t count, float* c, int64_t ldc, bool accumulate) {
    constexpr int64_t Tile = Rows * RowBytes, Step = Bytes ? 64 : 32;
    int64_t stride = ldc * 4;
    if (accumulate) {
        tile_load<0>(c, stride);
        if constexpr (Wide) tile_load<1>(c + 16, stride);
        if constexpr (Tall) tile_load<2>(c + 16 * ldc, stride);
        if constexpr (Tall && Wide) tile_load<3>(c + 16 * ldc + 16, stride);
    } else {
        tile_zero<0>();
        if constexpr (Wide) tile_zero<1>();
        if constexpr (Tall) tile_zero<2>();
        if constexpr (Tall && Wide) tile_zero<3>();
    }
    for (; count > 0; count--, segments++) {
        const char *a = static_cast<const char*>(segments->a), *b = static_cast<const char*>(segments->b);
        const int64_t strip = segments->strip_bytes;
        Ahead ahead = segments->ahead;
        for (int64_t k = segments->k; k > 0; k -= Step, a += 2 * Tile, b += Tile) {
            tile_load<4>(a, RowBytes);
            if constexpr (Tall) tile_load<5>(a + Tile, RowBytes);
            tile_load<6>(b, RowBytes);
            if constexpr (Wide) tile_load<7>(b + strip, RowBytes);
            multiply<Bytes, 0, 4, 6>();
            to_first_cache(a + 4 * Tile);
            if constexpr (Wide) {
                multiply<Bytes, 1, 4, 7>();
                to_first_cache(b + strip + 2 * Tile);
            }
            if constexpr (Tall) {
                multiply<Bytes, 2, 5, 6>();
                to_first_cache(a + 5 * Tile);
            }
            if constexpr (Tall && Wide) multiply<Bytes, 3, 5, 7>();
            to_first_cache(b + 2 * Tile);
            if (ahead.at) {
                to_second_cache(ahead.at, ahead.lines);
                to_second_cache(ahead.at + ahead.second, ahead.lines);
                ahead.at += ahead.step;
            }
        }
    }
    tile_store<0>(c, stride);
    if constexpr (Wide) tile_store<1>(c + 16, stride);
    if constexpr (Tall) tile_store<2>(c + 16 * ldc, stride);
    if constexpr (Tall && Wide) tile_store<3>(c + 16 * ldc + 16, stride);
}

template <bool Bytes>
void tile(const Segment* segments, int32_t count, float* c, int64_t ldc, int32_t rows, int32_t cols, bool accumulate) {
    auto run = rows > 16 ? (cols > 16 ? tile_of<Bytes, true, true> : tile_of<Bytes, true, false>)
                         : (cols > 16 ? tile_of<Bytes, false, true> : tile_of<Bytes, false, false>);
    run(segments, count, c, ldc, accumulate);
}

// Zeros would be multiplied twice as fast as numbers: the chip keeps a higher clock.
double spin(int64_t rounds) {
    alignas(64) uint16_t numbers[4][16 * 32];
    uint32_t random = 1;
    for (auto& tile : numbers)
        for (uint16_t& x : tile) {
            random = random * 1664525 + 1013904223;
            x = static_cast<uint16_t>(0x3f80 + (random >> 25) + (random >> 9 & 0x8000));  // ±1 to ±2
        }
    begin();
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    tile_load<4>(numbers[0], RowBytes), tile_load<5>(numbers[1], RowBytes), tile_load<6>(numbers[2], RowBytes),
        tile_load<7>(numbers[3], RowBytes);
    for (int64_t i = 0; i < rounds; i++) {
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        tile_multiply<2, 5, 6>();
        tile_multiply<3, 5, 7>();
    }
    end();
    return 4.0 * rounds * 2 * 16 * 16 * 32;
}

}  // namespace

extern const Micro KT_MICRO = {2, 32, 32, 16, 32, 2, 32, 2048, tile<false>, spin, begin, end};
// A block of k is as long as integers hold its sum: 127² · 2^17 < 2^31.
extern const Micro KT_MICRO_INT8 = {1, 32, 32, 16, 64, 4, 64, 1 << 17, tile<true>, spin, begin, end};

}  // namespace kt
