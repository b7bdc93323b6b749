// Epilogues by themselves, in host memory.
#include <cstddef>
#include <span>
#include <type_traits>

#include "cpu/kernels.hpp"
#include "epilogue/check_epilogue.hpp"
#include "mixcomm/epilogue.hpp"

namespace mixcomm {
namespace {

template <class View>
auto* row_of(const View& tensor, std::size_t row) {
  using Byte = std::conditional_t<std::is_same_v<View, Tensor>, std::byte, const std::byte>;
  return static_cast<Byte*>(tensor.data) + row * tensor.hidden * size_of(tensor.dtype);
}

}  // namespace

void apply(const Epilogue& epilogue, ConstTensor in, Tensor out) {
  check_apply(epilogue, in, out);
  if (in.elements() == 0) return;
  const std::size_t scales = scales_per_row(epilogue.quantize, in.hidden);
  for (std::size_t i = 0; i < in.rows; ++i) {
    const void* const source = row_of(in, i);
    void* const destination = row_of(out, i);
    void* const kept = epilogue.keeps() ? row_of(epilogue.residual_out, i) : nullptr;
    float* const row_scales = scales > 0 ? epilogue.scales + i * scales : nullptr;
    cpu::RowEpilogue row = cpu::row_epilogue(
        epilogue, {.dtype = in.dtype, .sources = &source, .destinations = &destination, .size = in.hidden},
        in.hidden);
    if (epilogue.adds()) row.residual = row_of(epilogue.residual, i);
    row.kept = std::span(&kept, epilogue.keeps() ? 1 : 0);
    row.scales = std::span(&row_scales, scales > 0 ? 1 : 0);
    cpu::finish_row(row);
  }
}

void rms_norm(ConstTensor in, ConstTensor weight, Tensor out, float eps) {
  apply({.weight = weight, .eps = eps}, in, out);
}

}  // namespace mixcomm
