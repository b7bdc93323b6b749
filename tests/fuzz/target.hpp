// What the fuzz targets share. A target feeds bytes to one reader; what the reader may do with them is to
// take them, or to refuse them with an InvalidArgument. Anything else (another exception, a broken promise,
// a sanitizer's report) ends the process, and is a bug.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mixcomm/error.hpp"

/// What libFuzzer calls. Each target defines it; replay.cpp calls it where there is no libFuzzer.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace mixcomm::fuzz {

[[nodiscard]] inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Ends the process, unless `holds`.
void require(bool holds, std::string_view what);

/// The text goes to terminals and logs: UTF-8 without control characters, or the process ends.
void require_printable(std::string_view message);

/// Runs a reader that may refuse its input.
template <class Read>
void may_refuse(Read&& read) {
  try {
    read();
  } catch (const InvalidArgument& error) {
    require_printable(error.what());
  }
}

}  // namespace mixcomm::fuzz
