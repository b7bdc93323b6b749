#include "runner/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "mixcomm/error.hpp"
#include "runner/added_tokens.hpp"
#include "runner/bpe.hpp"
#include "runner/byte_level.hpp"
#include "runner/nfc.hpp"
#include "runner/split_pattern.hpp"
#include "runner/tokenizer_file.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

/// What an id is in a decoded text.
struct Decoded {
  std::string bytes;
  bool special = false;
};

/// The errors of the parts know no file.
template <class Make>
auto naming(const std::filesystem::path& path, Make&& make) {
  try {
    return make();
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace

struct Tokenizer::State {
  explicit State(const std::filesystem::path& path) : State(path, read_tokenizer_file(path)) {}

  State(const std::filesystem::path& path, const TokenizerFile& file)
      : normalize_nfc(file.normalize_nfc), bpe(naming(path, [&] { return Bpe(file.model); })) {
    for (const std::string& pattern : file.split_patterns) {
      patterns.push_back(naming(path, [&] { return SplitPattern(pattern); }));
    }
    // Where two are equal once they are normalized, `tokenizers` takes special ones first.
    for (const bool special : {true, false}) {
      for (const AddedToken& token : file.added_tokens) {
        if (token.special != special) continue;
        AddedTokenFinder& finder = token.normalized ? normalized_tokens : verbatim_tokens;
        finder.add(searched(token), token.id);
      }
    }
    for (const auto& [token, id] : file.model.vocabulary) add_decoded(id, token, {});
    for (const AddedToken& token : file.added_tokens) add_decoded(token.id, searched(token), token);
  }

  void add_decoded(int id, const std::string& content, const AddedToken& as) {
    decoded.insert_or_assign(
        id, Decoded{.bytes = byte_level_bytes(content).value_or(content), .special = as.special});
    vocab_size = std::max(vocab_size, static_cast<std::size_t>(id) + 1);
  }

  /// The form in which an added token is looked for. `tokenizers` (0.23) decodes to it, too.
  [[nodiscard]] std::string searched(const AddedToken& token) const {
    return token.normalized ? normalized(token.content) : token.content;
  }

  [[nodiscard]] std::string normalized(std::string_view text) const {
    return normalize_nfc ? nfc(text) : std::string(text);
  }

  /// Appends the ids of a text without added tokens: splits it by the patterns from `pattern` on, and merges.
  void encode_words(std::string_view text, std::size_t pattern, std::vector<int>& ids) const {
    if (pattern == patterns.size()) return bpe.encode(text, ids);
    for (const std::string_view word : patterns[pattern].split(text)) encode_words(word, pattern + 1, ids);
  }

  void encode(std::string_view text, std::vector<int>& ids) const {
    for (const TextPart& verbatim : verbatim_tokens.split(text)) {
      if (verbatim.id) {
        ids.push_back(*verbatim.id);
        continue;
      }
      const std::string part = normalized(verbatim.text);
      for (const TextPart& inner : normalized_tokens.split(part)) {
        if (inner.id) {
          ids.push_back(*inner.id);
        } else {
          encode_words(inner.text, 0, ids);
        }
      }
    }
  }

  bool normalize_nfc;
  Bpe bpe;
  std::vector<SplitPattern> patterns;
  AddedTokenFinder verbatim_tokens;
  AddedTokenFinder normalized_tokens;
  std::unordered_map<int, Decoded> decoded;
  std::size_t vocab_size = 0;
};

Tokenizer::Tokenizer(const std::filesystem::path& directory)
    : state_(std::make_unique<State>(directory / "tokenizer.json")) {}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

std::vector<int> Tokenizer::encode(std::string_view text) const {
  std::vector<int> ids;
  if (is_utf8(text)) {
    state_->encode(text, ids);
  } else {
    state_->encode(replace_invalid_utf8(text), ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int> ids) const {
  std::string bytes;
  for (const int id : ids) {
    if (id < 0) throw InvalidArgument(fmt::format("token id {} is none: ids begin at 0", id));
    const auto found = state_->decoded.find(id);
    if (found != state_->decoded.end() && !found->second.special) bytes += found->second.bytes;
  }
  return replace_invalid_utf8(bytes);
}

std::size_t Tokenizer::vocab_size() const {
  return state_->vocab_size;
}

}  // namespace mixcomm::runner
