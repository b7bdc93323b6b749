// Splitting a text into words with a regular expression.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

namespace mixcomm::runner {

/// GPT-2's pattern, which a ByteLevel pre-tokenizer with use_regex stands for.
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A Split pre-tokenizer of behavior "Isolated": each match is a word, and so is what stands between two.
/// Safe to use from many threads.
class SplitPattern {
 public:
  /// Compiles an Oniguruma pattern. Throws InvalidArgument, with the reason, where that is impossible.
  explicit SplitPattern(std::string_view pattern);
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;

  /// The words of `text` (valid UTF-8), in order and without empty ones; together they are the text. Throws
  /// InvalidArgument where the pattern needs too many steps.
  [[nodiscard]] std::vector<std::string_view> split(std::string_view text) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm::runner
