// What this processor can do at most: the denominators of every share that a benchmark names.
#include <atomic>
#include <cstring>

#include "check.h"
#include "cpu.h"
#include "pool.h"

namespace kt {
namespace {

void spin(int32_t type, int64_t rounds, double* flop) {
    check_type("type", type), check_size("rounds", rounds), need("flop", flop);
    const Kernels& k = kernels();
    const Micro& micro = type == KT_BF16 && k.bf16.element ? k.bf16 : k.f32;
    // In pieces, as products are: on a shared machine one processor is slower than the others, and must not be what all wait for.
    constexpr int64_t Pieces = 16;
    const double one = micro.spin(1);
    const int64_t each = (rounds + Pieces - 1) / Pieces, tasks = Pieces * pool_threads();
    parallel_for(tasks, [&](int64_t) { micro.spin(each); });
    *flop = one * each * tasks;
}

// Four lines of each of some stretches in turn: what a processor asks for at several places comes sooner than as much in one row, on some.
// In the widest vectors that are there, or instructions and not the memory would be the limit.
__attribute__((target_clones("avx512f", "avx2", "default"))) uint64_t read_stretches(const char* from, int64_t each, int32_t places) {
    constexpr int64_t Block = 256;
    typedef uint64_t Line __attribute__((vector_size(64), aligned(1), may_alias));
    Line sums[4] = {};
    for (int64_t i = 0; i + Block <= each; i += Block)
        for (int32_t p = 0; p < places; p++)
            for (int64_t line = 0; line < 4; line++) sums[line] += *reinterpret_cast<const Line*>(from + p * each + i + line * 64);
    const Line all = (sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]);
    uint64_t one = 0;
    for (int j = 0; j < 8; j++) one ^= all[j];
    return one;
}

void read(const void* data, int64_t bytes, int32_t places) {
    check_size("bytes", bytes), need("data", data);
    if (places != 1 && places != 4) throw Error(InvalidArgument, "places must be 1 or 4, but is %d", places);
    constexpr int64_t Piece = 1 << 20;
    static std::atomic<uint64_t> sink;  // or nothing would be read
    parallel_for((bytes + Piece - 1) / Piece, [&](int64_t piece) {
        const char* from = static_cast<const char*>(data) + piece * Piece;
        const int64_t length = bytes - piece * Piece < Piece ? bytes - piece * Piece : Piece;
        sink.fetch_xor(read_stretches(from, length / places, places), std::memory_order_relaxed);
    });
}

}  // namespace
}  // namespace kt

int32_t kt_spin(int32_t type, int64_t rounds, double* flop) {
    return kt::guarded("kt_spin", [&] { kt::spin(type, rounds, flop); });
}

int32_t kt_read(const void* data, int64_t bytes, int32_t places) {
    return kt::guarded("kt_read", [&] { kt::read(data, bytes, places); });
}
