// Which algorithm an operation runs where a call names none, and how it travels on CUDA. Pure host code.
#pragma once

#include <cstddef>
#include <string>

#include "mixcomm/communicator.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// What the choice of an algorithm depends on: all of it shared by the ranks of a call.
struct Circumstances {
  Op op = Op::all_reduce_all_gather;
  int tp = 1;
  int dp = 1;
  std::size_t bytes = 0;   ///< of the tensor with all rows: sum(rows) x hidden; for all_reduce, of the tensor
  bool symmetric = false;  ///< that tensor is memory from allocate()
  std::size_t largest_block_bytes = 0;  ///< of the largest DP rank's rows; 0: all have as many
  bool crowded = false;  ///< more ranks than processors, so that a wait costs a change of threads
  BackendKind backend = BackendKind::cpu;
  Link link = Link::nvlink;             ///< CUDA: between the ranks' GPUs
  const TuningTable* tuning = nullptr;  ///< what was measured, where anything was
  bool epilogue = false;                ///< the call has one
  int lanes = 1;  ///< CPU: of a large call: as many as the rank with the fewest threads has
};

/// The algorithm that `automatic` runs.
[[nodiscard]] Algorithm choose(const Circumstances& circumstances);

/// CUDA: how that algorithm's data travels, as far as it is known better than launching knows.
[[nodiscard]] LaunchShape choose_shape(const Circumstances& circumstances, Algorithm algorithm);

/// Why, in a sentence.
[[nodiscard]] std::string why_chosen(const Circumstances& circumstances);

}  // namespace mixcomm
