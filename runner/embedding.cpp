#include "runner/embedding.hpp"

#include <algorithm>
#include <iterator>

namespace mixcomm::runner {

Embedding::Embedding(const Shards& shards, std::size_t vocab_size, std::size_t hidden) {
  const bool bf16 = shards.precision().is_bf16();
  if (bf16) {
    bf16_.reserve(vocab_size * hidden);
  } else {
    fp32_.reserve(vocab_size * hidden);
  }
  // In blocks: the fp32 copy of a whole embedding may take gigabytes.
  constexpr std::size_t block = 4096;
  for (std::size_t row = 0; row < vocab_size; row += block) {
    const Matrix part =
        shards.rows("embed_tokens.weight", {vocab_size, hidden}, {row, std::min(block, vocab_size - row)});
    if (bf16) {
      std::transform(part.values.begin(), part.values.end(), std::back_inserter(bf16_), bf16_bits);
    } else {
      fp32_.insert(fp32_.end(), part.values.begin(), part.values.end());
    }
  }
}

void Embedding::look_up(std::size_t token, std::span<float> out) const {
  if (bf16_.empty()) {
    std::copy_n(fp32_.data() + token * out.size(), out.size(), out.begin());
  } else {
    const std::uint16_t* row = bf16_.data() + token * out.size();
    std::transform(row, row + out.size(), out.begin(), from_bf16_bits);
  }
}

}  // namespace mixcomm::runner
