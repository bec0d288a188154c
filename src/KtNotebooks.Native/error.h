// Errors inside the library are exceptions; only the exports turn them into a status and a text.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <exception>

namespace kt {

enum Status { InvalidArgument = 1, NotSupported = 2, OutOfMemory = 3, Internal = 4 };

class Error : public std::exception {
  public:
    Error(Status status, const char* format, ...) __attribute__((format(printf, 3, 4))) : status(status) {
        va_list args;
        va_start(args, format);
        std::vsnprintf(text_, sizeof text_, format, args);
        va_end(args);
    }
    const char* what() const noexcept override { return text_; }
    const Status status;

  private:
    char text_[400];
};

}  // namespace kt
