#include "block.h"

#include <sys/mman.h>

#include <cstring>
#include <stdexcept>

extern "C" {
__thread KtView kt_view __attribute__((tls_model("initial-exec")));
// Saves the callee-saved registers on the stack, stores the stack pointer and goes on from another one.
void kt_switch(void** save, void* load);
}

asm(R"(
.text
.globl kt_switch
.hidden kt_switch
.type kt_switch, @function
kt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size kt_switch, .-kt_switch
)");

namespace kt {
namespace {

constexpr size_t StackBytes = 64 << 10, GuardBytes = 4 << 10;
constexpr size_t DynamicBytes = 256 << 10;
constexpr int LaunchFailed = 719;
thread_local BlockRunner* runner = nullptr;

char* reserve(size_t bytes, size_t guard_at) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(static_cast<char*>(p) + guard_at, GuardBytes, PROT_NONE) != 0)
        throw std::runtime_error("no memory for the stacks of emulated threads");
    return static_cast<char*>(p);
}

}  // namespace

BlockRunner* BlockRunner::here() { return runner; }

BlockRunner::BlockRunner() {
    runner = this;
    dynamic_end_ = reinterpret_cast<unsigned char*>(reserve(DynamicBytes + GuardBytes, DynamicBytes)) + DynamicBytes;
}

bool BlockRunner::run(const Launch& launch, const Program& program, uint3 index) {
    launch_ = &launch;
    program_ = &program;
    block_ = index;
    // Neither order is promised by the device: alternating makes what relies on one of them show.
    uint64_t parity = index.x + index.y + index.z + launch.number;
    descending_ = parity & 1;
    copies_late_ = !(parity & 2);
    count_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    if (threads_.size() < static_cast<size_t>(count_)) threads_.resize(count_);
    int i = 0;
    for (unsigned z = 0; z < launch.block.z; z++)
        for (unsigned y = 0; y < launch.block.y; y++)
            for (unsigned x = 0; x < launch.block.x; x++) {
                auto& t = threads_[i++];
                t.index = {x, y, z};
                t.state = State::Fresh;
                t.fiber = -1;
                t.group = t.product_group = 0;
                t.copies.clear();
                t.products.clear();
            }
    ready_warps_ = 0;
    for (int w = 0; w * 32 < count_; w++) {
        int lanes = count_ - w * 32;
        unsigned all = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        warps_[w] = {all, 0, 0, all};
        ready_warps_ |= 1u << w;
    }
    alive_ = count_;
    arrived_ = sum_ = phase_ = 0;
    // 0xFF is NaN as F32, BF16 and FP8 and -1 as an integer: what is read before it is written shows.
    memset(program.shared_begin, 0xFF, program.shared_end - program.shared_begin);
    dynamic_ = dynamic_end_ - (launch.dynamic_bytes + 127) / 128 * 128;
    memset(dynamic_, 0xFF, dynamic_end_ - dynamic_);
    kt_view = {{}, index, launch.block, launch.grid};
    if (sigsetjmp(way_out_, 0) != 0) {  // from fail(): what is on the stacks is forgotten
        free_.clear();
        for (size_t f = 0; f < fibers_.size(); f++) {
            reset_fiber(static_cast<int>(f));
            free_.push_back(static_cast<int>(f));
        }
        current_ = fiber_ = -1;
        return false;
    }
    int first = pick();
    fiber_ = free_fiber();
    current_ = first;
    threads_[first].state = State::Running;
    kt_view.thread = threads_[first].index;
    kt_switch(&main_stack_pointer_, fibers_[fiber_].stack_pointer);
    current_ = -1;
    return true;
}

int BlockRunner::free_fiber() {
    if (free_.empty()) {
        char* memory = reserve(StackBytes + GuardBytes, 0);
        fibers_.push_back({nullptr, memory + StackBytes + GuardBytes});
        reset_fiber(static_cast<int>(fibers_.size()) - 1);
        return static_cast<int>(fibers_.size()) - 1;
    }
    int fiber = free_.back();
    free_.pop_back();
    return fiber;
}

void BlockRunner::reset_fiber(int fiber) {
    auto& f = fibers_[fiber];
    auto stack = reinterpret_cast<void**>(f.top);
    *--stack = nullptr;  // the return address of enter(): the stack is then aligned as at a call
    *--stack = reinterpret_cast<void*>(&BlockRunner::enter);
    for (int i = 0; i < 6; i++) *--stack = nullptr;
    f.stack_pointer = stack;
}

