// The one thread pool of the process, for native and managed loops. A job is a number of tasks, handed out one by one; the caller works
// too, so a job ends whatever the pool's threads do. Several callers may have jobs at once; a loop inside a task runs in that task's thread.
#pragma once
#include <cstdint>
#include <type_traits>

namespace kt {

void resize_pool(int threads);  // 0: usable_processors(). Waits for the jobs that run; refused inside a task.
int pool_threads();

void run_tasks(int64_t count, void (*task)(void* context, int64_t index), void* context);

// The same in three steps, for a caller that runs its tasks itself: a managed one, whose thread may be aborted in its own code but not
// below native frames. begin_job: null where the caller is to run the tasks alone, in any order. next_task: -1 when all are taken. end_job
// waits for what other threads took. A task that throws is the caller's affair: here it ends the process.
struct Job;
Job* begin_job(int64_t count, void (*task)(void* context, int64_t index), void* context);
int64_t next_task(Job* job);
void end_job(Job* job);

// body(i) for i in [0, count), in any order, on any thread. The first exception of a task is thrown here, after all threads stopped.
template <class Body>
void parallel_for(int64_t count, Body&& body) {
    run_tasks(
        count, [](void* context, int64_t i) { (*static_cast<std::remove_reference_t<Body>*>(context))(i); }, &body);
}

}  // namespace kt
