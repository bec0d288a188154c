#include "streams.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <unordered_map>
#include <unordered_set>

#include "machine.h"
#include "workers.h"

namespace kt {
namespace {

enum class Mode { Eager, Lazy, Random };

Mode mode() {
    static const Mode chosen = [] {
        auto text = getenv("KT_EMULATED_STREAMS");
        return text && !strcmp(text, "lazy") ? Mode::Lazy : text && !strcmp(text, "random") ? Mode::Random : Mode::Eager;
    }();
    return chosen;
}

std::unordered_map<void*, std::shared_ptr<Stream>>& streams() {
    static auto all = new std::unordered_map<void*, std::shared_ptr<Stream>>();
    return *all;
}

std::unordered_map<void*, std::unique_ptr<Event>>& events() {
    static auto all = new std::unordered_map<void*, std::unique_ptr<Event>>();
    return *all;
}

std::shared_ptr<Stream> default_stream(int card) {
    static auto all = new std::vector<std::shared_ptr<Stream>>(8);
    auto& s = (*all)[card];
    if (!s) s = std::make_shared<Stream>(card);
    return s;
}

// A recording, or one made ready to run.
struct Graph {
    int card;
    std::shared_ptr<std::vector<std::function<Failure()>>> work;
};

std::unordered_set<Graph*>& graphs() {
    static auto all = new std::unordered_set<Graph*>();
    return *all;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

bool is_eager() { return mode() == Mode::Eager; }

std::shared_ptr<Stream> find_stream(void* handle) {
    if (handle == nullptr) return current_card() < 0 ? nullptr : default_stream(current_card());
    auto found = streams().find(handle);
    return found == streams().end() ? nullptr : found->second;
}

int drain_all(int card) {
    int status = Success;
    for (auto& [_, s] : streams())
        if (card < 0 || s->card == card)
            if (int got = s->drain()) status = got;
    for (int i = 0; i < Machine::get().cards(); i++)
        if (card < 0 || i == card)
            if (int got = default_stream(i)->drain()) status = got;
    return status;
}

int Stream::push(std::function<Failure()> run) {
    if (recording) {
        recording->push_back(std::move(run));
        return Success;
    }
    queue_.push_back({std::move(run), nullptr, 0});
    return after_push();
}

int Stream::push_wait(const std::shared_ptr<Stream>& other, uint64_t position) {
    if (recording) return error(NotSupported, "waiting for another stream is not recorded here");
    queue_.push_back({nullptr, other, position});
    return after_push();
}

int Stream::after_push() {
    pushed_++;
    if (mode() == Mode::Eager) return drain();
    if (mode() == Mode::Random) {
        static std::mt19937 random(static_cast<unsigned>(setting("SEED", 1)));
        for (auto steps = random() % 3; steps > 0 && !streams().empty(); steps--) {
            auto some = streams().begin();
            std::advance(some, random() % streams().size());
            auto chosen = some->second;
            chosen->step();
        }
    }
    return Success;
}

bool Stream::step() {
    if (queue_.empty()) return false;
    auto work = std::move(queue_.front());
    queue_.pop_front();
    if (work.other) {
        work.other->drain(work.position);
    } else {
        Failure got = work.run();
        if (failure_.status == 0) failure_ = got;
    }
    done_++;
    return true;
}

int Stream::drain(uint64_t position) {
    while (done_ < position && step()) {
    }
    if (failure_.status == 0) return Success;
    auto failure = failure_;
    failure_ = {};  // a real card's context would stay broken; here the next test may use it
    return error(failure.status, failure.text);
}

}  // namespace kt

using namespace kt;
#define LOCKED std::lock_guard<std::recursive_mutex> lock(Machine::get().gate)
#define NEEDS_CONTEXT                                                                                                       \
    LOCKED;                                                                                                                 \
    if (current_card() < 0) return error(InvalidContext, std::string(__func__) + ": no context is current on this thread"); \
    if (int lost = lost_status(current_card())) return lost

extern "C" {

int cuStreamCreate(void** stream, unsigned flags) {
    NEEDS_CONTEXT;
    if (stream == nullptr || flags > 1) return error(InvalidValue, "cuStreamCreate: flags " + std::to_string(flags));
    auto made = std::make_shared<Stream>(current_card());
    *stream = made.get();
    streams()[made.get()] = made;
    return Success;
}

int cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

int cuStreamDestroy_v2(void* stream) {
    LOCKED;  // also from a finalizer, without a context
    auto s = stream ? find_stream(stream) : nullptr;
    if (!s) return error(InvalidHandle, "cuStreamDestroy: no such stream");
    if (int lost = lost_status(s->card)) return lost;
    int status = s->drain();
    streams().erase(stream);
    return status;
}

int cuStreamSynchronize(void* stream) {
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    if (s && s->recording) return error(NotSupported, "cuStreamSynchronize: the stream is being recorded");
    return s ? s->drain() : error(InvalidHandle, "cuStreamSynchronize: no such stream");
}

int cuStreamBeginCapture_v2(void* stream, int mode) {
    NEEDS_CONTEXT;
    auto s = stream ? find_stream(stream) : nullptr;
    if (!s || s->recording || mode < 0 || mode > 2) return error(InvalidHandle, "cuStreamBeginCapture: no such stream, or it is being recorded");
    s->recording = std::make_shared<std::vector<std::function<Failure()>>>();
    return Success;
}

int cuStreamEndCapture(void* stream, void** graph) {
    NEEDS_CONTEXT;
    auto s = stream ? find_stream(stream) : nullptr;
    if (!s || !s->recording || graph == nullptr) return error(InvalidHandle, "cuStreamEndCapture: the stream is not being recorded");
    auto made = new Graph{s->card, s->recording};
    s->recording = nullptr;
    graphs().insert(made);
    *graph = made;
    return Success;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    NEEDS_CONTEXT;
    auto from = static_cast<Graph*>(graph);
    if (!graphs().count(from) || executable == nullptr || flags != 0) return error(InvalidHandle, "cuGraphInstantiateWithFlags: no such graph");
    auto made = new Graph(*from);
    graphs().insert(made);
    *executable = made;
    return Success;
}

int cuGraphLaunch(void* executable, void* stream) {
    NEEDS_CONTEXT;
    auto g = static_cast<Graph*>(executable);
    auto s = find_stream(stream);
    if (!graphs().count(g) || !s || s->card != g->card) return error(InvalidHandle, "cuGraphLaunch: no such graph, or a stream of another card");
    for (auto& work : *g->work)
        if (int status = s->push(work)) return status;
    return Success;
}

int cuGraphDestroy(void* graph) {
    LOCKED;
    auto g = static_cast<Graph*>(graph);
    if (!graphs().erase(g)) return error(InvalidHandle, "cuGraphDestroy: no such graph");
    delete g;
    return Success;
}

int cuGraphExecDestroy(void* executable) { return cuGraphDestroy(executable); }

int cuStreamQuery(void* stream) {
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    if (!s) return error(InvalidHandle, "cuStreamQuery: no such stream");
    if (s->reached(s->position())) return s->drain();
    s->step();  // whoever polls must come to an end
    return NotReady;
}

int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    auto e = events().find(event);
    if (!s || e == events().end()) return error(InvalidHandle, "cuStreamWaitEvent: no such stream or event");
    return e->second->stream ? s->push_wait(e->second->stream, e->second->position) : Success;
}

int cuEventCreate(void** event, unsigned flags) {
    NEEDS_CONTEXT;
    if (event == nullptr || flags > 7) return error(InvalidValue, "cuEventCreate: flags " + std::to_string(flags));
    auto made = std::make_unique<Event>();
    made->card = current_card();
    made->timing = !(flags & 2);
    *event = made.get();
    events()[*event] = std::move(made);
    return Success;
}

int cuEventDestroy_v2(void* event) {
    LOCKED;
    auto e = events().find(event);
    if (e != events().end())
        if (int lost = lost_status(e->second->card)) return lost;
    return events().erase(event) ? Success : error(InvalidHandle, "cuEventDestroy: no such event");
}

int cuEventRecord(void* event, void* stream) {
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    auto e = events().find(event);
    if (!s || e == events().end()) return error(InvalidHandle, "cuEventRecord: no such stream or event");
    if (s->card != e->second->card)
        return error(InvalidHandle, "cuEventRecord: the event is of cuda:" + std::to_string(e->second->card) +
                                        ", the stream of cuda:" + std::to_string(s->card));
    auto time = std::make_shared<double>(0);
    e->second->stream = s;
    e->second->position = s->position() + 1;
    e->second->seconds = time;
    return s->push([time] {
        *time = now();
        return Failure{};
    });
}

int cuEventSynchronize(void* event) {
    NEEDS_CONTEXT;
    auto e = events().find(event);
    if (e == events().end()) return error(InvalidHandle, "cuEventSynchronize: no such event");
    auto s = e->second->stream;
    return s ? s->drain(e->second->position) : Success;
}

int cuEventQuery(void* event) {
    NEEDS_CONTEXT;
    auto e = events().find(event);
    if (e == events().end()) return error(InvalidHandle, "cuEventQuery: no such event");
    auto s = e->second->stream;
    if (!s || s->reached(e->second->position)) return Success;
    s->step();
    return NotReady;
}

int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    NEEDS_CONTEXT;
    auto a = events().find(start), b = events().find(end);
    if (a == events().end() || b == events().end() || !a->second->timing || !b->second->timing || !a->second->stream || !b->second->stream)
        return error(InvalidHandle, "cuEventElapsedTime: an event is not there, has no timing or was never recorded");
    if (!a->second->stream->reached(a->second->position) || !b->second->stream->reached(b->second->position)) return NotReady;
    *milliseconds = static_cast<float>((*b->second->seconds - *a->second->seconds) * 1e3);
    return Success;
}

int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) { return cuEventElapsedTime(milliseconds, start, end); }

int kt_enqueue(void* stream, void (*run)(void*), void* argument, void (*release)(void*)) {
    std::shared_ptr<void> owned(argument, release);  // a recorded product runs more than once
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    if (!s) return error(InvalidHandle, "no such stream");
    return s->push([run, owned] {
        run(owned.get());
        return Failure{};
    });
}

void kt_parallel(int count, void (*body)(void*, int), void* argument) {
    parallel(count, [=](int i) { body(argument, i); });
}
}
