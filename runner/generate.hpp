// Greedy decoding of a batch over all ranks.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "runner/decoder.hpp"

namespace mixcomm::runner {

struct GenerateOptions {
  std::size_t max_new_tokens = 128;
  std::size_t max_positions =
      0;  ///< a sequence also ends when it has this many tokens, its prompt's included; 0: never
  std::vector<int> eos_token_ids =
      {};  ///< a sequence ends after one of these, which is kept in its tokens; empty: never
  std::function<void(std::size_t step, std::size_t active)> progress =
      {};  ///< called on this rank after each step, if set
};

struct Generated {
  std::vector<std::vector<int>> tokens;  ///< of this DP rank's prompts, in their order
  std::vector<StepTimes> steps;          ///< [0] is the prefill, the rest are decode steps

  /// Of the row counts that ranks tell each other before each step, by step. Those of one DP rank need none:
  /// begin and end are the same.
  std::vector<CommInterval> exchanges;
};

/// Decodes the prompts of this DP rank (maybe none) together with the other ranks' until all are done. The
/// number of active sequences differs per DP rank and step; ranks tell each other through the communicator.
[[nodiscard]] Generated generate(Decoder& decoder, Communicator& communicator,
                                 std::span<const std::vector<int>> prompts, const GenerateOptions& options);

}  // namespace mixcomm::runner