void BlockRunner::enter() { runner->loop(); }

// One fiber runs fresh threads one after the other, so a kernel without any meeting point is a plain loop.
void BlockRunner::loop() {
    for (;;) {
        program_->entry->call(launch_->arguments);
        finish();
        int next = pick();
        if (next >= 0 && threads_[next].state == State::Fresh) {
            current_ = next;
            threads_[next].state = State::Running;
            kt_view.thread = threads_[next].index;
            continue;
        }
        if (next < 0 && alive_ > 0) fail(LaunchFailed, stuck());
        int self = fiber_;
        free_.push_back(self);
        if (next < 0) {
            kt_switch(&fibers_[self].stack_pointer, main_stack_pointer_);
        } else {
            current_ = next;
            fiber_ = threads_[next].fiber;
            threads_[next].state = State::Running;
            kt_view.thread = threads_[next].index;
            kt_switch(&fibers_[self].stack_pointer, fibers_[fiber_].stack_pointer);
        }
        // Taken again for the fresh thread `current_`.
    }
}

int BlockRunner::pick() {
    int warp = current_ >= 0 ? current_ >> 5 : -1;
    if (warp < 0 || warps_[warp].ready == 0) {
        if (ready_warps_ == 0) return -1;
        warp = descending_ ? 31 - __builtin_clz(ready_warps_) : __builtin_ctz(ready_warps_);
    }
    auto& ready = warps_[warp].ready;
    int lane = descending_ ? 31 - __builtin_clz(ready) : __builtin_ctz(ready);
    ready &= ~(1u << lane);
    if (ready == 0) ready_warps_ &= ~(1u << warp);
    return warp * 32 + lane;
}

void BlockRunner::leave() {
    int next = pick();
    if (next < 0) fail(LaunchFailed, stuck());
    go(next);
}

void BlockRunner::go(int next) {
    int self = fiber_;
    threads_[current_].fiber = self;
    fiber_ = threads_[next].state == State::Fresh ? free_fiber() : threads_[next].fiber;
    current_ = next;
    threads_[next].state = State::Running;
    kt_view.thread = threads_[next].index;
    kt_switch(&fibers_[self].stack_pointer, fibers_[fiber_].stack_pointer);
}

void BlockRunner::finish() {
    auto& t = threads_[current_];
    for (auto& copy : t.copies) do_copy(copy);
    t.copies.clear();
    t.state = State::Done;
    int w = current_ >> 5;
    warps_[w].alive &= ~(1u << (current_ & 31));
    alive_--;
    // An exited thread is not waited for.
    if (arrived_ > 0 && arrived_ == alive_) release_barrier();
    for (unsigned waiting = warps_[w].waiting; waiting; waiting &= waiting - 1) {
        int lane = __builtin_ctz(waiting);
        if (warps_[w].waiting >> lane & 1) try_complete(w, threads_[w * 32 + lane].mask);
    }
}

void BlockRunner::release_barrier() {
    results_[phase_ & 1] = sum_;
    phase_++;
    sum_ = arrived_ = 0;
    for (int w = 0; w * 32 < count_; w++) {
        auto& warp = warps_[w];
        warp.ready |= warp.at_barrier;
        if (warp.ready) ready_warps_ |= 1u << w;
        warp.at_barrier = 0;
    }
}

int BlockRunner::barrier(int predicate) {
    int phase = phase_;
    sum_ += predicate;
    if (++arrived_ == alive_) {
        release_barrier();
    } else {
        threads_[current_].state = State::AtBarrier;
        warps_[current_ >> 5].at_barrier |= 1u << (current_ & 31);
        leave();
    }
    return results_[phase & 1];
}

void BlockRunner::collective(KtCollective kind, unsigned mask, void* payload, void (*complete)(unsigned, void**)) {
    auto& t = threads_[current_];
    int w = current_ >> 5, lane = current_ & 31;
    if (!(mask >> lane & 1)) fail(LaunchFailed, "a warp function was called with a mask that does not name the calling lane");
    t.kind = kind;
    t.mask = mask;
    t.payload = payload;
    t.complete = complete;
    auto& warp = warps_[w];
    warp.waiting |= 1u << lane;
    if (try_complete(w, mask)) {
        warp.ready &= ~(1u << lane);  // the last one goes on at once
        if (warp.ready == 0) ready_warps_ &= ~(1u << w);
        return;
    }
    t.state = State::Waiting;
    leave();
}

