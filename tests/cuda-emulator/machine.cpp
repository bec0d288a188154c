#include "machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace kt {
namespace {

constexpr size_t Page = 4096;
struct Words {
    int status;
    const char *name, *text;
};
constexpr Words Statuses[] = {
    {Success, "CUDA_SUCCESS", "no error"},
    {InvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {InvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {InvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {InvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {InvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {IllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {LaunchOutOfResources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {PeerAlreadyEnabled, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled"},
    {HostMemoryAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {HostMemoryNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", "pointer does not correspond to a registered memory region"},
    {Misaligned, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {LaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

thread_local int last_status = 0;
thread_local std::string last_text;

const Words* words(int status) {
    for (auto& w : Statuses)
        if (w.status == status) return &w;
    return nullptr;
}

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

std::string hex(uintptr_t p) {
    char text[32];
    snprintf(text, sizeof text, "0x%zx", static_cast<size_t>(p));
    return text;
}

}  // namespace

int error(int status, const std::string& detail) {
    last_status = status;
    auto w = words(status);
    last_text = std::string(w ? w->text : "unknown error") + ": " + detail + " [emulated card]";
    return status;
}

const char* error_name(int status) {
    auto w = words(status);
    return w ? w->name : nullptr;
}

const char* error_text(int status) {
    if (status != 0 && status == last_status) return last_text.c_str();
    auto w = words(status);
    return w ? w->text : nullptr;
}

namespace {
std::atomic<int> lost_card{-1};

// What stands behind lost@; null: no fault is asked for.
const char* fault() {
    static const char* where = [] {
        auto text = getenv("KT_EMULATED_FAULT");
        if (!text || !*text) return static_cast<const char*>(nullptr);
        if (strncmp(text, "lost@", 5) != 0) {
            fprintf(stderr, "KT_EMULATED_FAULT must be lost@N or lost@/FILE, but is %s\n", text);
            abort();
        }
        return static_cast<const char*>(text + 5);
    }();
    return where;
}
}  // namespace

void count_launch(int card) {
    static std::atomic<long> launches{0};
    auto where = fault();
    if (!where || lost_card >= 0) return;
    if (*where == '/' ? access(where, F_OK) == 0 : ++launches > strtol(where, nullptr, 10)) lost_card = card;
}

int lost_status(int card) { return card >= 0 && card == lost_card ? error(LaunchFailed, "the card is lost") : Success; }

long setting(const char* name, long otherwise) {
    auto text = getenv((std::string("KT_EMULATED_") + name).c_str());
    return text && *text ? strtol(text, nullptr, 0) : otherwise;
}

CardMemory::CardMemory(int card, size_t capacity) : card_(card), capacity_(capacity) {
    int fd = memfd_create("kt-emulated-card", MFD_CLOEXEC);
    // An address that nothing else in the process has, so that a device address is known as one at sight.
    auto wanted = reinterpret_cast<void*>(0x600000000000 + static_cast<uintptr_t>(card) * (WindowBytes * 2));
    void* window = fd < 0 || ftruncate(fd, WindowBytes) != 0
                       ? MAP_FAILED
                       : mmap(wanted, WindowBytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
    void* back = window == MAP_FAILED ? MAP_FAILED : mmap(nullptr, WindowBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (back == MAP_FAILED) throw std::runtime_error("cannot map the memory of an emulated card");
    close(fd);
    base_ = reinterpret_cast<uintptr_t>(window);
    back_ = static_cast<char*>(back);
    next_ = base_ + Page;
}

uintptr_t CardMemory::allocate(size_t bytes) {
    size_t size = round_up(bytes, 256), pages = round_up(size, Page);
    if (size > capacity_ || used_ + size > capacity_) return 0;
    // Always the next addresses, so that a freed one faults for long; from the start again where the window ends.
    for (int turn = 0; turn < 2; turn++) {
        auto at = next_;
        for (;;) {
            auto after = live_.upper_bound(at + pages + Page);
            if (after == live_.begin()) break;
            auto& before = std::prev(after)->second;
            if (before.end + Page <= at) break;
            at = round_up(before.end, Page) + Page;
        }
        if (at + pages + Page <= base_ + WindowBytes) {
            next_ = at + pages + Page;
            Allocation a{at + pages - size, at + pages, card_};
            live_[a.begin] = a;
            used_ += size;
            protect(a);
            memset(reach(a.begin), 0xFF, size);
            return a.begin;
        }
        next_ = base_ + Page;
    }
    return 0;
}

bool CardMemory::free(uintptr_t p) {
    auto found = live_.find(p);
    if (found == live_.end()) return false;
    auto a = found->second;
    auto page = a.begin / Page * Page;
    madvise(reach(page), a.end - page, MADV_REMOVE);
    mprotect(reinterpret_cast<void*>(page), a.end - page, PROT_NONE);
    used_ -= a.end - a.begin;
    live_.erase(found);
    return true;
}

const Allocation* CardMemory::find(uintptr_t p) const {
    auto after = live_.upper_bound(p);
    if (after == live_.begin()) return nullptr;
    auto& a = std::prev(after)->second;
    return p < a.end ? &a : nullptr;
}

const Allocation* CardMemory::nearest(uintptr_t p) const {
    auto after = live_.upper_bound(p);
    if (after != live_.begin()) return &std::prev(after)->second;
    return after == live_.end() ? nullptr : &after->second;
}

void CardMemory::protect(const Allocation& a) const {
    auto page = a.begin / Page * Page;
    mprotect(reinterpret_cast<void*>(page), a.end - page, open_ ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void CardMemory::open(bool open) {
    if (open == open_) return;
    open_ = open;
    for (auto& [_, a] : live_) protect(a);
}

Machine& Machine::get() {
    static auto machine = new Machine();  // never destroyed: finalizers of the process may still call
    return *machine;
}

Machine::Machine() {
    auto cards = setting("CARDS", 2);
    auto bytes = static_cast<size_t>(setting("MEMORY_MIB", 4096)) << 20;
    for (int i = 0; i < cards && i < 8; i++) {
        memory.push_back(std::make_unique<CardMemory>(i, bytes));
        contexts.push_back({i, false});
    }
    peers.assign(cards, std::vector<bool>(cards, false));
}

const Allocation* Machine::find(uintptr_t p) const {
    for (auto& m : memory)
        if (m->inside(p)) return m->find(p);
    return nullptr;
}

bool Machine::is_device(uintptr_t p) const {
    for (auto& m : memory)
        if (m->inside(p)) return true;
    return false;
}

bool Machine::is_pinned(uintptr_t p, size_t bytes) const {
    auto after = pinned.upper_bound(p);
    if (after == pinned.begin()) return false;
    auto& [begin, size] = *std::prev(after);
    return p + bytes <= begin + size;
}

void Machine::open_for(int card) {
    if (card == opened_) return;
    for (int i = 0; i < cards(); i++) memory[i]->open(i == card || (card >= 0 && peers[card][i]));
    opened_ = card;
}

std::string Machine::describe(uintptr_t p) const {
    if (p < 65536) return "address " + hex(p) + ", near null";
    for (auto& m : memory) {
        if (!m->inside(p)) continue;
        auto a = m->find(p);
        if (!a) a = m->nearest(p);
        if (!a) return "address " + hex(p) + ", of a card that has no memory allocated";
        auto card = "of cuda:" + std::to_string(a->card), size = std::to_string(a->end - a->begin) + " bytes at " + hex(a->begin);
        if (p >= a->end)
            return "address " + hex(p) + ", " + std::to_string(p - a->end) + " bytes behind the allocation " + card + " of " + size;
        if (p < a->begin) return "address " + hex(p) + ", in freed or never allocated memory " + card;
        return "address " + hex(p) + ", " + std::to_string(p - a->begin) + " bytes into the allocation " + card + " of " + size;
    }
    return "address " + hex(p) + ", not device memory";
}

}  // namespace kt
