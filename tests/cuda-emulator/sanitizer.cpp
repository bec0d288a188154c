// What g++'s checks in a kernel call (their names and records are those of libubsan): the launch ends with an error that names the line.
#include <cstdint>
#include <string>

#include "block.h"

namespace {

struct Location {
    const char* file;
    uint32_t line, column;
};
struct Type {
    uint16_t kind, info;
    char name[1];
};
struct Mismatch {
    Location location;
    Type* type;
    unsigned char log_alignment, check;
};
struct OutOfBounds {
    Location location;
    Type *array, *index;
};

std::string text(const Location& l) { return std::string(l.file) + ":" + std::to_string(l.line) + ": "; }

}  // namespace

extern "C" {

[[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(Mismatch* data, uintptr_t p) {
    char address[32];
    snprintf(address, sizeof address, "0x%zx", static_cast<size_t>(p));
    kt::BlockRunner::here()->fail(716, text(data->location) + "an access of type " + data->type->name + " to " + address +
                                           ", which is not a multiple of " + std::to_string(1u << data->log_alignment));
}

[[noreturn]] void __ubsan_handle_out_of_bounds_abort(OutOfBounds* data, uintptr_t index) {
    kt::BlockRunner::here()->fail(
        700, text(data->location) + "index " + std::to_string(static_cast<int64_t>(index)) + " is outside of " + data->array->name);
}

[[noreturn]] void __ubsan_handle_alignment_assumption_abort(Location* data, uintptr_t, uintptr_t, uintptr_t) {
    kt::BlockRunner::here()->fail(716, text(*data) + "an address is not as aligned as assumed");
}
}
