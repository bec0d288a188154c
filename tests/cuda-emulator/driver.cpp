// The driver's functions about cards, contexts and memory, under their real symbol names.
#include <cstring>

#include "machine.h"
#include "streams.h"

#include <sys/mman.h>

using namespace kt;
#define LOCKED std::lock_guard<std::recursive_mutex> lock(Machine::get().gate)
#define NEEDS_CONTEXT                                                                                                       \
    LOCKED;                                                                                                                 \
    if (current_card() < 0) return error(InvalidContext, std::string(__func__) + ": no context is current on this thread"); \
    if (int lost = lost_status(current_card())) return lost

namespace {

thread_local Context* current = nullptr;

int multiprocessors() { return static_cast<int>(setting("MULTIPROCESSORS", 16)); }

bool is_card(int device) { return device >= 0 && device < Machine::get().cards(); }

}  // namespace

namespace kt {
Context* find_context(void* context) {
    for (auto& c : Machine::get().contexts)
        if (&c == context && c.retained) return &c;
    return nullptr;
}

int current_card() { return current ? current->card : -1; }
}  // namespace kt

extern "C" {

int cuInit(unsigned flags) {
    if (flags != 0) return error(InvalidValue, "cuInit: flags must be 0");
    LOCKED;
    return Machine::get().cards() == 0 ? NoDevice : Success;
}

int cuDriverGetVersion(int* version) {
    *version = 13000;
    return Success;
}

int cuGetErrorName(int status, const char** text) {
    *text = error_name(status);
    return *text ? Success : InvalidValue;
}

int cuGetErrorString(int status, const char** text) {
    *text = error_text(status);
    return *text ? Success : InvalidValue;
}

int cuDeviceGetCount(int* count) {
    *count = Machine::get().cards();
    return Success;
}

int cuDeviceGet(int* device, int ordinal) {
    if (!is_card(ordinal)) return error(InvalidDevice, "cuDeviceGet: there is no cuda:" + std::to_string(ordinal));
    *device = ordinal;
    return Success;
}

int cuDeviceGetName(char* name, int length, int device) {
    if (!is_card(device)) return InvalidDevice;
    snprintf(name, static_cast<size_t>(length), "emulated card");
    return Success;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (!is_card(device)) return InvalidDevice;
    *bytes = Machine::get().memory[device]->capacity();
    return Success;
}

int cuDeviceGetPCIBusId(char* text, int length, int device) {
    if (!is_card(device)) return InvalidDevice;
    snprintf(text, static_cast<size_t>(length), "0000:%02X:00.0", 0xE0 + device);
    return Success;
}

int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    if (!is_card(device)) return InvalidDevice;
    memcpy(uuid, "kt-emulated-card", 16);
    uuid[15] = static_cast<unsigned char>(device);
    return Success;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (!is_card(device)) return error(InvalidDevice, "cuDeviceGetAttribute: there is no cuda:" + std::to_string(device));
    auto architecture = static_cast<int>(setting("ARCH", 80));
    switch (attribute) {
        case 1:
        case 2:
        case 3:
            *value = 1024;
            break;  // threads of a block, and its x and y
        case 4:
            *value = 64;
            break;
        case 5:
            *value = 2147483647;
            break;
        case 6:
        case 7:
            *value = 65535;
            break;
        case 8:
            *value = 48 << 10;
            break;  // shared memory of a block without asking
        case 10:
            *value = 32;
            break;
        case 12:
        case 82:
            *value = 65536;
            break;
        case 13:
            *value = 1000000;
            break;
        case 16:
            *value = multiprocessors();
            break;
        case 18:
            *value = 0;
            break;
        case 19:
        case 31:
        case 41:
            *value = 1;
            break;
        case 33:
            *value = 0xE0 + device;
            break;
        case 34:
        case 50:
            *value = 0;
            break;
        case 36:
            *value = 1000000;
            break;
        case 37:
            *value = 1024;
            break;
        case 38:
            *value = 32 << 20;
            break;
        case 39:
            *value = 2048;
            break;
        case 40:
            *value = 2;
            break;
        case 75:
            *value = architecture / 10;
            break;
        case 76:
            *value = architecture % 10;
            break;
        case 81:
            *value = architecture >= 90 ? 228 << 10 : architecture == 80 ? 164 << 10 : 100 << 10;
            break;
        case 97:
            *value = architecture >= 90 ? 227 << 10 : architecture == 80 ? 163 << 10 : 99 << 10;
            break;
        default:
            return error(InvalidValue, "cuDeviceGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
    }
    return Success;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (!is_card(device)) return error(InvalidDevice, "cuDevicePrimaryCtxRetain: there is no cuda:" + std::to_string(device));
    LOCKED;
    auto& c = Machine::get().contexts[device];
    c.retained = true;
    *context = &c;
    return Success;
}

int cuDevicePrimaryCtxRelease_v2(int device) { return is_card(device) ? Success : InvalidDevice; }

int cuCtxSetCurrent(void* context) {
    if (context != nullptr && !find_context(context)) return error(InvalidContext, "cuCtxSetCurrent: not a context");
    current = static_cast<Context*>(context);
    return Success;
}

int cuCtxGetCurrent(void** context) {
    *context = current;
    return Success;
}

int cuCtxGetDevice(int* device) {
    if (!current) return error(InvalidContext, "cuCtxGetDevice: no context is current on this thread");
    *device = current->card;
    return Success;
}

int cuCtxSynchronize() {
    NEEDS_CONTEXT;
    return drain_all(current_card());
}

int cuDeviceCanAccessPeer(int* can, int device, int peer) {
    if (!is_card(device) || !is_card(peer)) return InvalidDevice;
    *can = device != peer && setting("PEERS", 1) != 0;
    return Success;
}

int cuCtxEnablePeerAccess(void* context, unsigned flags) {
    NEEDS_CONTEXT;
    auto peer = find_context(context);
    if (!peer || flags != 0 || peer->card == current_card())
        return error(InvalidValue, "cuCtxEnablePeerAccess: not another card's context");
    auto&& enabled = Machine::get().peers[current_card()][peer->card];
    if (enabled) return PeerAlreadyEnabled;
    enabled = true;
    Machine::get().open_for(-1);
    return Success;
}

int cuCtxDisablePeerAccess(void* context) {
    NEEDS_CONTEXT;
    auto peer = find_context(context);
    if (!peer) return InvalidValue;
    Machine::get().peers[current_card()][peer->card] = false;
    Machine::get().open_for(-1);
    return Success;
}

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    NEEDS_CONTEXT;
    auto& m = *Machine::get().memory[current_card()];
    *free = m.capacity() - m.used();
    *total = m.capacity();
    return Success;
}

