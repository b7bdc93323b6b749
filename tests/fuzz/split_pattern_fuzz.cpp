// Any pattern on any text: the input is a pattern and, behind a newline, the text.
#include "runner/split_pattern.hpp"

#include <string>

#include "fuzz/target.hpp"
#include "runner/utf8.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = mixcomm::fuzz::text_of(data, size);
  const std::size_t end = std::min(input.find('\n'), input.size());
  const std::string text =
      mixcomm::runner::replace_invalid_utf8(input.substr(std::min(end + 1, input.size())));
  mixcomm::fuzz::may_refuse([&] {
    const mixcomm::runner::SplitPattern pattern(input.substr(0, end));
    std::string together;
    for (const std::string_view word : pattern.split(text)) {
      mixcomm::fuzz::require(!word.empty(), "words are not empty");
      together += word;
    }
    mixcomm::fuzz::require(together == text, "the words are the text");
  });
  return 0;
}
