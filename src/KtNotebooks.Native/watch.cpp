// Mapped files that become shorter while they are read. The system then sends SIGBUS, which would end the process without a word.
// The handler only looks into a table of fixed size, writes a line that was prepared when the file was mapped, and ends the process;
// every other address goes to the handler that was there before, the .NET runtime's.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "check.h"

namespace kt {
namespace {

constexpr int Slots = 1024;  // more files than a model has; a file beyond them is only not watched
constexpr size_t LineBytes = 512;
constexpr int ExitCode = 2;

struct Slot {
    std::atomic<uintptr_t> begin{0};  // 0: free
    std::atomic<uintptr_t> end{0};
    char line[LineBytes];
};
Slot slots[Slots];
std::mutex gate;  // of those who change the table; the handler takes none
struct sigaction before;

void on_bus(int signal, siginfo_t* info, void* context) {
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    for (const Slot& slot : slots) {
        const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
        if (begin == 0 || at < begin || at >= slot.end.load(std::memory_order_relaxed)) continue;
        [[maybe_unused]] const auto written = write(STDERR_FILENO, slot.line, strlen(slot.line));
        _exit(ExitCode);
    }
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, context);
    } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
        sigaction(signal, &before, nullptr);  // the access is tried again, and meets what was there before
    } else {
        before.sa_handler(signal);
    }
}

void install() {
    static bool done = false;
    if (done) return;
    struct sigaction ours;
    std::memset(&ours, 0, sizeof ours);
    ours.sa_sigaction = on_bus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;  // as the runtime's: its threads have a stack for signals
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, &ours, &before) != 0) throw Error(Internal, "sigaction refuses SIGBUS");
    done = true;
}

}  // namespace
}  // namespace kt

int32_t kt_watch(const void* begin, int64_t bytes, const char* line) {
    return kt::guarded("kt_watch", [&] {
        kt::need("begin", begin);
        kt::need("line", line);
        if (bytes <= 0) throw kt::Error(kt::InvalidArgument, "bytes must be positive, but is %lld", static_cast<long long>(bytes));
        const std::lock_guard<std::mutex> held(kt::gate);
        kt::install();
        for (kt::Slot& slot : kt::slots) {
            if (slot.begin.load(std::memory_order_relaxed) != 0) continue;
            std::snprintf(slot.line, sizeof slot.line, "%s", line);
            const auto first = reinterpret_cast<uintptr_t>(begin);
            slot.end.store(first + static_cast<uintptr_t>(bytes), std::memory_order_relaxed);
            slot.begin.store(first, std::memory_order_release);
            return;
        }
    });
}

void kt_unwatch(const void* begin) {
    const std::lock_guard<std::mutex> held(kt::gate);
    for (kt::Slot& slot : kt::slots) {
        if (slot.begin.load(std::memory_order_relaxed) != reinterpret_cast<uintptr_t>(begin)) continue;
        slot.begin.store(0, std::memory_order_release);
        return;
    }
}
