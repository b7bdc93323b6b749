#include "runner/tokenizer_file.hpp"

#include <fmt/format.h>

#include <limits>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "mixcomm/error.hpp"
#include "runner/added_tokens.hpp"
#include "runner/byte_level.hpp"
#include "runner/json_file.hpp"
#include "runner/split_pattern.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::size_t max_file_bytes = std::size_t{256} << 20U;
constexpr std::size_t max_split_patterns = 16;
constexpr Range<std::uint64_t> ids{.min = 0, .max = std::numeric_limits<int>::max() - 1};

const std::string& type_of(const JsonView& object) {
  return object.at("type").as_string();
}

bool is_true(const JsonView& object, std::string_view field) {
  const auto value = object.find(field);
  return value && value->as_bool();
}

/// All must be null, false, 0 or "": they change how words become tokens.
void refuse_unless_neutral(const JsonView& model, std::string_view field) {
  const auto value = model.find(field);
  if (!value) return;
  const Json& json = value->value();
  const bool neutral = (json.is_boolean() && !json.get<bool>()) ||
                       (json.is_number() && json.get<double>() == 0.0) ||
                       (json.is_string() && json.get_ref<const std::string&>().empty());
  if (!neutral) value->fail(fmt::format("is {}, which is unsupported", shown(json)));
}

/// "a b", the older form, or ["a", "b"].
std::optional<std::pair<std::string, std::string>> read_merge(const Json& merge) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return std::nullopt;
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string())
    return std::nullopt;
  return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
}

Vocabulary read_vocabulary(const JsonView& vocab) {
  Vocabulary vocabulary;
  std::unordered_map<int, const std::string*> token_of;
  if (vocab.as_object().empty()) vocab.fail("is empty");
  vocabulary.reserve(vocab.as_object().size());
  token_of.reserve(vocab.as_object().size());
  for (const auto& [token, value] : vocab.as_object()) {
    const bool valid = value.is_number_unsigned() && value.get<std::uint64_t>() <= ids.max;
    const int id = static_cast<int>(valid ? value.get<std::uint64_t>() : vocab.at(token).as_integer(ids));
    const auto [other, inserted] = token_of.emplace(id, &token);
    if (!inserted) {
      vocab.fail(
          fmt::format("gives the id {} to both {} and {}", id, in_quotes(*other->second), in_quotes(token)));
    }
    vocabulary.emplace(token, id);
  }
  return vocabulary;
}

/// An unknown token stands for bytes that the vocabulary lacks; it is not needed where it lacks none.
void refuse_needed_unknown_token(const JsonView& model, const Vocabulary& vocabulary) {
  const auto unknown = model.find("unk_token");
  if (!unknown) return;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(character, byte_level_character(static_cast<unsigned char>(byte)));
    if (!vocabulary.contains(character)) {
      unknown->fail(
          fmt::format("is {} and needed: the vocabulary has no token for byte {}, so it is not byte-level",
                      shown(unknown->value()), byte));
    }
  }
}

BpeModel read_model(const JsonView& model) {
  // The oldest files have no type; only BPE has merges.
  if (model.find("type") ? type_of(model) != "BPE" : !model.find("merges")) {
    const auto type = model.find("type");
    model.fail(fmt::format("is {}, not BPE", type ? in_quotes(type->as_string()) : "of no type"));
  }
  for (const std::string_view field :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    refuse_unless_neutral(model, field);
  }
  BpeModel result;
  result.vocabulary = read_vocabulary(model.at("vocab"));
  result.ignore_merges = is_true(model, "ignore_merges");
  refuse_needed_unknown_token(model, result.vocabulary);

  const JsonView merges = model.at("merges");
  for (std::size_t i = 0; i < merges.as_array().size(); ++i) {
    const Json& json = merges.as_array()[i];
    if (json.is_string() && json.get_ref<const std::string&>().starts_with("#version")) continue;
    auto merge = read_merge(json);
    if (!merge) merges.element(i).fail(fmt::format("is {}, no pair of tokens", shown(json)));
    result.merges.push_back(std::move(*merge));
  }
  return result;
}

bool reads_nfc(const JsonView& normalizer) {
  const std::string& type = type_of(normalizer);
  if (type == "NFC") return true;
  if (type != "Sequence") normalizer.fail(fmt::format("is {}; only NFC is supported", in_quotes(type)));
  const JsonView parts = normalizer.at("normalizers");
  bool nfc = false;
  for (std::size_t i = 0; i < parts.as_array().size(); ++i) {
    // Not recursive: a Sequence of Sequences is not written by anyone.
    const JsonView part = parts.element(i);
    if (type_of(part) != "NFC")
      part.fail(fmt::format("is {}; only NFC is supported", in_quotes(type_of(part))));
    nfc = true;
  }
  return nfc;
}

std::string read_split(const JsonView& split) {
  const JsonView behavior = split.at("behavior");
  if (behavior.as_string() != "Isolated") {
    behavior.fail(fmt::format("is {}; only \"Isolated\" is supported", in_quotes(behavior.as_string())));
  }
  if (is_true(split, "invert")) split.at("invert").fail("is true, which is unsupported");
  const JsonView pattern = split.at("pattern");
  if (!pattern.find("Regex")) pattern.fail("is no Regex");
  return pattern.at("Regex").as_string();
}

void read_byte_level(const JsonView& byte_level, std::vector<std::string>& patterns) {
  if (is_true(byte_level, "add_prefix_space")) {
    byte_level.at("add_prefix_space").fail("is true, which is unsupported");
  }
  const auto use_regex = byte_level.find("use_regex");
  if (!use_regex || use_regex->as_bool()) patterns.emplace_back(gpt2_pattern);
}

