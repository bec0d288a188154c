// The emulated NCCL: sums between processes of this machine through shared memory, in the order of the driver's streams, added in the order of the ranks.
// As the real one does it: an all-reduce is queued on a stream, and a missing dependency reads what is not written yet (KT_EMULATED_STREAMS=lazy).
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#include "runtime.h"

namespace {

enum Status { Success = 0, SystemError = 2, InvalidArgument = 4, RemoteError = 6 };
constexpr int Float32 = 7, Sum = 0, MaxRanks = 8;
constexpr size_t Slot = 1 << 18;  // floats a rank at a time
constexpr std::chrono::seconds Patience{300};  // the other rank may have kernels to compile, on a machine with other work
constexpr int Looks = 1000;                    // before whoever waits leaves its core to those that compute

struct Shared {
    std::atomic<uint32_t> arrived, round;
    float slots[MaxRanks][Slot];
};

struct Id {
    char name[128];
};

struct Communicator {
    int ranks, rank;
    std::string name;
    Shared* shared;

    bool meet() {
        auto round = shared->round.load();
        if (shared->arrived.fetch_add(1) + 1 == static_cast<uint32_t>(ranks)) {
            shared->arrived = 0;
            shared->round = round + 1;
            return true;
        }
        auto until = std::chrono::steady_clock::now() + Patience;
        for (int looks = 0; shared->round.load() == round; looks++) {
            if (std::chrono::steady_clock::now() > until) return false;
            if (looks < Looks)
                sched_yield();
            else
                usleep(200);
        }
        return true;
    }
};

struct Reduction {
    Communicator* communicator;
    const float* from;
    float* to;
    size_t count;
};

void reduce(void* argument) {
    auto& r = *static_cast<Reduction*>(argument);
    auto& c = *r.communicator;
    for (size_t at = 0; at < r.count; at += Slot) {
        auto n = r.count - at < Slot ? r.count - at : Slot;
        memcpy(c.shared->slots[c.rank], r.from + at, n * sizeof(float));
        if (!c.meet()) kt_fail("NCCL: another rank did not come");
        for (size_t i = 0; i < n; i++) {
            auto sum = c.shared->slots[0][i];
            for (int k = 1; k < c.ranks; k++) sum += c.shared->slots[k][i];
            r.to[at + i] = sum;
        }
        if (!c.meet()) kt_fail("NCCL: another rank did not come");
    }
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
    *version = 22703;
    return Success;
}

const char* ncclGetErrorString(int status) {
    return status == Success ? "no error" : status == InvalidArgument ? "invalid argument" : "unhandled system error";
}

const char* ncclGetLastError(void*) { return "the emulated NCCL"; }

int ncclGetUniqueId(Id* id) {
    std::random_device random;
    snprintf(id->name, sizeof id->name, "/kt-nccl-%d-%08x", getpid(), random());
    return Success;
}

int ncclCommInitRank(void** communicator, int ranks, Id id, int rank) {
    if (ranks < 1 || ranks > MaxRanks || rank < 0 || rank >= ranks) return InvalidArgument;
    int file = shm_open(id.name, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return SystemError;
    auto shared = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) return SystemError;
    auto made = new Communicator{ranks, rank, id.name, static_cast<Shared*>(shared)};
    if (!made->meet()) return RemoteError;
    if (rank == 0) shm_unlink(id.name);
    *communicator = made;
    return Success;
}

int ncclCommDestroy(void* communicator) {
    auto c = static_cast<Communicator*>(communicator);
    munmap(c->shared, sizeof(Shared));
    delete c;
    return Success;
}

int ncclGroupStart() { return Success; }

int ncclGroupEnd() { return Success; }

int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void* communicator, void* stream) {
    if (type != Float32 || operation != Sum) return InvalidArgument;
    auto bytes = count * sizeof(float);
    if (bytes > 0 && (!kt_reach(from, bytes) || !kt_reach(to, bytes))) return InvalidArgument;
    auto r = new Reduction{static_cast<Communicator*>(communicator), static_cast<const float*>(from), static_cast<float*>(to), count};
    return kt_enqueue(stream, reduce, r, [](void* done) { delete static_cast<Reduction*>(done); }) == 0 ? Success : SystemError;
}
}
