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

void read(const void* data, int64_t bytes) {
    check_size("bytes", bytes), need("data", data);
    constexpr int64_t Piece = 1 << 20, Ahead = 2048;
    static std::atomic<uint64_t> sink;  // or nothing would be read
    parallel_for((bytes + Piece - 1) / Piece, [&](int64_t piece) {
        const char* from = static_cast<const char*>(data) + piece * Piece;
        const int64_t length = bytes - piece * Piece < Piece ? bytes - piece * Piece : Piece;
        uint64_t sums[8] = {};
        for (int64_t i = 0; i + 64 <= length; i += 64) {
            __builtin_prefetch(from + i + Ahead);  // the processor's own prefetching leaves a third of this memory's rate unused
            uint64_t line[8];
            std::memcpy(line, from + i, 64);
            for (int j = 0; j < 8; j++) sums[j] += line[j];
        }
        sink.fetch_xor(sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7], std::memory_order_relaxed);
    });
}

}  // namespace
}  // namespace kt

int32_t kt_spin(int32_t type, int64_t rounds, double* flop) {
    return kt::guarded("kt_spin", [&] { kt::spin(type, rounds, flop); });
}

int32_t kt_read(const void* data, int64_t bytes) {
    return kt::guarded("kt_read", [&] { kt::read(data, bytes); });
}
