// Programs and launches. A "CUBIN" is a shared library of this machine (see nvrtc.cpp); every worker loads a copy of its own, so that
// static __shared__ variables are a block's.
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <unordered_map>

#include "machine.h"
#include "streams.h"
#include "workers.h"

using namespace kt;
#define LOCKED std::lock_guard<std::recursive_mutex> lock(Machine::get().gate)

extern "C" int cuDeviceGetAttribute(int*, int, int);

namespace {

constexpr unsigned SharedWithoutAsking = 48 << 10;

struct Module {
    int card;
    std::vector<void*> libraries;
    ~Module() {
        for (auto library : libraries) dlclose(library);
    }
};

struct Function {
    std::shared_ptr<Module> module;
    std::vector<Program> programs;
    unsigned max_dynamic;
    unsigned static_bytes;
};

std::unordered_map<void*, std::shared_ptr<Module>>& modules() {
    static auto all = new std::unordered_map<void*, std::shared_ptr<Module>>();
    return *all;
}

std::unordered_map<void*, std::shared_ptr<Function>>& functions() {
    static auto all = new std::unordered_map<void*, std::shared_ptr<Function>>();
    return *all;
}

size_t image_bytes(const void* image) {
    auto e = static_cast<const Elf64_Ehdr*>(image);
    if (memcmp(e->e_ident, ELFMAG, SELFMAG) != 0 || e->e_machine != EM_X86_64) return 0;
    return e->e_shoff + static_cast<size_t>(e->e_shnum) * e->e_shentsize;  // the linker writes the section headers last
}

void* load(const void* image, size_t bytes) {
    int fd = memfd_create("kt-emulated-program", MFD_CLOEXEC);
    if (fd < 0) return nullptr;
    for (size_t done = 0; done < bytes;) {
        auto n = write(fd, static_cast<const char*>(image) + done, bytes - done);
        if (n <= 0) break;
        done += static_cast<size_t>(n);
    }
    // The loader takes a path that it has seen for the library that it has loaded, and descriptors come again: a number spelled in "/." and
    // "//" makes each path a new one.
    static unsigned loaded = 0;
    std::string path = "/proc/self/fd";
    for (auto n = ++loaded; n; n >>= 1) path += n & 1 ? "/." : "//";
    auto library = dlopen((path + "/" + std::to_string(fd)).c_str(), RTLD_NOW | RTLD_LOCAL);
    close(fd);
    return library;
}

constexpr int ProgrammaticStreamSerialization = 6;

struct LaunchAttribute {
    int id, unused;
    char value[64];
};

struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};

int max_shared() {
    int bytes = 0;
    cuDeviceGetAttribute(&bytes, 97, 0);
    return bytes;
}

}  // namespace

