// Byte-level BPE as a Hugging Face tokenizer.json describes it.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mixcomm::runner {

/// Text to token ids and back, equal to the `tokenizers` library's for byte-level BPE tokenizers (GPT-2,
/// Llama 3 and Qwen style): optional NFC normalizer, one Split pattern (PCRE2) + ByteLevel pre-tokenizer,
/// added tokens matched first. Safe to use from many threads.
class Tokenizer {
 public:
  /// Reads `directory`/tokenizer.json. Throws InvalidArgument naming the file and the reason: missing,
  /// damaged, or not byte-level BPE (which normalizer, pre-tokenizer or model it has instead).
  explicit Tokenizer(const std::filesystem::path& directory);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  [[nodiscard]] std::vector<int> encode(std::string_view text) const;

  /// Special tokens are left out; bytes that are no UTF-8 become U+FFFD. An id that no token has is no text,
  /// as in `tokenizers`: heads are often padded to more rows than there are tokens. Throws InvalidArgument
  /// for a negative one.
  [[nodiscard]] std::string decode(std::span<const int> ids) const;

  [[nodiscard]] std::size_t vocab_size() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm::runner
