// What operations are given whose rows are finished behind a plain sum, and the kernel that finishes them: plain
// data, shared by host and device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/row_arguments.hpp"

namespace mixcomm::cuda {

/// So many threads next to each other finish a row: one for each accumulator of the squares.
inline constexpr int finish_threads = 128;
/// The most threads of a block that finishes rows.
inline constexpr int most_finish_threads = 512;

/// An operation that adds a residual to its sums, and leaves them, rounded, in `call.out`, and those of its own
/// rows in residual_out as well.
struct AddArguments {
  Arguments call;
  EpilogueArguments epilogue;
};

/// Rows to finish. `in` holds rounded sums, or, with a residual, what that is added to.
struct FinishArguments {
  EpilogueArguments epilogue;
  const void* in = nullptr;
  void* out = nullptr;
  std::uint64_t rows = 0;
  /// Null: the host knows how many rows there are. Else `rows` is the most that there may be, and there are
  /// as many as `count` numbers from here say.
  const std::int64_t* device_rows = nullptr;
  std::uint32_t count = 0;
  std::uint32_t hidden = 0;
  float one_over_hidden = 0;      ///< if that is exact, of a power of two: the same quotients, and quicker
  bool behind_operation = false;  ///< of this library, whose kernel has begun: what is only read is there
  MutantSwitch mutant{};
};

}  // namespace mixcomm::cuda
