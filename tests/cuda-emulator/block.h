// One block of threads on one thread of this machine. Every CUDA thread has a stack of its own; __syncthreads and the collectives of a warp
// are where they switch.
#pragma once
#include <csetjmp>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace kt {

// What one launch runs, the same for all blocks.
struct Launch {
    const char* name = "";
    int card = 0;
    uint3 grid{}, block{};
    unsigned dynamic_bytes = 0;
    uint64_t number = 0;  // launches so far: the order of threads alternates with it
    void** arguments = nullptr;
};

// A worker's copy of the program.
struct Program {
    const KtEntry* entry = nullptr;
    unsigned char *shared_begin = nullptr, *shared_end = nullptr;
};

struct Failure {
    int status = 0;  // CUresult
    std::string text;
};

class BlockRunner {
  public:
    BlockRunner();
    // Runs one block to its end; false: failure() says what happened, and the launch is over.
    bool run(const Launch& launch, const Program& program, uint3 index);
    const Failure& failure() const { return failure_; }

    // Called by kernels, on the stack of a CUDA thread.
    int barrier(int predicate);
    void collective(KtCollective kind, unsigned mask, void* payload, void (*complete)(unsigned, void**));
    void copy_async(void* shared, const void* global, bool valid);
    void copy_commit();
    void copy_wait(int groups);
    void multiply(float* d, int columns, uint64_t a, uint64_t b, bool b_by_k);
    void multiply_commit();
    void multiply_wait(int groups);
    unsigned shared_address(const void* p);
    unsigned char* dynamic_shared() const { return dynamic_; }
    unsigned lane() const { return static_cast<unsigned>(current_) & 31; }
    [[noreturn]] void fail(int status, const std::string& what);  // from a kernel or from the handler of a fault
    bool running() const { return current_ >= 0; }

    static BlockRunner* here();  // of the calling worker, or null

  private:
    enum class State : uint8_t { Fresh, Running, Waiting, AtBarrier, Done };
    struct Fiber {
        void* stack_pointer;
        char* top;
    };
    struct Copy {
        void* shared;
        const void* global;
        bool valid;
        int group;
    };
    struct Product {
        float* d;
        int columns;
        uint64_t a, b;
        bool b_by_k;
        int group;
    };
    struct Due {
        std::vector<Product>* products;
        size_t count;
    };
    struct Thread {
        uint3 index;
        State state;
        KtCollective kind;
        unsigned mask;
        int fiber;
        void* payload;
        void (*complete)(unsigned, void**);
        int group;
        std::vector<Copy> copies;
        int product_group;
        std::vector<Product> products;
    };
    struct Warp {
        unsigned ready, waiting, at_barrier, alive;
    };

    static void enter();
    void loop();
    int pick();
    void leave();  // switches away from the running thread, which has said what it waits for
    void go(int thread);
    void finish();
    void release_barrier();
    bool try_complete(int warp, unsigned mask);
    int free_fiber();
    void reset_fiber(int fiber);
    void meet_for_products(int groups);
    void do_products(void** dues);
    float shared_bf16(uint64_t descriptor, int row, int k, bool by_k);
    static void do_copy(const Copy& copy);
    std::string place() const;
    std::string stuck() const;

    const Launch* launch_ = nullptr;
    const Program* program_ = nullptr;
    uint3 block_{};
    bool descending_ = false, copies_late_ = false;
    int current_ = -1, fiber_ = -1, count_ = 0, alive_ = 0, arrived_ = 0, sum_ = 0, phase_ = 0;
    int results_[2] = {};
    unsigned ready_warps_ = 0;
    std::vector<Thread> threads_;
    Warp warps_[32] = {};
    std::vector<Fiber> fibers_;
    std::vector<int> free_;
    void* main_stack_pointer_ = nullptr;
    sigjmp_buf way_out_;
    Failure failure_;
    unsigned char *dynamic_ = nullptr, *dynamic_end_ = nullptr;
};

}  // namespace kt
