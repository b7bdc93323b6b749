#include "tools/bench_cells.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace mixcomm::tools {

std::string_view name(Buffers buffers) {
  return buffers == Buffers::plain ? "plain" : "symmetric";
}

Buffers buffers_from_name(std::string_view name) {
  if (name == "plain") return Buffers::plain;
  if (name == "symmetric") return Buffers::symmetric;
  throw InvalidArgument(fmt::format("no kind of buffers is named '{}'; there are: symmetric, plain", name));
}

std::string to_string(const Variant& variant) {
  return variant.protocol == Protocol::automatic
             ? std::string(name(variant.algorithm))
             : fmt::format("{}/{}", name(variant.algorithm), name(variant.protocol));
}

std::size_t tensor_bytes(const Cell& cell, std::size_t hidden, DType dtype) {
  const std::size_t rows = cell.op == Op::all_reduce
                               ? *std::max_element(cell.rows.begin(), cell.rows.end())
                               : std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
  return rows * hidden * size_of(dtype);
}

}  // namespace mixcomm::tools
