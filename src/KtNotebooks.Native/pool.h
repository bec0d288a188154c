// One thread pool for the process. A job is a number of tasks, handed out one by one; the caller works too.
// Calls from several threads take turns; a call from inside a task runs in that task's thread.
#pragma once
#include <cstdint>
#include <type_traits>

namespace kt {

void resize_pool(int threads);  // 0: usable_processors()
int pool_threads();

void run_tasks(int64_t count, void (*task)(void* context, int64_t index), void* context);

// body(i) for i in [0, count), in any order, on any thread. The first exception of a task is thrown here, after all threads stopped.
template <class Body>
void parallel_for(int64_t count, Body&& body) {
    run_tasks(
        count, [](void* context, int64_t i) { (*static_cast<std::remove_reference_t<Body>*>(context))(i); }, &body);
}

}  // namespace kt
