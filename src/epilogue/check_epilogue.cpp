#include "epilogue/check_epilogue.hpp"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

[[noreturn]] void refuse(const EpilogueCall& call, const std::string& why) {
  throw InvalidArgument(fmt::format("{}: {}", call.what, why));
}

struct Named {
  std::string_view name;
  const void* data;
  std::size_t bytes;
};

bool overlap(const Named& a, const Named& b) {
  const auto* first = static_cast<const std::byte*>(a.data);
  const auto* second = static_cast<const std::byte*>(b.data);
  return a.bytes > 0 && b.bytes > 0 && first < second + b.bytes && second < first + a.bytes;
}

void check_shape(const EpilogueCall& call, std::string_view which, const ConstTensor& tensor,
                 std::size_t rows) {
  if (tensor.hidden == 0) return;
  if (tensor.rows != rows || tensor.hidden != call.in.hidden || tensor.dtype != call.in.dtype)
    refuse(call, fmt::format("'{}' is {} x {} of {}; beside an input of hidden {} and {} it must be {} x {} "
                             "of that dtype",
                             which, tensor.rows, tensor.hidden, name(tensor.dtype), call.in.hidden,
                             name(call.in.dtype), rows, call.in.hidden));
  if (tensor.data == nullptr && tensor.elements() != 0)
    refuse(call, fmt::format("'{}' is null, but has {} x {} elements; null is for 0 elements only", which,
                             tensor.rows, tensor.hidden));
}

void check_scales(const Epilogue& epilogue, const EpilogueCall& call) {
  const std::size_t each = scales_per_row(epilogue.quantize, call.in.hidden);
  if (each > 0 && epilogue.scales == nullptr && call.out.elements() != 0)
    refuse(call, fmt::format("'scales' is null; quantize {} writes {} x {} scales", name(epilogue.quantize),
                             call.out.rows, each));
  if (each == 0 && epilogue.scales != nullptr)
    refuse(call, fmt::format("'scales' is given, but quantize {} makes none; leave it out",
                             name(epilogue.quantize)));
  const bool fixed = epilogue.quantize == Quantize::fixed;
  if (fixed && epilogue.fixed_scale == nullptr)
    refuse(call, "'fixed_scale' is null; quantize fixed needs the scale, one number above 0");
  if (!fixed && epilogue.fixed_scale != nullptr)
    refuse(call, fmt::format("'fixed_scale' is given, but quantize is {}; it is for quantize fixed",
                             name(epilogue.quantize)));
  for (const auto& [which, data] : {std::pair<std::string_view, const void*>{"scales", epilogue.scales},
                                    {"fixed_scale", epilogue.fixed_scale}})
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(float) != 0)
      refuse(call, fmt::format("'{}' at {} is not aligned to its 4-byte elements", which, data));
}

void check_overlaps(const Epilogue& epilogue, const EpilogueCall& call) {
  const ConstTensor out = call.out;
  const ConstTensor kept = epilogue.residual_out;
  const std::array<Named, 3> written{
      Named{"out", out.data, out.bytes()}, Named{"residual_out", kept.data, kept.bytes()},
      Named{"scales", epilogue.scales,
            out.rows * scales_per_row(epilogue.quantize, out.hidden) * sizeof(float)}};
  const std::array<Named, 4> read{
      Named{"in", call.in.data, call.in.bytes()},
      Named{"residual", epilogue.residual.data, epilogue.residual.bytes()},
      Named{"weight", epilogue.weight.data, epilogue.weight.bytes()},
      Named{"fixed_scale", epilogue.fixed_scale, epilogue.fixed_scale != nullptr ? sizeof(float) : 0}};
  const auto refuse_overlap = [&](const Named& a, const Named& b) {
    refuse(call, fmt::format("'{}' and '{}' overlap; with an epilogue only 'residual_out' may be 'residual', "
                             "at the same place, and without quantize 'in' and 'out' overlap as ever",
                             a.name, b.name));
  };
  for (std::size_t i = 0; i < written.size(); ++i) {
    for (std::size_t k = i + 1; k < written.size(); ++k)
      if (overlap(written[i], written[k])) refuse_overlap(written[i], written[k]);
    for (std::size_t k = 0; k < read.size(); ++k) {
      if (i == 0 && k == 0 && !epilogue.quantizes()) continue;  // by the rules of calls without one
      if (i == 1 && k == 1 && written[i].data == read[k].data) continue;
      if (overlap(written[i], read[k])) refuse_overlap(written[i], read[k]);
    }
  }
}

