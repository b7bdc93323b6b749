// Byte-pair encoding of one word.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runner/text_hash.hpp"

namespace mixcomm::runner {

/// The ids of tokens by their text.
using Vocabulary = TextMap<int>;

/// A byte-level BPE model: vocabulary and merges in the characters of byte_level.hpp.
struct BpeModel {
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  ///< in the order of their rank
  bool ignore_merges = false;  ///< a word that is a token is that token, unmerged
};

class Bpe {
 public:
  /// Throws InvalidArgument where a merge's parts or result are not in the vocabulary.
  explicit Bpe(const BpeModel& model);

  /// Appends the ids of a word. Bytes that the vocabulary lacks are left out, as in `tokenizers`. n log n in
  /// the word's length.
  void encode(std::string_view word, std::vector<int>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank;
    int id;
  };
  [[nodiscard]] const Merge* find_merge(int left, int right) const;

  struct PairHash {
    std::size_t operator()(std::uint64_t pair) const;
  };

  std::array<int, 256> byte_ids_{};  // -1: not in the vocabulary
  std::unordered_map<std::uint64_t, Merge, PairHash> merges_;
  Vocabulary words_;  // tokens by the bytes they stand for; empty unless merges are ignored
};

}  // namespace mixcomm::runner
