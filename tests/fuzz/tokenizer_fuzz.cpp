// The tokenizer of the tiny model on any text: ids are in the vocabulary, and decoding gives the text back.
#include <string>
#include <vector>

#include "fuzz/target.hpp"
#include "runner/nfc.hpp"
#include "runner/tokenizer.hpp"
#include "runner/utf8.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using mixcomm::fuzz::require;
  namespace runner = mixcomm::runner;
  static const runner::Tokenizer tokenizer(MIXCOMM_SOURCE_DIR "/models/tiny-qwen3_5-moe");
  const std::string_view input = mixcomm::fuzz::text_of(data, size);

  const std::vector<int> ids = tokenizer.encode(input);
  for (const int id : ids)
    require(id >= 0 && static_cast<std::size_t>(id) < tokenizer.vocab_size(), "ids are in the vocabulary");
  const std::string text = runner::nfc(runner::replace_invalid_utf8(input));
  require(runner::is_utf8(text), "what was replaced and normalized is UTF-8");
  require(runner::nfc(text) == text, "normalizing twice is normalizing once");
  const std::string decoded = tokenizer.decode(ids);
  if (input.find("<|") == std::string_view::npos)  // no special token, which decoding leaves out
    require(decoded == text, "decoding gives the text");
  return 0;
}
