#include "measure/bench_cells.hpp"

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

std::string_view name(EpilogueKind kind) {
  switch (kind) {
    case EpilogueKind::none:
      return "none";
    case EpilogueKind::add_rms_norm:
      return "add_rms_norm";
    case EpilogueKind::add_rms_norm_fp8:
      break;
  }
  return "add_rms_norm_fp8";
}

EpilogueKind epilogue_from_name(std::string_view name) {
  for (const EpilogueKind each :
       {EpilogueKind::none, EpilogueKind::add_rms_norm, EpilogueKind::add_rms_norm_fp8})
    if (tools::name(each) == name) return each;
  throw InvalidArgument(
      fmt::format("no epilogue is named '{}'; there are: none, add_rms_norm, add_rms_norm_fp8", name));
}

std::string to_string(const Variant& variant) {
  const LaunchShape& shape = variant.shape;
  std::string text(name(variant.algorithm));
  if (shape.protocol != Protocol::automatic) text += fmt::format("/{}", name(shape.protocol));
  if (shape.lanes != 0 || shape.threads != 0) text += fmt::format("/{}x{}", shape.lanes, shape.threads);
  if (variant.finish == Finish::behind) text += ", separate";
  if (variant.finish == Finish::without) text += ", alone";
  return text;
}

bool finished(const Cell& cell, const Variant& variant) {
  return cell.epilogue != EpilogueKind::none && variant.finish != Finish::without;
}

TensorRows tensor_rows(const Cell& cell, const Grid& grid) {
  const OpShape shape = shape_of(cell.op);
  const std::size_t own = cell.rows[static_cast<std::size_t>(grid.dp.member)];
  const std::size_t all =
      shape.team == TeamKind::tp ? own : std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
  return shape.body == Body::gather ? TensorRows{own, all} : TensorRows{all, own};
}

std::size_t tensor_bytes(const Cell& cell, std::size_t hidden, DType dtype) {
  const std::size_t rows = cell.op == Op::all_reduce
                               ? *std::max_element(cell.rows.begin(), cell.rows.end())
                               : std::accumulate(cell.rows.begin(), cell.rows.end(), std::size_t{0});
  return rows * hidden * size_of(dtype);
}

}  // namespace mixcomm::tools
