#include "hosts/partial_sums.hpp"

#include "cpu/kernels.hpp"

namespace mixcomm {
namespace {

using Sources = std::vector<const void*>;

/// The sum of fp32 sources, by their tree of neighbours.
cpu::OrderedSum sum_of(const Sources& sources, std::size_t size) {
  return {.dtype = DType::fp32,
          .sources = sources.data(),
          .inner = 1,
          .outer = static_cast<int>(sources.size()),
          .size = size};
}

const void* in_fp32(const PartialSum& sum, std::size_t size, Rooms& rooms) {
  if (sum.dtype == DType::fp32) return sum.data;
  void* const wide = rooms.take(size * sizeof(float));
  cpu::ordered_sum(
      {.dtype = sum.dtype, .sources = &sum.data, .destinations = &wide, .size = size, .out = DType::fp32});
  return wide;
}

/// Fp32 sources whose tree of neighbours is that over all DP ranks.
Sources sources_of(const std::vector<PartialSum>& sums, std::size_t size, Rooms& rooms) {
  std::vector<Subtree> nodes;
  Sources data;
  for (const PartialSum& each : sums) {
    nodes.push_back(each.node);
    data.push_back(in_fp32(each, size, rooms));
  }
  const auto of = [&](const std::vector<std::size_t>& some) {
    Sources sources;
    sources.reserve(some.size());
    for (const std::size_t i : some) sources.push_back(data[i]);
    return sources;
  };
  return of(neighbours_of(nodes, [&](const std::vector<std::size_t>& some) {
    const Sources sources = of(some);
    cpu::OrderedSum sum = sum_of(sources, size);
    void* const destination = rooms.take(size * sizeof(float));
    sum.destinations = &destination;
    cpu::ordered_sum(sum);
    data[some[0]] = destination;
  }));
}

/// Row by row, from element `begin` of the rank's block on.
void finish_rows(const Call& call, std::size_t begin, std::size_t size, const Sources& all) {
  const Epilogue& epilogue = call.epilogue;
  const std::size_t scales = scales_per_row(epilogue.quantize, call.hidden);
  const std::size_t element_bytes = size_of(call.dtype);
  Sources sources = all;
  for (std::size_t i = 0; i < size; i += call.hidden) {
    const std::size_t element = begin + i;
    for (std::size_t s = 0; s < all.size(); ++s) sources[s] = static_cast<const float*>(all[s]) + i;
    cpu::OrderedSum sum = sum_of(sources, call.hidden);
    void* out = static_cast<std::byte*>(call.out) + element * (epilogue.quantizes() ? 1 : element_bytes);
    sum.destinations = &out;
    sum.out = call.dtype;
    cpu::RowEpilogue row = cpu::row_epilogue(epilogue, sum, call.hidden);
    if (epilogue.adds())
      row.residual = static_cast<const std::byte*>(epilogue.residual.data) + element * element_bytes;
    void* kept = nullptr;
    if (epilogue.keeps()) {
      kept = static_cast<std::byte*>(epilogue.residual_out.data) + element * element_bytes;
      row.kept = {&kept, 1};
    }
    float* of_row = nullptr;
    if (scales > 0) {
      of_row = epilogue.scales + element / call.hidden * scales;
      row.scales = {&of_row, 1};
    }
    cpu::finish_row(row);
  }
}

}  // namespace

void finish(const Call& call, std::size_t begin, std::size_t size, const std::vector<PartialSum>& nodes,
            Rooms& rooms) {
  if (size == 0) return;
  const Sources sources = sources_of(nodes, size, rooms);
  if (call.epilogue.any()) return finish_rows(call, begin, size, sources);
  cpu::OrderedSum sum = sum_of(sources, size);
  void* out = static_cast<std::byte*>(call.out) + begin * size_of(call.dtype);
  sum.destinations = &out;
  sum.out = call.dtype;
  cpu::ordered_sum(sum);
}

}  // namespace mixcomm
