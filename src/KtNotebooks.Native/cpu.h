// Which instruction sets this machine and its operating system offer, and the one in use.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace kt {

// The variants that run here, best first, comma-separated.
const std::string& variants();
// The kernels in use; the best ones unless select() chose others.
const Kernels& kernels();
// Null or "" is the best. "amx-emulated" (tests) runs anywhere. Throws Error for a name that is unknown or not supported here.
void select(const char* name);
// The processors that this process may use, hyper-threads counted once, at most the share that its control group grants.
int usable_processors();
// Their numbers, by core: hyper-threads of a core together.
std::vector<std::vector<int>> usable_cores();
// Bytes of a core's second cache; a megabyte where the system does not say.
int64_t second_cache_bytes();
// The calling thread runs on these alone from now on; none: anywhere.
void pin_thread(const std::vector<int>& processors);

}  // namespace kt
