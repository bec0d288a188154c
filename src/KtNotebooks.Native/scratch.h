// Working memory that a thread keeps between calls: it grows to what was needed and is freed with the thread.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace kt {

class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { std::free(data_); }

    // 64-byte aligned; what it held before is lost. Not more than 64 bytes beyond the end are ever touched by vector code.
    template <class T = float>
    T* get(int64_t count) {
        int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 127) / 64 * 64;
        if (bytes > bytes_) {
            std::free(data_);
            bytes_ = 0;
            data_ = std::aligned_alloc(64, bytes);
            if (!data_) throw std::bad_alloc();
            bytes_ = bytes;
        }
        return static_cast<T*>(data_);
    }

  private:
    void* data_ = nullptr;
    int64_t bytes_ = 0;
};

}  // namespace kt
