#include "fuzz/target.hpp"

#include <cstdio>
#include <cstdlib>

#include "runner/utf8.hpp"

namespace mixcomm::fuzz {

void require(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: not so: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

void require_printable(std::string_view message) {
  require(!message.empty(), "an error has a message");
  for (std::string_view rest = message; !rest.empty();) {
    const runner::CodePoint next = runner::next_code_point(rest);
    const bool control = next.value < 0x20 || (next.value >= 0x7F && next.value < 0xA0);
    require(next.valid && !control, "an error's message is printable");
    rest.remove_prefix(next.length_bytes);
  }
}

}  // namespace mixcomm::fuzz
