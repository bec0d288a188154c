// The border of the library: arguments are checked here once, and every exception becomes a status with a text.
#pragma once
#include <new>

#include "error.h"
#include "kt.h"

namespace kt {

int32_t failed(const char* function, Status status, const char* text) noexcept;  // stores the text for kt_last_error

template <class Body>
int32_t guarded(const char* function, Body&& body) noexcept {
    try {
        body();
        return 0;
    } catch (const Error& e) {
        return failed(function, e.status, e.what());
    } catch (const std::bad_alloc&) {
        return failed(function, OutOfMemory, "out of memory");
    } catch (const std::exception& e) {
        return failed(function, Internal, e.what());
    } catch (...) {
        return failed(function, Internal, "unknown exception");
    }
}

inline void need(const char* name, const void* p) {
    if (!p) throw Error(InvalidArgument, "%s is null", name);
}
inline void check_type(const char* name, int32_t type) {
    if (type != KT_F32 && type != KT_BF16) throw Error(InvalidArgument, "%s must be 0 (F32) or 1 (BF16), but is %d", name, type);
}
inline bool is_low_bit(int32_t type) { return type > KT_BF16 && !(type & KT_TILED); }
// The type of a weight matrix with rows of K elements that meets rows of another type.
inline void check_weights(int32_t type, int64_t K, int32_t rows) {
    if (type == (KT_BF16 | KT_TILED)) {
        if (rows != KT_BF16) throw Error(InvalidArgument, "tiled weights meet BF16 rows alone");
        if (!kt_multiplies_tiles()) throw Error(NotSupported, "CPU variant '%s' does not multiply tiled weights", kt_cpu_variant());
        return;
    }
    if (type < KT_F32 || type >= KT_FORMATS)
        throw Error(InvalidArgument, "typeW must be a format of formats.h, 0 to %d, or tiled BF16, but is %d", KT_FORMATS - 1, type);
    if (K % row_granule(type) != 0)
        throw Error(InvalidArgument, "K must be a multiple of %lld, the group of 4-bit weights, but is %lld",
                    static_cast<long long>(row_granule(type)), static_cast<long long>(K));
}
inline void check_size(const char* name, int64_t n) {
    if (n <= 0) throw Error(InvalidArgument, "%s must be positive, but is %lld", name, static_cast<long long>(n));
}
inline void check_extent(const char* name, int64_t n) {
    if (n < 0) throw Error(InvalidArgument, "%s must not be negative, but is %lld", name, static_cast<long long>(n));
}
inline void check_stride(const char* name, int64_t stride, int64_t least) {
    if (stride < least)
        throw Error(InvalidArgument, "%s must be at least %lld, the length of a stored row, but is %lld", name,
                    static_cast<long long>(least), static_cast<long long>(stride));
}

// `count` + 1 ascending ints that begin with 0; returns the last one, the number of rows.
inline int64_t check_starts(const char* name, int32_t count, const int32_t* starts) {
    need(name, starts);
    if (starts[0] != 0) throw Error(InvalidArgument, "%s[0] must be 0, but is %d", name, starts[0]);
    for (int32_t i = 0; i < count; i++)
        if (starts[i + 1] < starts[i])
            throw Error(InvalidArgument, "%s must not descend, but %s[%d] = %d and %s[%d] = %d", name, name, i, starts[i], name, i + 1,
                        starts[i + 1]);
    return starts[count];
}
inline int64_t check_offsets(int32_t E, const int32_t* offsets) {
    check_size("E", E);
    return check_starts("offsets", E, offsets);
}

}  // namespace kt
