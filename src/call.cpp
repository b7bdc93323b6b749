#include "call.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mixcomm {
namespace {

std::string_view name(Placement::Kind kind) {
  switch (kind) {
    case Placement::Kind::plain:
      return "plain";
    case Placement::Kind::symmetric:
      return "symmetric";
    case Placement::Kind::in_place:
      break;
  }
  return "in place";
}

}  // namespace

std::uint32_t CallRecord::hash() const {
  std::uint64_t shared =
      fold(1, static_cast<std::uint64_t>(op) | static_cast<std::uint64_t>(algorithm) << 8U |
                  static_cast<std::uint64_t>(dtype) << 16U);
  for (const std::uint64_t value : {hidden, row_blocks, rows_hash, all_blocks_hash})
    shared = fold(shared, value);
  const std::uint64_t own = fold(2, one_block_hash);
  return static_cast<std::uint32_t>(shared >> 48U) << 16U | static_cast<std::uint32_t>(own >> 48U);
}

std::string CallRecord::describe() const {
  std::string list;
  for (std::size_t d = 0; d < std::min<std::size_t>(row_blocks, listed_rows); ++d)
    list += fmt::format("{}{}", d == 0 ? "" : ", ", rows[d]);
  if (row_blocks > listed_rows) list += ", ...";
  return fmt::format("{}(rows [{}], hidden {}, {}, {}, in {}, out {}), its call {}", mixcomm::name(op), list,
                     hidden, mixcomm::name(dtype), mixcomm::name(algorithm), name(in), name(out), number);
}

}  // namespace mixcomm