extern "C" {

int cuModuleLoadData(void** module, const void* image) {
    LOCKED;
    if (current_card() < 0) return error(InvalidContext, "cuModuleLoadData: no context is current on this thread");
    auto bytes = image_bytes(image);
    if (bytes == 0) return error(InvalidImage, "cuModuleLoadData: not a program that the emulated NVRTC has made");
    auto made = std::make_shared<Module>();
    made->card = current_card();
    for (int w = 0; w < worker_count(); w++) {
        auto library = load(image, bytes);
        if (!library) return error(InvalidImage, std::string("cuModuleLoadData: ") + dlerror());
        made->libraries.push_back(library);
    }
    *module = made.get();
    modules()[made.get()] = made;
    return Success;
}

int cuModuleUnload(void* module) {
    LOCKED;
    auto found = modules().find(module);
    if (found == modules().end()) return error(InvalidHandle, "cuModuleUnload: no such module");
    drain_all();
    for (auto f = functions().begin(); f != functions().end();)
        f = f->second->module == found->second ? functions().erase(f) : std::next(f);
    modules().erase(found);
    return Success;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    LOCKED;
    auto found = modules().find(module);
    if (found == modules().end()) return error(InvalidHandle, "cuModuleGetFunction: no such module");
    auto made = std::make_shared<Function>();
    made->module = found->second;
    made->max_dynamic = SharedWithoutAsking;
    for (auto library : made->module->libraries) {
        Program p;
        auto entries = *static_cast<const KtEntry**>(dlsym(library, "kt_entries"));
        auto count = *static_cast<const unsigned*>(dlsym(library, "kt_entry_count"));
        for (unsigned i = 0; i < count; i++)
            if (strcmp(entries[i].name, name) == 0) p.entry = &entries[i];
        if (!p.entry) return error(NotFound, std::string("cuModuleGetFunction: no kernel ") + name);
        p.shared_begin = *static_cast<unsigned char**>(dlsym(library, "kt_shared_begin"));
        p.shared_end = *static_cast<unsigned char**>(dlsym(library, "kt_shared_end"));
        made->programs.push_back(p);
    }
    *function = made.get();
    functions()[made.get()] = made;
    return Success;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
    LOCKED;
    auto found = functions().find(function);
    if (found == functions().end()) return error(InvalidHandle, "cuFuncSetAttribute: no such function");
    if (attribute == 9) return Success;  // preferred carve-out: a hint
    if (attribute != 8) return error(InvalidValue, "cuFuncSetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
    if (value < 0 || value > max_shared())
        return error(InvalidValue, "cuFuncSetAttribute: " + std::to_string(value) + " bytes of shared memory, at most " +
                                       std::to_string(max_shared()) + " are there");
    found->second->max_dynamic = static_cast<unsigned>(value);
    return Success;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
    LOCKED;
    auto found = functions().find(function);
    if (found == functions().end()) return error(InvalidHandle, "cuFuncGetAttribute: no such function");
    auto& f = *found->second;
    switch (attribute) {
        case 0:
            *value = static_cast<int>(f.programs[0].entry->max_threads);
            return Success;
        case 1:
            *value = static_cast<int>(f.programs[0].shared_end - f.programs[0].shared_begin);
            return Success;
        case 8:
            *value = static_cast<int>(f.max_dynamic);
            return Success;
        default:
            return error(InvalidValue, "cuFuncGetAttribute: attribute " + std::to_string(attribute) + " is not emulated");
    }
}

int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void** extra) {
    LOCKED;
    auto [gx, gy, gz] = config->grid;
    auto [bx, by, bz] = config->block;
    auto shared = config->shared;
    auto stream = config->stream;
    static uint64_t launches = 0;
    auto found = functions().find(function);
    if (found == functions().end()) return error(InvalidHandle, "cuLaunchKernelEx: no such function");
    auto f = found->second;
    count_launch(f->module->card);
    if (int lost = lost_status(f->module->card)) return lost;
    auto& entry = *f->programs[0].entry;
    auto where = std::string("cuLaunchKernelEx: kernel ") + entry.name + ": ";
    auto s = find_stream(stream);
    if (!s) return error(InvalidHandle, where + "no such stream");
    if (current_card() != f->module->card || s->card != f->module->card)
        return error(InvalidHandle, where + "is loaded on cuda:" + std::to_string(f->module->card) + ", the stream is of cuda:" +
                                        std::to_string(s->card) + ", current is cuda:" + std::to_string(current_card()));
    if (extra != nullptr) return error(InvalidValue, where + "`extra` is not emulated");
    // A kernel that may start before the one in front of it is over starts behind it here, which is one of the orders it must stand.
    for (unsigned i = 0; i < config->attribute_count; i++)
        if (config->attributes[i].id != ProgrammaticStreamSerialization)
            return error(InvalidValue, where + "attribute " + std::to_string(config->attributes[i].id) + " is not emulated");
    if (gx == 0 || gy == 0 || gz == 0 || gx > 2147483647u || gy > 65535 || gz > 65535)
        return error(InvalidValue,
                     where + "a grid of " + std::to_string(gx) + " x " + std::to_string(gy) + " x " + std::to_string(gz) + " blocks");
    auto threads = static_cast<uint64_t>(bx) * by * bz;
    if (threads == 0 || threads > 1024 || bz > 64)
        return error(InvalidValue,
                     where + "a block of " + std::to_string(bx) + " x " + std::to_string(by) + " x " + std::to_string(bz) + " threads");
    if (threads > entry.max_threads)
        return error(LaunchOutOfResources,
                     where + std::to_string(threads) + " threads a block, its __launch_bounds__ are " + std::to_string(entry.max_threads));
    if (shared > f->max_dynamic)
        return error(InvalidValue, where + std::to_string(shared) + " bytes of dynamic shared memory, allowed are " +
                                       std::to_string(f->max_dynamic) + " (cuFuncSetAttribute)");
    // The driver copies the arguments before it returns.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (unsigned i = 0; i < entry.count; i++) {
        auto p = static_cast<const char*>(parameters[i]);
        values->emplace_back(p, p + entry.sizes[i]);
    }
    Launch launch{entry.name, f->module->card, {gx, gy, gz}, {bx, by, bz}, shared, launches++, nullptr};
    return s->push([f, values, launch]() mutable {
        std::vector<void*> pointers;
        for (auto& v : *values) pointers.push_back(v.data());
        launch.arguments = pointers.data();
        Machine::get().open_for(launch.card);
        return run_grid(launch, f->programs);
    });
}
}
