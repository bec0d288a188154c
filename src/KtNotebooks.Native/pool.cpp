#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"
#include "error.h"

namespace kt {

// A place for one caller's job. Threads of the pool enter and leave by `state` alone: a count of those inside, and whether more may enter.
// What the job is does not change while it is open or anybody is inside.
struct alignas(64) Job {
    static constexpr uint64_t Open = uint64_t{1} << 32;
    std::atomic<bool> taken{false};  // by a caller
    std::atomic<uint64_t> state{0};
    void (*task)(void*, int64_t) = nullptr;
    void* context = nullptr;
    int64_t count = 0;
    class Pool* pool = nullptr;
    alignas(64) std::atomic<int64_t> next{0};

    int64_t take() {
        const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
        return i < count ? i : -1;
    }
    bool enter() {
        for (uint64_t seen = state.load(std::memory_order_relaxed); seen & Open;)
            if (state.compare_exchange_weak(seen, seen + 1, std::memory_order_acquire)) return true;
        return false;
    }
    void leave() { state.fetch_sub(1, std::memory_order_release); }
};

namespace {

constexpr int Jobs = 16;  // callers at once; one more works alone
// How long a thread without work looks for some before it sleeps, so that one layer's loops and the next one's find it awake, also where a
// card works for half a millisecond between them.
constexpr std::chrono::microseconds Awake(900);
constexpr int PausesALook = 32;
constexpr int WokenByEach = 2;  // each woken thread wakes further ones: the caller does not pay for all
thread_local bool inside_task = false;

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>& word, int threads) {
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

}  // namespace

class Pool {
  public:
    explicit Pool(int threads) {
        const std::vector<std::vector<int>> cores = usable_cores();
        const bool pinned = threads > 1 && threads == static_cast<int>(cores.size()) && threads == usable_processors();
        try {
            for (int i = 1; i < threads; i++)
                workers_.emplace_back([this, core = pinned ? cores[i] : std::vector<int>()] {
                    pin_thread(core);
                    work();
                });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    int threads() const { return static_cast<int>(workers_.size()) + 1; }
    std::atomic<int> users{0};  // callers that have its address

    Job* begin(int64_t count, void (*task)(void*, int64_t), void* context) {
        for (Job& job : jobs_)
            if (!job.taken.load(std::memory_order_relaxed) && !job.taken.exchange(true, std::memory_order_acquire)) {
                job.task = task, job.context = context, job.count = count, job.pool = this;
                job.next.store(0, std::memory_order_relaxed);
                job.state.fetch_or(Job::Open, std::memory_order_release);
                arrived_.fetch_add(1, std::memory_order_seq_cst);
                wake();
                return &job;
            }
        return nullptr;
    }

    // The caller has nothing left to take.
    void end(Job& job) {
        job.state.fetch_and(~Job::Open, std::memory_order_relaxed);
        for (int look = 0; job.state.load(std::memory_order_acquire) != 0; look++) look < 4096 ? _mm_pause() : (void)sched_yield();
        job.taken.store(false, std::memory_order_release);
    }

  private:
    void wake() {
        if (asleep_.load(std::memory_order_seq_cst) > 0) futex_wake(arrived_, WokenByEach);
    }

    // Takes tasks of whoever has some. False: nobody has.
    bool help() {
        bool worked = false;
        for (Job& job : jobs_) {
            if (!job.enter()) continue;
            for (int64_t i; (i = job.take()) >= 0; worked = true) job.task(job.context, i);
            job.leave();
        }
        return worked;
    }

    bool has_tasks() const {
        for (const Job& job : jobs_)
            if ((job.state.load(std::memory_order_relaxed) & Job::Open) && job.next.load(std::memory_order_relaxed) < job.count)
                return true;
        return false;
    }

    void work() {
        using Clock = std::chrono::steady_clock;
        inside_task = true;
        uint32_t seen = arrived_.load(std::memory_order_acquire);
        while (!stopping_.load(std::memory_order_relaxed)) {
            while (help()) {
            }
            const Clock::time_point idle = Clock::now();
            bool news = false;
            do {
                for (int i = 0; i < PausesALook && !news; i++) {
                    _mm_pause();
                    news = arrived_.load(std::memory_order_acquire) != seen;
                }
            } while (!news && Clock::now() - idle < Awake);
            if (!news) {
                asleep_.fetch_add(1, std::memory_order_seq_cst);
                while (arrived_.load(std::memory_order_seq_cst) == seen) futex_wait(arrived_, seen);
                asleep_.fetch_sub(1, std::memory_order_seq_cst);
                if (has_tasks()) wake();
            }
            seen = arrived_.load(std::memory_order_acquire);
        }
    }

    void stop() {
        stopping_ = true;
        arrived_.fetch_add(1, std::memory_order_seq_cst);
        futex_wake(arrived_, INT_MAX);
        for (std::thread& worker : workers_) worker.join();
    }

    Job jobs_[Jobs];
    std::vector<std::thread> workers_;
    alignas(64) std::atomic<uint32_t> arrived_{0};  // counts jobs; what sleepers wait for
    std::atomic<int32_t> asleep_{0};
    std::atomic<bool> stopping_{false};
};

namespace {

std::mutex changing;
std::atomic<Pool*> pool{nullptr};  // never destroyed at exit: its threads may not outlive the library's unloading in an orderly way
std::atomic<int> entering{0};      // callers between the pool's address and its count of users
std::atomic<int> wanted{0};        // threads

// The pool, not to be freed until its `users` is lowered again.
Pool& use_pool() {
    for (;;) {
        entering.fetch_add(1, std::memory_order_seq_cst);
        Pool* p = pool.load(std::memory_order_seq_cst);
        if (p) p->users.fetch_add(1, std::memory_order_seq_cst);
        entering.fetch_sub(1, std::memory_order_seq_cst);
        if (p) return *p;
        resize_pool(wanted.load());
    }
}

// A native loop: the first exception stops it.
struct Loop {
    void (*task)(void*, int64_t);
    void* context;
    Job* job = nullptr;
    std::atomic<bool> failed{false};
    std::exception_ptr failure{};

    static void run(void* self, int64_t i) noexcept {
        Loop& me = *static_cast<Loop*>(self);
        if (me.failed.load(std::memory_order_relaxed)) return;
        try {
            me.task(me.context, i);
        } catch (...) {
            if (!me.failed.exchange(true)) me.failure = std::current_exception();
        }
    }
};

}  // namespace

void resize_pool(int threads) {
    if (inside_task) throw Error(InvalidArgument, "the number of threads cannot be changed by one of them at work");
    std::lock_guard<std::mutex> lock(changing);
    const int target = threads > 0 ? threads : usable_processors();
    Pool* old = pool.load();
    wanted = target;
    if (old && old->threads() == target) return;
    pool.store(new Pool(target), std::memory_order_seq_cst);
    while (entering.load(std::memory_order_seq_cst) != 0 || (old && old->users.load(std::memory_order_seq_cst) != 0)) sched_yield();
    delete old;
}

int pool_threads() {
    int n = wanted.load();
    return n > 0 ? n : usable_processors();
}

Job* begin_job(int64_t count, void (*task)(void* context, int64_t index), void* context) {
    if (inside_task || count <= 1) return nullptr;
    Pool& p = use_pool();
    Job* job = p.threads() > 1 ? p.begin(count, task, context) : nullptr;
    inside_task = job;
    if (!job) p.users.fetch_sub(1, std::memory_order_seq_cst);
    return job;
}

int64_t next_task(Job* job) { return job->take(); }

void end_job(Job* job) {
    Pool& p = *job->pool;
    p.end(*job);
    inside_task = false;
    p.users.fetch_sub(1, std::memory_order_seq_cst);
}

void run_tasks(int64_t count, void (*task)(void* context, int64_t index), void* context) {
    if (count <= 0) return;
    Loop loop{task, context};
    Job* job = begin_job(count, Loop::run, &loop);
    if (!job) {
        for (int64_t i = 0; i < count; i++) task(context, i);
        return;
    }
    for (int64_t i; (i = next_task(job)) >= 0;) Loop::run(&loop, i);
    end_job(job);
    if (loop.failure) std::rethrow_exception(loop.failure);
}

}  // namespace kt
