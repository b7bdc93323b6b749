// Tokens that are found in the text as they are, before it is split into words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace mixcomm::runner {

/// A part of a text: an added token, or what stands between two.
struct TextPart {
  std::string_view text;
  std::optional<int> id;  ///< of the added token
};

/// Finds added tokens: the leftmost first, of those the longest.
class AddedTokenFinder {
 public:
  static constexpr std::size_t max_token_bytes = 1024;  ///< bounds the time per byte of text

  AddedTokenFinder();

  /// `content` has 1 to max_token_bytes bytes. Of equal contents, the first one counts.
  void add(std::string_view content, int id);

  /// The parts of `text`, in order and without empty ones.
  [[nodiscard]] std::vector<TextPart> split(std::string_view text) const;

 private:
  struct Match {
    std::size_t length_bytes = 0;
    int id = -1;
  };
  [[nodiscard]] Match longest_at(std::string_view text) const;

  // A trie: node 0 is the root. The first step is a table, since most places of a text end there.
  std::array<std::uint32_t, 256> first_step_{};
  std::unordered_map<std::uint64_t, std::uint32_t> steps_;  // (node << 8 | byte) -> node
  std::vector<int> ids_;                                    // of the token that ends in a node, or -1
};

}  // namespace mixcomm::runner
