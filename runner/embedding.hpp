// The token embedding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runner/numerics.hpp"
#include "runner/shard.hpp"

namespace mixcomm::runner {

/// One row of `hidden` values per token, held in the compute dtype. Every rank holds all of it.
class Embedding {
 public:
  Embedding(const Shards& shards, std::size_t vocab_size, std::size_t hidden);

  /// Writes the token's row; out.size() is the hidden size.
  void look_up(std::size_t token, std::span<float> out) const;

 private:
  std::vector<std::uint16_t> bf16_;  ///< one of the two
  std::vector<float> fp32_;
};

}  // namespace mixcomm::runner
