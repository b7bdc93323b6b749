// Inputs and checks on the device, for tests that make very many calls. Host code calls these; they launch
// kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mixcomm::test {

/// What one call's tensors hold: 32-bit words, each a hash of the call, its block and its place, so that no
/// two calls agree in any line. `numbers`: small whole numbers as bf16, two a word, whose sums over few ranks
/// are exact.
struct Pattern {
  std::uint64_t* call;  ///< in device memory: how many calls there have been
  bool numbers;
};

/// Brings the kernels onto the device, which may wait for kernels that run: before the first operation.
void load_patterns();

/// Writes `words` words of the block that `source` gives.
void write_pattern(const Pattern& pattern, std::uint32_t* to, std::size_t words, int source, void* stream);

/// Counts in `wrong` the words that are not what the sources from `first` on, `count` of them, give together.
void check_pattern(const Pattern& pattern, const std::uint32_t* from, std::size_t words, int first, int count,
                   std::uint64_t* wrong, void* stream);

/// The next call.
void next_call(const Pattern& pattern, void* stream);

}  // namespace mixcomm::test
