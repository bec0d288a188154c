#include "pool.h"

#include <immintrin.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"

namespace kt {
namespace {

constexpr int SpinsBeforeSleep = 2000;  // some 20 µs: the phases of one call follow each other faster than a thread wakes up
thread_local bool inside_task = false;

class Pool {
  public:
    explicit Pool(int threads) {
        try {
            for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    int threads() const { return static_cast<int>(workers_.size()) + 1; }

    void run(int64_t count, void (*task)(void*, int64_t), void* context) {
        task_ = task;
        context_ = context;
        count_ = count;
        failure_ = nullptr;
        next_.store(0, std::memory_order_relaxed);
        active_.store(threads() - 1, std::memory_order_relaxed);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        take();
        for (int spin = 0; active_.load(std::memory_order_acquire) != 0; spin++) {
            if (spin < SpinsBeforeSleep) {
                _mm_pause();
                continue;
            }
            std::unique_lock<std::mutex> lock(mutex_);
            done_.wait(lock, [this] { return active_.load(std::memory_order_acquire) == 0; });
        }
        if (failure_) std::rethrow_exception(failure_);
    }

  private:
    void take() {
        inside_task = true;
        for (;;) {
            int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
            if (i >= count_) break;
            try {
                task_(context_, i);
            } catch (...) {
                std::lock_guard<std::mutex> lock(mutex_);
                if (!failure_) failure_ = std::current_exception();
                next_.store(count_, std::memory_order_relaxed);
            }
        }
        inside_task = false;
    }

    void work() {
        uint64_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < SpinsBeforeSleep && generation_.load(std::memory_order_acquire) == seen; spin++) _mm_pause();
            if (generation_.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
            }
            seen = generation_.load(std::memory_order_acquire);
            if (stopping_) return;
            take();
            if (active_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard<std::mutex> lock(mutex_);
                done_.notify_one();
            }
        }
    }

    void stop() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
            generation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<int64_t> next_{0};
    std::atomic<int> active_{0};
    bool stopping_ = false;
    int64_t count_ = 0;
    void (*task_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
    std::exception_ptr failure_;
};

std::mutex turn;             // held by the caller whose job runs
Pool* pool = nullptr;        // never destroyed at exit: its threads may not outlive the library's unloading in an orderly way
std::atomic<int> wanted{0};  // threads

Pool& ready() {  // turn is held
    if (!pool) {
        pool = new Pool(wanted.load() > 0 ? wanted.load() : usable_processors());
        wanted = pool->threads();
    }
    return *pool;
}

}  // namespace

void resize_pool(int threads) {
    std::lock_guard<std::mutex> lock(turn);
    int target = threads > 0 ? threads : usable_processors();
    if (pool && pool->threads() != target) {
        delete pool;
        pool = nullptr;
    }
    wanted = target;
    ready();
}

int pool_threads() {
    int n = wanted.load();
    return n > 0 ? n : usable_processors();
}

void run_tasks(int64_t count, void (*task)(void* context, int64_t index), void* context) {
    if (count <= 0) return;
    if (inside_task || count == 1) {
        for (int64_t i = 0; i < count; i++) task(context, i);
        return;
    }
    std::lock_guard<std::mutex> lock(turn);
    ready().run(count, task, context);
}

}  // namespace kt
