// TuningTable::parse(): a table that it takes holds together, and is what is written again. The input is the
// text; where it ends with a NUL byte, the hash in it is made to fit first, which mutation never does.
#include "mixcomm/tuning.hpp"

#include <nlohmann/json.hpp>
#include <string>

#include "fuzz/target.hpp"

namespace {

using mixcomm::TuningTable;
using mixcomm::fuzz::may_refuse;
using mixcomm::fuzz::require;

/// The text with the hash that the error of a wrong one names.
std::string with_its_hash(std::string text) {
  try {
    (void)TuningTable::parse(text, "input");
  } catch (const mixcomm::InvalidArgument& error) {
    const std::string why = error.what();
    const std::string before = "its contents have ";
    const std::size_t at = why.find(before);
    auto json = nlohmann::ordered_json::parse(text, nullptr, false);
    if (at == std::string::npos || !json.is_object()) return text;
    json["hash"] = why.substr(at + before.size(), 16);
    return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
  return text;
}

void check(const TuningTable& table) {
  require(table.tp >= 1 && table.dp >= 1, "a table is for a grid");
  for (const TuningTable::Choice& choice : table.choices) {
    require(!choice.steps.empty() && choice.steps.back().up_to_bytes == UINT64_MAX,
            "a choice is made for every size");
    require(table.algorithm(choice.op, choice.symmetric, 4096) != mixcomm::Algorithm::automatic,
            "so is this one");
  }
  const TuningTable again = TuningTable::parse(table.text(), "what was written");
  require(again.hash() == table.hash(), "what is written is read as the same table");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string text(mixcomm::fuzz::text_of(data, size));
  if (text.ends_with('\0')) {
    text.pop_back();
    text = with_its_hash(std::move(text));
  }
  may_refuse([&] { check(TuningTable::parse(text, "input")); });
  return 0;
}