/// ByteLevel, or a Sequence of Splits and, as the last, ByteLevel.
std::vector<std::string> read_pre_tokenizer(const JsonView& pre_tokenizer) {
  constexpr std::string_view supported = "supported is ByteLevel, or a Sequence of Split and ByteLevel";
  std::vector<std::string> patterns;
  const std::string& type = type_of(pre_tokenizer);
  if (type == "ByteLevel") {
    read_byte_level(pre_tokenizer, patterns);
    return patterns;
  }
  if (type != "Sequence") pre_tokenizer.fail(fmt::format("is {}; {}", in_quotes(type), supported));
  const JsonView parts = pre_tokenizer.at("pretokenizers");
  const std::size_t count = parts.as_array().size();
  if (count == 0 || count > max_split_patterns)
    parts.fail(fmt::format("has {} entries; {}", count, supported));
  for (std::size_t i = 0; i < count; ++i) {
    const JsonView part = parts.element(i);
    const std::string_view wanted = i + 1 < count ? "Split" : "ByteLevel";
    if (type_of(part) != wanted) {
      part.fail(fmt::format("is {} where {} is needed; {}", in_quotes(type_of(part)), wanted, supported));
    }
    if (i + 1 < count) {
      patterns.push_back(read_split(part));
    } else {
      read_byte_level(part, patterns);
    }
  }
  return patterns;
}

/// Those that add no token are done with nothing.
void check_post_processor(const JsonView& processor) {
  const std::string& type = type_of(processor);
  if (type == "ByteLevel") return;
  if (type == "Sequence") {
    const JsonView parts = processor.at("processors");
    for (std::size_t i = 0; i < parts.as_array().size(); ++i) check_post_processor(parts.element(i));
    return;
  }
  if (type != "TemplateProcessing")
    processor.fail(fmt::format("is {}, which is unsupported", in_quotes(type)));
  const JsonView single = processor.at("single");
  for (std::size_t i = 0; i < single.as_array().size(); ++i) {
    const JsonView piece = single.element(i);
    if (!piece.find("Sequence")) piece.fail("adds a token to each text, which is unsupported");
  }
  if (single.as_array().size() != 1) single.fail("does not give the text once, which is unsupported");
}

AddedToken read_added_token(const JsonView& entry) {
  AddedToken token;
  const JsonView content = entry.at("content");
  token.content = content.as_string();
  if (token.content.size() > AddedTokenFinder::max_token_bytes) {
    content.fail(fmt::format("has {} bytes; at most {} are supported", token.content.size(),
                             AddedTokenFinder::max_token_bytes));
  }
  token.id = static_cast<int>(entry.at("id").as_integer(ids));
  token.special = is_true(entry, "special");
  token.normalized = is_true(entry, "normalized");
  for (const std::string_view field : {"single_word", "lstrip", "rstrip"}) {
    if (is_true(entry, field))
      entry.at(field).fail(fmt::format("of {} is true, which is unsupported", in_quotes(token.content)));
  }
  return token;
}

std::vector<AddedToken> read_added_tokens(const JsonView& list, const Vocabulary& vocabulary) {
  std::unordered_map<int, std::string> content_of;  // of all tokens
  for (const auto& [token, id] : vocabulary) content_of.emplace(id, token);
  std::unordered_map<std::string, int> id_of;  // of added tokens
  std::vector<AddedToken> result;
  for (std::size_t i = 0; i < list.as_array().size(); ++i) {
    const JsonView entry = list.element(i);
    AddedToken token = read_added_token(entry);
    if (token.content.empty()) continue;  // as `tokenizers` does
    if (!id_of.emplace(token.content, token.id).second)
      entry.fail(fmt::format("adds {} again", in_quotes(token.content)));
    const auto known = vocabulary.find(token.content);
    if (known != vocabulary.end() && known->second != token.id) {
      entry.fail(fmt::format("gives {} the id {}; in model.vocab it has {}", in_quotes(token.content),
                             token.id, known->second));
    }
    const auto [other, inserted] = content_of.emplace(token.id, token.content);
    if (!inserted && other->second != token.content) {
      entry.fail(fmt::format("gives {} the id {} of {}", in_quotes(token.content), token.id,
                             in_quotes(other->second)));
    }
    result.push_back(std::move(token));
  }
  return result;
}

}  // namespace

TokenizerFile read_tokenizer_file(const std::filesystem::path& path) {
  const Json document = read_json_file(path, max_file_bytes);
  const JsonView root(document, path.string());
  TokenizerFile result;
  result.model = read_model(root.at("model"));
  if (const auto normalizer = root.find("normalizer")) result.normalize_nfc = reads_nfc(*normalizer);
  const auto pre_tokenizer = root.find("pre_tokenizer");
  if (!pre_tokenizer) root.fail("has no pre_tokenizer; byte-level BPE needs a ByteLevel one");
  result.split_patterns = read_pre_tokenizer(*pre_tokenizer);
  const auto decoder = root.find("decoder");
  if (!decoder) root.fail("has no decoder; byte-level BPE needs a ByteLevel one");
  if (type_of(*decoder) != "ByteLevel") {
    decoder->fail(fmt::format("is {}; only ByteLevel is supported", in_quotes(type_of(*decoder))));
  }
  if (const auto processor = root.find("post_processor")) check_post_processor(*processor);
  if (const auto added = root.find("added_tokens")) {
    result.added_tokens = read_added_tokens(*added, result.model.vocabulary);
  }
  return result;
}

}  // namespace mixcomm::runner
