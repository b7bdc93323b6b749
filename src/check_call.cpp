#include "check_call.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "epilogue/check_epilogue.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

[[noreturn]] void refuse(Op op, const std::string& why) {
  throw InvalidArgument(fmt::format("{}: {}", name(op), why));
}

void check_tensor(Op op, std::string_view which, const ConstTensor& tensor, std::size_t rows) {
  if (tensor.rows != rows)
    refuse(op, fmt::format("'{}' has {} rows, but the row counts make it {}", which, tensor.rows, rows));
  std::size_t elements = 0;
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(tensor.rows, tensor.hidden, &elements) ||
      __builtin_mul_overflow(elements, size_of(tensor.dtype), &bytes) || bytes > PTRDIFF_MAX)
    refuse(op,
           fmt::format("'{}' of {} x {} is larger than memory can be", which, tensor.rows, tensor.hidden));
  if (tensor.data == nullptr && elements != 0)
    refuse(op, fmt::format("'{}' is null, but has {} x {} elements; null is for 0 elements only", which,
                           tensor.rows, tensor.hidden));
}

const std::byte* bytes_of(const ConstTensor& tensor) {
  return static_cast<const std::byte*>(tensor.data);
}

bool overlap(const ConstTensor& a, const ConstTensor& b) {
  if (a.bytes() == 0 || b.bytes() == 0) return false;
  return bytes_of(a) < bytes_of(b) + b.bytes() && bytes_of(b) < bytes_of(a) + a.bytes();
}

}  // namespace

CheckedCall check_call(Op op, const ConstTensor& in, const Tensor& out, const RowCounts& rows,
                       const Grid& grid, const Epilogue& epilogue) {
  if (in.dtype == DType::fp8_e4m3)
    refuse(op, "'in' is fp8_e4m3, of which no sums are made; pass bf16, fp16 or fp32");
  if (epilogue.quantizes() ? out.dtype != DType::fp8_e4m3 : in.dtype != out.dtype)
    refuse(op, fmt::format("'in' is {} and 'out' is {} with quantize {}; {}", name(in.dtype), name(out.dtype),
                           name(epilogue.quantize),
                           epilogue.quantizes() ? "'out' must be fp8_e4m3" : "they must have one dtype"));
  if (in.hidden != out.hidden)
    refuse(op, fmt::format("'in' has hidden {} and 'out' {}; they must be equal", in.hidden, out.hidden));
  const OpShape shape = shape_of(op);
  const bool gathers = shape.body == Body::gather;
  const Grid team = grid_of(grid, shape.team);
  if (!rows.is_uniform() && rows.given() != static_cast<std::size_t>(team.dp.size))
    refuse(op,
           fmt::format("{} row counts were given for {} DP ranks; pass one count per DP rank, or one for all",
                       rows.given(), team.dp.size));
  std::size_t total = 0;
  for (int d = 0; d < team.dp.size; ++d)
    if (__builtin_add_overflow(total, rows[d], &total)) refuse(op, "the row counts overflow");
  if (rows.device() != nullptr) {
    // The counts may add up to less than all DP ranks' most, and the tensor with all rows be as small as
    // that.
    const std::size_t room = op == Op::all_reduce ? rows[0] : gathers ? out.rows : in.rows;
    if (room > total)
      refuse(op,
             fmt::format(
                 "the tensor with all rows has {} rows, but {} DP ranks with at most {} rows each have {}; "
                 "make it no larger than that",
                 room, team.dp.size, rows[0], total));
    total = room;
  }
  check_tensor(op, "in", in, gathers ? rows[team.dp.member] : total);
  check_tensor(op, "out", out, gathers ? total : rows[team.dp.member]);
  // A rank without rows holds little, but what its peers hold must fit as well.
  check_tensor(op, "rows", {"", total, in.hidden, in.dtype}, total);
  check_epilogue(epilogue, {name(op), in, out, rows[team.dp.member]});
  CheckedCall call{in, out, rows, epilogue};
  if (overlap(in, out) && !call.in_place(shape.body, team))
    refuse(op, fmt::format(
                   "'in' and 'out' overlap; they may only do so if the {} is this rank's block of the {}{}",
                   gathers ? "input" : "output", gathers ? "output" : "input",
                   op == Op::all_reduce ? ": the same address" : ""));
  return call;
}

}  // namespace mixcomm