// Of the word that ranks compare.
constexpr std::uint64_t adds_bit = 1;
constexpr std::uint64_t keeps_bit = 2;
constexpr std::uint64_t norms_bit = 4;
constexpr std::uint64_t plus_one_bit = 8;
constexpr unsigned quantize_shift = 4;
constexpr unsigned eps_shift = 32;

}  // namespace

void check_epilogue(const Epilogue& epilogue, const EpilogueCall& call) {
  if (!epilogue.any()) return;
  check_shape(call, "residual", epilogue.residual, call.own_rows);
  check_shape(call, "residual_out", epilogue.residual_out, call.own_rows);
  check_shape(call, "weight", epilogue.weight, 1);
  if (!(epilogue.eps >= 0) || std::isinf(epilogue.eps))
    refuse(call, fmt::format("eps is {}; it must be a number of 0 or above", epilogue.eps));
  if (epilogue.weight_plus_one && !epilogue.norms())
    refuse(call, "'weight_plus_one' is set, but there is no weight; pass one, or leave it out");
  check_scales(epilogue, call);
  check_overlaps(epilogue, call);
}

void check_apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out) {
  const EpilogueCall call{"apply", in, out, in.rows};
  const DType wanted = epilogue.quantizes() ? DType::fp8_e4m3 : in.dtype;
  if (in.dtype == DType::fp8_e4m3 || out.dtype != wanted || out.rows != in.rows || out.hidden != in.hidden)
    refuse(call,
           fmt::format("'in' is {} x {} of {} and 'out' {} x {} of {}, with quantize {}; they must have "
                       "one shape, 'in' bf16, fp16 or fp32, and 'out' the same or, to quantize, fp8_e4m3",
                       in.rows, in.hidden, name(in.dtype), out.rows, out.hidden, name(out.dtype),
                       name(epilogue.quantize)));
  if (in.elements() != 0 && (in.data == nullptr || out.data == nullptr))
    refuse(call, "'in' or 'out' is null; null is for 0 elements only");
  check_epilogue(epilogue, call);
  if (in.data != out.data && overlap({"in", in.data, in.bytes()}, {"out", out.data, out.bytes()}))
    refuse(call, "'in' and 'out' overlap; they may only do so at the same address");
}

std::uint64_t record_of(const Epilogue& epilogue) {
  if (!epilogue.any()) return 0;
  std::uint64_t record = static_cast<std::uint64_t>(epilogue.quantize) << quantize_shift;
  if (epilogue.adds()) record |= adds_bit;
  if (epilogue.keeps()) record |= keeps_bit;
  if (epilogue.weight_plus_one) record |= plus_one_bit;
  if (epilogue.norms())
    record |= norms_bit | std::uint64_t{std::bit_cast<std::uint32_t>(epilogue.eps)} << eps_shift;
  return record;
}

std::string describe_epilogue(std::uint64_t record) {
  std::string steps;
  const auto add = [&](const std::string& step) { steps += (steps.empty() ? "" : ", ") + step; };
  if ((record & adds_bit) != 0) add("add");
  if ((record & keeps_bit) != 0) add("residual_out");
  if ((record & norms_bit) != 0)
    add(fmt::format("rms_norm (eps {}{})",
                    std::bit_cast<float>(static_cast<std::uint32_t>(record >> eps_shift)),
                    (record & plus_one_bit) != 0 ? ", 1 + weight" : ""));
  const auto quantize = static_cast<Quantize>(record >> quantize_shift & 3U);
  if (quantize != Quantize::none) add(fmt::format("fp8 {}", name(quantize)));
  return steps;
}

}  // namespace mixcomm
