#include "runner/boundary.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace mixcomm::runner {
namespace {

void write(std::span<const float> from, std::byte* to, const Precision& precision) {
  if (precision.is_bf16())
    std::transform(from.begin(), from.end(), reinterpret_cast<std::uint16_t*>(to), bf16_bits);
  else
    std::copy(from.begin(), from.end(), reinterpret_cast<float*>(to));
}

void read(const std::byte* from, std::span<float> to, const Precision& precision) {
  if (precision.is_bf16()) {
    const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
    std::transform(bits, bits + to.size(), to.begin(), from_bf16_bits);
  } else {
    std::copy_n(reinterpret_cast<const float*>(from), to.size(), to.begin());
  }
}

/// Whether a boundary gathers rows of which each rank keeps its own as the residual.
bool gathers(const Boundary& boundary) {
  return boundary.transition.to.rows != boundary.finish->residual;
}

}  // namespace

BoundaryNorm::BoundaryNorm(std::span<const float> weight, float epsilon, Precision precision)
    : weight_(weight.size() * size_of(precision.dtype())),
      hidden_(weight.size()),
      dtype_(precision.dtype()),
      epsilon_(epsilon) {
  write(weight, weight_.data(), precision);
}

Epilogue BoundaryNorm::epilogue() const {
  return {.weight = {weight_.data(), 1, hidden_, dtype_}, .eps = epsilon_, .weight_plus_one = true};
}

BoundaryBuffers::BoundaryBuffers(Communicator& communicator, std::size_t max_rows, std::size_t hidden,
                                 const DecoderOptions& options)
    : grid_(communicator.grid()),
      hidden_(hidden),
      precision_(options.dtype),
      algorithm_(options.algorithm),
      norms_apart_(options.norms_apart),
      hold_(options.hold),
      in_(communicator.allocate(max_rows * hidden * size_of(options.dtype))),
      out_(communicator.allocate(max_rows * hidden * size_of(options.dtype))) {}

void BoundaryBuffers::cross(LayerCommunicator& layers, const Boundary& boundary, const Crossing& crossing,
                            StepTimes* times) {
  const std::span<const float> in = crossing.in;
  const std::span<float> out = crossing.out;
  const RowPlan& rows = crossing.rows;
  const Finish& finish = *boundary.finish;
  const DType dtype = precision_.dtype();
  write(in, in_.data(), precision_);
  const Tensors tensors{{in_.data(), in.size() / hidden_, hidden_, dtype},
                        {out_.data(), out.size() / hidden_, hidden_, dtype},
                        {crossing.residual, layers.range(finish.residual, rows).count, hidden_, dtype}};
  const Addend* addend = boundary.addend("residual");
  Epilogue epilogue = crossing.norm.epilogue();
  if (addend != nullptr && addend->added == Added::within) epilogue.residual = tensors.residual;
  if (finish.keeps) epilogue.residual_out = tensors.residual;
  if (layers.adds_before(boundary, "residual")) apply({.residual = tensors.residual}, tensors.in, tensors.in);
  const auto cross = [&] {
    layers.cross(boundary, tensors.in, tensors.out, rows, {.algorithm = algorithm_, .epilogue = epilogue});
  };
  if (times == nullptr)
    cross();
  else if (norms_apart_)
    cross_apart(layers, boundary, rows, tensors, epilogue, *times);
  else
    timed(times->comm, cross);
  read(out_.data(), out, precision_);
}

void BoundaryBuffers::cross_apart(LayerCommunicator& layers, const Boundary& boundary, const RowPlan& rows,
                                  const Tensors& tensors, const Epilogue& epilogue, StepTimes& times) {
  const Tensor& in = tensors.in;
  const Tensor& out = tensors.out;
  const Tensor& residual = tensors.residual;
  const bool before = epilogue.adds() && gathers(boundary);
  if (before)
    timed(times.apart, [&] {
      if (grid_.tp.member == 0) apply({.residual = residual}, in, in);
    });
  timed(times.comm, [&] { layers.cross(boundary, in, out, rows, {.algorithm = algorithm_}); });
  timed(times.apart, [&] {
    Epilogue behind = epilogue;
    if (before) {
      const std::size_t first = layers.range(boundary.finish->residual, rows).first;
      if (residual.bytes() > 0)
        std::memcpy(residual.data, out_.data() + first * hidden_ * size_of(residual.dtype), residual.bytes());
      behind.residual = {};
      behind.residual_out = {};
    }
    apply(behind, out, out);
  });
}

}  // namespace mixcomm::runner
