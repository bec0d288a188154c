// Streams as queues of work, and events as places in them. When the work runs is chosen by KT_EMULATED_STREAMS:
//   eager   at once (the default);
//   lazy    when something waits for it, and then nothing but what the waiter has a right to: a missing event dependency reads what is not
//   written yet; random  a few steps of some streams at every call, by KT_EMULATED_SEED.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block.h"

namespace kt {

class Stream {
  public:
    explicit Stream(int card) : card(card) {}
    const int card;

    // Adds work; eager streams do it before this returns. The status of a failed step comes back from here or from a later wait.
    int push(std::function<Failure()> run);
    int push_wait(const std::shared_ptr<Stream>& other, uint64_t position);
    uint64_t position() const { return pushed_; }
    bool reached(uint64_t position) const { return done_ >= position; }
    int drain(uint64_t position);
    int drain() { return drain(pushed_); }
    bool step();  // one piece of work; false: none is left

    // While it is not null, work is recorded there instead of queued.
    std::shared_ptr<std::vector<std::function<Failure()>>> recording;

  private:
    struct Work {
        std::function<Failure()> run;
        std::shared_ptr<Stream> other;
        uint64_t position;
    };
    int after_push();

    std::deque<Work> queue_;
    uint64_t pushed_ = 0, done_ = 0;
    Failure failure_;
};

struct Event {
    int card = 0;
    bool timing = false;
    std::shared_ptr<Stream> stream;  // null: never recorded
    uint64_t position = 0;
    std::shared_ptr<double> seconds;
};

bool is_eager();
std::shared_ptr<Stream> find_stream(void* handle);  // null handle: the context's default stream; null: no such stream
int drain_all(int card = -1);                       // of one card, or of all

}  // namespace kt