int cuMemAlloc_v2(uintptr_t* pointer, size_t bytes) {
    NEEDS_CONTEXT;
    if (bytes == 0) return error(InvalidValue, "cuMemAlloc: 0 bytes");
    *pointer = Machine::get().memory[current_card()]->allocate(bytes);
    return *pointer ? Success : error(OutOfMemory, "cuMemAlloc: " + std::to_string(bytes) + " bytes");
}

int cuMemFree_v2(uintptr_t pointer) {
    LOCKED;
    auto a = Machine::get().find(pointer);
    if (!a || a->begin != pointer)
        return error(InvalidValue, "cuMemFree: not the start of an allocation: " + Machine::get().describe(pointer));
    if (int lost = lost_status(a->card)) return lost;
    int status = drain_all();  // the driver waits for the card
    Machine::get().memory[a->card]->free(pointer);
    return status;
}

int cuMemAllocAsync(uintptr_t* pointer, size_t bytes, void* stream) {
    return find_stream(stream) ? cuMemAlloc_v2(pointer, bytes) : error(InvalidHandle, "cuMemAllocAsync: no such stream");
}

int cuMemFreeAsync(uintptr_t pointer, void* stream) {
    NEEDS_CONTEXT;
    auto s = find_stream(stream);
    auto a = Machine::get().find(pointer);
    if (!s || !a || a->begin != pointer) return error(InvalidValue, "cuMemFreeAsync: no such stream, or not the start of an allocation");
    return s->push([pointer, card = a->card] {
        return Machine::get().memory[card]->free(pointer) ? Failure{} : Failure{InvalidValue, "cuMemFreeAsync: freed twice"};
    });
}

int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    NEEDS_CONTEXT;
    if (bytes == 0) return error(InvalidValue, "cuMemHostAlloc: 0 bytes");
    *pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*pointer == MAP_FAILED) return error(OutOfMemory, "cuMemHostAlloc: " + std::to_string(bytes) + " bytes");
    Machine::get().pinned[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
    return Success;
}

int cuMemFreeHost(void* pointer) {
    LOCKED;
    auto found = Machine::get().pinned.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == Machine::get().pinned.end()) return error(InvalidValue, "cuMemFreeHost: not pinned memory");
    int status = drain_all();
    munmap(pointer, found->second);
    Machine::get().pinned.erase(found);
    return status;
}

int cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
    NEEDS_CONTEXT;
    if (bytes == 0 || pointer == nullptr) return error(InvalidValue, "cuMemHostRegister: nothing");
    if (setting("REGISTER", 1) == 0) return error(NotSupported, "cuMemHostRegister");
    auto p = reinterpret_cast<uintptr_t>(pointer);
    for (auto& [begin, size] : Machine::get().pinned)
        if (p < begin + size && begin < p + bytes) return error(HostMemoryAlreadyRegistered, "cuMemHostRegister");
    Machine::get().pinned[p] = bytes;
    return Success;
}

int cuMemHostUnregister(void* pointer) {
    LOCKED;
    int status = drain_all();
    return Machine::get().pinned.erase(reinterpret_cast<uintptr_t>(pointer)) ? status
                                                                             : error(HostMemoryNotRegistered, "cuMemHostUnregister");
}

int cuMemHostGetDevicePointer_v2(uintptr_t* device, void* host, unsigned) {
    *device = reinterpret_cast<uintptr_t>(host);
    return Success;
}
}
