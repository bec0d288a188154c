// The emulated machine: cards, their memory, handles, errors. One lock guards all of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace kt {

// The values of CUresult that the emulator gives.
enum Status {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    InvalidHandle = 400,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchOutOfResources = 701,
    PeerAlreadyEnabled = 704,
    HostMemoryAlreadyRegistered = 712,
    HostMemoryNotRegistered = 713,
    Misaligned = 716,
    LaunchFailed = 719,
    NotSupported = 801,
};

// Remembers, for this thread, what cuGetErrorString says of the status beyond the driver's words.
int error(int status, const std::string& detail);
const char* error_name(int status);
const char* error_text(int status);

// KT_EMULATED_FAULT=lost@N or lost@/FILE: from the launch after the first N on, or the first when the file is there, the card that it was
// meant for is gone, as after a fallen bus or a broken power cable: whatever touches it fails with CUDA_ERROR_LAUNCH_FAILED, its memory
// cannot be read, and nothing brings it back in this process.
void count_launch(int card);
int lost_status(int card);  // Success while it is there

// KT_EMULATED_<name>, a whole number.
long setting(const char* name, long otherwise);

struct Allocation {
    uintptr_t begin = 0, end = 0;
    int card = 0;
};

// A card's memory is a window of addresses over a sparse file that is mapped twice: kernels use the first mapping, which is open only where
// an allocation is and, with more than one card, only while a kernel of a card runs that may reach it; the emulator itself copies through
// the second. Allocations end at a closed page, so running over the end is a fault.
class CardMemory {
  public:
    CardMemory(int card, size_t capacity);
    uintptr_t allocate(size_t bytes);  // 0: full
    bool free(uintptr_t p);
    const Allocation* find(uintptr_t p) const;  // the allocation that holds p
    const Allocation* nearest(uintptr_t p) const;
    bool inside(uintptr_t p) const { return p >= base_ && p < base_ + WindowBytes; }
    char* reach(uintptr_t p) const { return back_ + (p - base_); }
    size_t capacity() const { return capacity_; }
    size_t used() const { return used_; }
    void open(bool open);

  private:
    static constexpr size_t WindowBytes = size_t{64} << 30;
    void protect(const Allocation& a) const;

    int card_;
    uintptr_t base_ = 0, next_ = 0;
    char* back_ = nullptr;
    size_t capacity_, used_ = 0;
    bool open_ = true;
    std::map<uintptr_t, Allocation> live_;  // by begin
};

struct Context {
    int card;
    bool retained;
};

class Stream;

class Machine {
  public:
    static Machine& get();
    std::recursive_mutex gate;
    std::vector<std::unique_ptr<CardMemory>> memory;
    std::vector<Context> contexts;
    std::vector<std::vector<bool>> peers;  // [card][other]: card may reach other's memory
    std::map<uintptr_t, size_t> pinned;    // host memory that is page-locked

    int cards() const { return static_cast<int>(memory.size()); }
    const Allocation* find(uintptr_t p) const;
    bool is_device(uintptr_t p) const;
    bool is_pinned(uintptr_t p, size_t bytes) const;
    // What a kernel of this card may touch.
    void open_for(int card);
    std::string describe(uintptr_t p) const;

  private:
    Machine();
    int opened_ = -1;
};

// A retained context; null: not one.
Context* find_context(void* context);

// The card of the calling thread's context, or -1.
int current_card();

}  // namespace kt
