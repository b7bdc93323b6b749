// read_problems(), and the numbers in any text: what is read is written in its one shortest form.
#include "tools/model/problems.hpp"

#include <optional>
#include <string>

#include "fuzz/scratch_directory.hpp"
#include "fuzz/target.hpp"
#include "tools/model/plain_number.hpp"

namespace {

using mixcomm::fuzz::require;

void check(const std::optional<std::string>& number) {
  if (!number) return;
  require(mixcomm::tools::plain_number(*number) == number, "the shortest form has itself for one");
  require(number->find_first_not_of("-.0123456789") == std::string::npos, "a number is digits");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tools = mixcomm::tools;
  static const mixcomm::fuzz::ScratchDirectory scratch;
  const std::string_view input = mixcomm::fuzz::text_of(data, size);
  check(tools::plain_number(input));
  check(tools::marked_number(input));
  check(tools::last_number(input));
  scratch.write("problems.jsonl", input);
  mixcomm::fuzz::may_refuse([&] {
    const tools::Problems read = tools::read_problems(scratch.path() / "problems.jsonl", 100);
    require(!read.problems.empty(), "there are problems, or it is refused");
    for (const tools::Problem& problem : read.problems) check(problem.expected);
    for (const tools::LeftOut& each : read.left_out) mixcomm::fuzz::require_printable(each.why);
  });
  return 0;
}
