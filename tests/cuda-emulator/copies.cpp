// The driver's copies and fills, under their real symbol names.
#include <cstring>

#include "machine.h"
#include "streams.h"

using namespace kt;
#define LOCKED std::lock_guard<std::recursive_mutex> lock(Machine::get().gate)
#define NEEDS_CONTEXT                                                                                                       \
    LOCKED;                                                                                                                 \
    if (current_card() < 0) return error(InvalidContext, std::string(__func__) + ": no context is current on this thread"); \
    if (int lost = lost_status(current_card())) return lost

namespace {

// Where the emulator reads and writes for an address that a copy names; null: not one allocation. Host memory is taken as it is.
char* side(uintptr_t p, size_t bytes) {
    auto& machine = Machine::get();
    if (!machine.is_device(p)) return reinterpret_cast<char*>(p);
    auto a = machine.find(p);
    return a && p + bytes <= a->end ? machine.memory[a->card]->reach(p) : nullptr;
}

int wrong(const char* call, const char* what, uintptr_t p, size_t bytes) {
    return error(InvalidValue, std::string(call) + ": the " + what + " of " + std::to_string(bytes) +
                                   " bytes is not inside one allocation: " + Machine::get().describe(p));
}

struct Rows {
    uintptr_t target, source;
    size_t target_pitch, source_pitch, width, height;
    size_t extent(size_t pitch) const { return height == 0 ? 0 : pitch * (height - 1) + width; }
};

// A copy of rows, in the stream's order. As the driver does, pageable sources are read before the call returns and pageable targets are
// written before it returns.
int copy(const char* call, const Rows& rows, void* stream, bool to_device, bool from_device) {
    auto& machine = Machine::get();
    if (rows.width == 0 || rows.height == 0) return Success;
    auto s = find_stream(stream);
    if (!s) return error(InvalidHandle, std::string(call) + ": no such stream");
    auto target_bytes = rows.extent(rows.target_pitch), source_bytes = rows.extent(rows.source_pitch);
    if (to_device && !machine.is_device(rows.target))
        return error(InvalidValue, std::string(call) + ": the target is not device memory: " + machine.describe(rows.target));
    if (from_device && !machine.is_device(rows.source))
        return error(InvalidValue, std::string(call) + ": the source is not device memory: " + machine.describe(rows.source));
    if (!side(rows.target, target_bytes)) return wrong(call, "target", rows.target, target_bytes);
    if (!side(rows.source, source_bytes)) return wrong(call, "source", rows.source, source_bytes);
    std::shared_ptr<std::vector<char>> staged;
    auto late = !is_eager();
    if (late && !machine.is_device(rows.source) && !machine.is_pinned(rows.source, source_bytes)) {
        auto p = reinterpret_cast<const char*>(rows.source);
        staged = std::make_shared<std::vector<char>>(p, p + source_bytes);
    }
    int status = s->push([rows, staged, name = std::string(call), target_bytes, source_bytes] {
        auto target = side(rows.target, target_bytes);
        auto source = staged ? staged->data() : side(rows.source, source_bytes);
        if (!target || !source) return Failure{IllegalAddress, name + ": its memory was freed before it ran"};
        for (size_t r = 0; r < rows.height; r++) memmove(target + r * rows.target_pitch, source + r * rows.source_pitch, rows.width);
        return Failure{};
    });
    if (status != Success || !late) return status;
    return machine.is_device(rows.target) || machine.is_pinned(rows.target, target_bytes) ? Success : s->drain();
}

int copy(const char* call, uintptr_t target, uintptr_t source, size_t bytes, void* stream, bool to_device, bool from_device) {
    return copy(call, Rows{target, source, bytes, bytes, bytes, 1}, stream, to_device, from_device);
}

template <class V>
int fill(const char* call, uintptr_t p, V value, size_t count, void* stream) {
    auto s = find_stream(stream);
    if (!s) return error(InvalidHandle, std::string(call) + ": no such stream");
    if (count == 0) return Success;
    if (!Machine::get().is_device(p) || !side(p, count * sizeof(V)) || p % sizeof(V) != 0)
        return wrong(call, "target", p, count * sizeof(V));
    return s->push([=, name = std::string(call)] {
        auto target = side(p, count * sizeof(V));
        if (!target) return Failure{IllegalAddress, name + ": its memory was freed before it ran"};
        for (size_t i = 0; i < count; i++) memcpy(target + i * sizeof(V), &value, sizeof(V));
        return Failure{};
    });
}

}  // namespace

