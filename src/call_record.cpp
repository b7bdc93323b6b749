#include "call_record.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "epilogue/check_epilogue.hpp"

namespace mixcomm {
namespace {

std::string to_string(const Placement& placement) {
  switch (placement.kind) {
    case Placement::Kind::plain:
      return "plain";
    case Placement::Kind::in_place:
      return "in place";
    case Placement::Kind::symmetric:
      break;
  }
  return fmt::format("byte {} of symmetric buffer {}", placement.offset, placement.allocation);
}

std::uint64_t fold(std::uint64_t hash, const Placement& placement) {
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(placement.kind), placement.allocation, placement.offset})
    hash = mixcomm::fold(hash, value);
  return hash;
}

}  // namespace

std::uint32_t CallRecord::hash() const {
  std::uint64_t hash = fold(fold(number, all_blocks), one_block);
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(op), static_cast<std::uint64_t>(algorithm),
        static_cast<std::uint64_t>(dtype), hidden, row_blocks, rows_hash, epilogue})
    hash = mixcomm::fold(hash, value);
  return static_cast<std::uint32_t>(hash >> 32U);
}

std::string CallRecord::describe() const {
  std::string list;
  for (std::size_t d = 0; d < std::min<std::size_t>(row_blocks, listed_rows); ++d)
    list += fmt::format("{}{}", d == 0 ? "" : ", ", rows[d]);
  if (row_blocks > listed_rows)
    list += fmt::format(", ... {} counts with checksum {:08x}", row_blocks, rows_hash >> 32U);
  if (rows_on_device != 0) list += " at most, counts on the device";
  const bool gathers = shape_of(op).body == Body::gather;
  const std::string then = epilogue == 0 ? "" : fmt::format(", then {}", describe_epilogue(epilogue));
  return fmt::format("{}(rows [{}], hidden {}, {}, {}, in {}, out {}{}), its call {}", mixcomm::name(op),
                     list, hidden, mixcomm::name(dtype), mixcomm::name(algorithm),
                     to_string(gathers ? one_block : all_blocks), to_string(gathers ? all_blocks : one_block),
                     then, number);
}

}  // namespace mixcomm
