#include "workers.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <mutex>
#include <thread>

#include "machine.h"

namespace kt {
namespace {

struct sigaction before_segv, before_bus, before_fpe, before_ill;

const struct sigaction& before(int signal) {
    return signal == SIGSEGV ? before_segv : signal == SIGBUS ? before_bus : signal == SIGFPE ? before_fpe : before_ill;
}

// A fault inside a kernel ends the launch with an error; any other goes where it went before (.NET makes exceptions of some).
void on_fault(int signal, siginfo_t* info, void* context) {
    auto runner = BlockRunner::here();
    if (runner && runner->running()) {
        auto p = reinterpret_cast<uintptr_t>(info->si_addr);
        if (signal == SIGFPE) runner->fail(LaunchFailed, "integer division by zero");
        if (signal == SIGILL) runner->fail(LaunchFailed, "illegal instruction");
        // A general protection fault (an aligned vector access to an address that is not) has no address.
        if (info->si_code == SI_KERNEL) runner->fail(Misaligned, "a misaligned vector access, or an address that no memory can have");
        runner->fail(IllegalAddress, Machine::get().describe(p));
    }
    auto& old = before(signal);
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
        sigaction(signal, &old, nullptr);
    } else {
        old.sa_handler(signal);
    }
}

class Workers {
  public:
    Workers() {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
        sigaction(SIGFPE, &action, &before_fpe);
        sigaction(SIGILL, &action, &before_ill);
        for (int w = 0; w < worker_count(); w++) std::thread([this, w] { work(w); }).detach();
    }

    // Runs job(worker, runner) on all workers at once.
    void run(const std::function<void(int, BlockRunner&)>& job) {
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = &job;
        left_ = worker_count();
        generation_++;
        wake_.notify_all();
        done_.wait(lock, [this] { return left_ == 0; });
        job_ = nullptr;
    }

  private:
    void work(int w) {
        sigset_t all;
        sigfillset(&all);
        for (int s : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&all, s);
        pthread_sigmask(SIG_SETMASK, &all, nullptr);
        BlockRunner runner;
        uint64_t seen = 0;
        for (;;) {
            const std::function<void(int, BlockRunner&)>* job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_ != seen; });
                seen = generation_;
                job = job_;
            }
            (*job)(w, runner);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--left_ == 0) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(int, BlockRunner&)>* job_ = nullptr;
    uint64_t generation_ = 0;
    int left_ = 0;
};

Workers& workers() {
    static auto all = new Workers();
    return *all;
}

}  // namespace

int worker_count() {
    static const int count = static_cast<int>(std::clamp(setting("THREADS", std::thread::hardware_concurrency()), 1L, 16L));
    return count;
}

Failure run_grid(const Launch& launch, const std::vector<Program>& programs) {
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    std::mutex gate;
    Failure failure;
    const uint64_t X = launch.grid.x, Y = launch.grid.y, count = X * Y * launch.grid.z;
    workers().run([&](int w, BlockRunner& runner) {
        for (;;) {
            auto i = next.fetch_add(1);
            if (i >= count || stop) break;
            uint3 index{static_cast<unsigned>(i % X), static_cast<unsigned>(i / X % Y), static_cast<unsigned>(i / X / Y)};
            if (runner.run(launch, programs[w], index)) continue;
            stop = true;
            std::lock_guard<std::mutex> lock(gate);
            if (failure.status == 0) failure = runner.failure();
        }
    });
    return failure;
}

void parallel(int count, const std::function<void(int)>& body) {
    std::atomic<int> next{0};
    workers().run([&](int, BlockRunner&) {
        for (int i; (i = next.fetch_add(1)) < count;) body(i);
    });
}

}  // namespace kt