extern "C" {

int cuMemcpyHtoDAsync_v2(uintptr_t target, const void* source, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    return copy("cuMemcpyHtoDAsync", target, reinterpret_cast<uintptr_t>(source), bytes, stream, true, false);
}

int cuMemcpyDtoHAsync_v2(void* target, uintptr_t source, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    return copy("cuMemcpyDtoHAsync", reinterpret_cast<uintptr_t>(target), source, bytes, stream, false, true);
}

int cuMemcpyDtoDAsync_v2(uintptr_t target, uintptr_t source, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    return copy("cuMemcpyDtoDAsync", target, source, bytes, stream, true, true);
}

int cuMemcpyAsync(uintptr_t target, uintptr_t source, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    return copy("cuMemcpyAsync", target, source, bytes, stream, false, false);
}

int cuMemcpyPeerAsync(uintptr_t target, void* target_context, uintptr_t source, void* source_context, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    auto t = Machine::get().find(target), s = Machine::get().find(source);
    auto tc = find_context(target_context), sc = find_context(source_context);
    if (!t || !s || !tc || !sc || t->card != tc->card || s->card != sc->card)
        return error(InvalidValue, "cuMemcpyPeerAsync: an address is not of the context named with it");
    return copy("cuMemcpyPeerAsync", target, source, bytes, stream, true, true);
}

// CUDA_MEMCPY2D of cuda.h.
struct Memcpy2D {
    size_t source_x, source_y;
    unsigned source_type;
    const void* source_host;
    uintptr_t source_device;
    void* source_array;
    size_t source_pitch, target_x, target_y;
    unsigned target_type;
    void* target_host;
    uintptr_t target_device;
    void* target_array;
    size_t target_pitch, width, height;
};

int cuMemcpy2DAsync_v2(const Memcpy2D* c, void* stream) {
    NEEDS_CONTEXT;
    auto known = [](unsigned type) { return type == 1 || type == 2 || type == 4; };  // host, device, unified
    if (!known(c->source_type) || !known(c->target_type) || (c->source_pitch && c->source_pitch < c->width) ||
        (c->target_pitch && c->target_pitch < c->width))
        return error(InvalidValue, "cuMemcpy2DAsync: a memory type that is not emulated, or a pitch below the width");
    auto source_pitch = c->source_pitch ? c->source_pitch : c->width, target_pitch = c->target_pitch ? c->target_pitch : c->width;
    auto source =
        (c->source_type == 1 ? reinterpret_cast<uintptr_t>(c->source_host) : c->source_device) + c->source_y * source_pitch + c->source_x;
    auto target =
        (c->target_type == 1 ? reinterpret_cast<uintptr_t>(c->target_host) : c->target_device) + c->target_y * target_pitch + c->target_x;
    return copy("cuMemcpy2DAsync", Rows{target, source, target_pitch, source_pitch, c->width, c->height}, stream, c->target_type == 2,
                c->source_type == 2);
}

int cuMemsetD8Async(uintptr_t p, unsigned char value, size_t count, void* stream) {
    NEEDS_CONTEXT;
    return fill("cuMemsetD8Async", p, value, count, stream);
}

int cuMemsetD16Async(uintptr_t p, unsigned short value, size_t count, void* stream) {
    NEEDS_CONTEXT;
    return fill("cuMemsetD16Async", p, value, count, stream);
}

int cuMemsetD32Async(uintptr_t p, unsigned value, size_t count, void* stream) {
    NEEDS_CONTEXT;
    return fill("cuMemsetD32Async", p, value, count, stream);
}

void* kt_reach(const void* device, size_t bytes) {
    auto p = reinterpret_cast<uintptr_t>(device);
    return Machine::get().is_device(p) ? side(p, bytes) : nullptr;
}
}
