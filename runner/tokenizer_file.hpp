// What a tokenizer.json says, where it is one that the tokenizer can do.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "runner/bpe.hpp"

namespace mixcomm::runner {

struct AddedToken {
  std::string content;
  int id = 0;
  bool special = false;     ///< left out when decoding
  bool normalized = false;  ///< looked for in the normalized text, in its normalized form
};

struct TokenizerFile {
  BpeModel model;
  std::vector<AddedToken> added_tokens;
  bool normalize_nfc = false;
  std::vector<std::string> split_patterns;  ///< applied one after the other
};

/// Reads a tokenizer.json. Throws InvalidArgument naming the file, the field and the reason: missing,
/// damaged, or something other than byte-level BPE. `truncation` and `padding` are ignored: they are settings
/// of a call, not of the tokenizer.
[[nodiscard]] TokenizerFile read_tokenizer_file(const std::filesystem::path& path);

}  // namespace mixcomm::runner
