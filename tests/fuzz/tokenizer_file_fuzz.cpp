// A tokenizer made of a tokenizer.json that nobody vouches for, and what it makes of a text.
#include <array>
#include <string>
#include <vector>

#include "fuzz/scratch_directory.hpp"
#include "fuzz/target.hpp"
#include "runner/tokenizer.hpp"

namespace {

constexpr std::array<std::string_view, 3> texts{"", "ab abc  <s>1\n",
                                                "\xC3\xA9\xCC\x81 \xF0\x9F\x98\x80\xFF"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const mixcomm::fuzz::ScratchDirectory scratch;
  scratch.write("tokenizer.json", mixcomm::fuzz::text_of(data, size));
  mixcomm::fuzz::may_refuse([&] {
    const mixcomm::runner::Tokenizer tokenizer(scratch.path());
    for (const std::string_view text : texts) {
      const std::vector<int> ids = tokenizer.encode(text);
      for (const int id : ids)
        mixcomm::fuzz::require(id >= 0 && static_cast<std::size_t>(id) < tokenizer.vocab_size(),
                               "ids are in the vocabulary");
      (void)tokenizer.decode(ids);
    }
  });
  return 0;
}