bool BlockRunner::try_complete(int w, unsigned mask) {
    auto& warp = warps_[w];
    unsigned here = mask & warp.alive;
    if ((warp.waiting & here) != here) return false;
    void* payloads[32] = {};
    auto first = &threads_[w * 32 + __builtin_ctz(here)];
    for (unsigned left = here; left; left &= left - 1) {
        auto& t = threads_[w * 32 + __builtin_ctz(left)];
        if (t.mask != mask || t.kind != first->kind)
            fail(LaunchFailed, "the lanes of a warp meet in different warp functions or with different masks");
        payloads[__builtin_ctz(left)] = t.payload;
    }
    if (first->kind >= KtLoadMatrix && (here != 0xffffffffu)) fail(LaunchFailed, "a matrix function was not called by all 32 lanes");
    warp.waiting &= ~here;
    warp.ready |= here;
    ready_warps_ |= 1u << w;
    first->complete(mask, payloads);
    return true;
}

void BlockRunner::do_copy(const Copy& copy) {
    if (copy.valid)
        memcpy(copy.shared, copy.global, 16);
    else
        memset(copy.shared, 0, 16);
}

void BlockRunner::copy_async(void* shared, const void* global, bool valid) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0))
        fail(716, "copy_async: an address is not a multiple of 16");
    auto p = static_cast<unsigned char*>(shared);
    if (!(p >= dynamic_ && p + 16 <= dynamic_end_) && !(p >= program_->shared_begin && p + 16 <= program_->shared_end))
        fail(700, "copy_async: the target is not shared memory");
    auto& t = threads_[current_];
    Copy copy{shared, global, valid, t.group};
    // The device does it at any time from now on: at once in some blocks, at the last moment in others.
    if (copies_late_)
        t.copies.push_back(copy);
    else
        do_copy(copy);
}

void BlockRunner::copy_commit() { threads_[current_].group++; }

void BlockRunner::copy_wait(int groups) {
    auto& t = threads_[current_];
    size_t done = 0;
    while (done < t.copies.size() && t.copies[done].group < t.group - groups) do_copy(t.copies[done++]);
    t.copies.erase(t.copies.begin(), t.copies.begin() + static_cast<ptrdiff_t>(done));
}

void BlockRunner::fail(int status, const std::string& what) {
    failure_ = {status, place() + ": " + what};
    siglongjmp(way_out_, 1);
}

static std::string text(uint3 v) { return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")"; }

std::string BlockRunner::place() const {
    return std::string("kernel ") + launch_->name + ", block " + text(block_) + ", thread " +
           text(current_ >= 0 ? threads_[current_].index : uint3{});
}

std::string BlockRunner::stuck() const {
    std::string at_barrier, waiting;
    int barriers = 0, others = 0;
    for (int i = 0; i < count_; i++) {
        if (threads_[i].state == State::AtBarrier && barriers++ == 0) at_barrier = text(threads_[i].index);
        if (threads_[i].state == State::Waiting && others++ == 0) waiting = text(threads_[i].index);
    }
    return "the block is stuck: " + std::to_string(barriers) + " threads wait in __syncthreads" +
           (barriers ? " (the first is " + at_barrier + ")" : "") + ", " + std::to_string(others) +
           " in a warp function whose other lanes never come" + (others ? " (the first is " + waiting + ")" : "");
}

}  // namespace kt

extern "C" {
int kt_barrier(int predicate) { return kt::BlockRunner::here()->barrier(predicate); }
void kt_collective(KtCollective kind, unsigned mask, void* payload, void (*complete)(unsigned, void**)) {
    kt::BlockRunner::here()->collective(kind, mask, payload, complete);
}
unsigned char* kt_dynamic_shared() { return kt::BlockRunner::here()->dynamic_shared(); }
unsigned kt_lane() { return kt::BlockRunner::here()->lane(); }
void kt_copy_async(void* shared, const void* global, bool valid) { kt::BlockRunner::here()->copy_async(shared, global, valid); }
void kt_copy_commit() { kt::BlockRunner::here()->copy_commit(); }
void kt_copy_wait(int groups) { kt::BlockRunner::here()->copy_wait(groups); }
void kt_fail(const char* what) { kt::BlockRunner::here()->fail(719, what); }
}
