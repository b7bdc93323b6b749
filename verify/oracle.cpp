#include "verify/oracle.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "verify/numbers.hpp"

namespace mixcomm::verify {

Oracle::Oracle(const Case& c, const Grid& grid) : c_(c), grid_(grid) {
  for (int r = 0; r < grid.world.size; ++r)
    streams_.push_back(mix(c.seed * 64 + static_cast<std::uint64_t>(r)));
  offsets_.push_back(0);
  for (const std::size_t rows : c.rows) offsets_.push_back(offsets_.back() + rows * c.hidden);
}

float Oracle::at(int t, int d, std::size_t i) const {
  const std::uint64_t h = mix(streams_[static_cast<std::size_t>(d * grid_.tp.size + t)] + i);
  if (c_.values == Values::integers) return static_cast<float>(static_cast<int>(h % 9) - 4);
  constexpr float scale[] = {0x1p-31F, 0x1p-30F, 0x1p-29F, 0x1p-28F, 0x1p-27F};
  return round(static_cast<float>(static_cast<std::int32_t>(h >> 32U)) * scale[h % 5]);
}

float Oracle::round(float x) const {
  return decode(c_.dtype, encode(c_.dtype, x));
}

template <class Term>
float Oracle::tree_sum(int count, const Term& term) {
  // Sums of 1, 2, 4, ... terms that wait for their neighbour of the same size.
  std::array<float, 8> waiting{};
  std::size_t waits = 0;
  for (int n = 0; n < count; ++n) {
    float sum = term(n);
    for (int done = n; done % 2 == 1; done /= 2) sum = waiting[--waits] + sum;
    waiting[waits++] = sum;
  }
  float sum = waiting[--waits];
  while (waits > 0) sum = waiting[--waits] + sum;
  return sum;
}

float Oracle::sum_over_tp(int d, std::size_t i) const {
  return tree_sum(grid_.tp.size, [&](int t) { return at(t, d, i); });
}

float Oracle::sum_over_dp(int t, std::size_t i) const {
  return tree_sum(grid_.dp.size, [&](int d) { return at(t, d, i); });
}

float Oracle::expected(int d, std::size_t i) const {
  return round(sum(d, i));
}

float Oracle::sum(int d, std::size_t i) const {
  switch (c_.op) {
    case Op::all_reduce:
      return sum_over_tp(grid_.dp.member, i);
    case Op::all_gather:
      return at(grid_.tp.member, d, i);
    case Op::reduce_scatter:
      return sum_over_dp(grid_.tp.member, offset(d) + i);
    case Op::all_reduce_all_gather:
      return sum_over_tp(d, i);
    case Op::reduce_scatter_all_reduce:
      break;
  }
  const std::size_t j = offset(d) + i;
  if (c_.algorithm == Algorithm::composed && grid_.tp.size > 1 && grid_.dp.size > 1) {
    // Two operations, so two roundings.
    return tree_sum(grid_.tp.size, [&](int t) { return round(sum_over_dp(t, j)); });
  }
  return tree_sum(grid_.dp.size, [&](int e) { return sum_over_tp(e, j); });
}

float Oracle::residual(int d, std::size_t i) const {
  const std::uint64_t h = mix(mix(c_.seed * 64 + 0x1000000 + static_cast<std::uint64_t>(d)) + i);
  if (c_.values == Values::integers) return static_cast<float>(static_cast<int>(h % 9) - 4);
  return round(static_cast<float>(static_cast<std::int32_t>(h >> 32U)) * 0x1p-29F);
}

float Oracle::weight(std::size_t i) const {
  const std::uint64_t h = mix(mix(c_.seed + 0x2000000) + i);
  return round(static_cast<float>(static_cast<std::int32_t>(h >> 32U)) * 0x1p-31F);
}

float Oracle::fixed_scale() const {
  return 0.001F + static_cast<float>(c_.seed % 7) * 0.01F;
}

Oracle::Row Oracle::finished(int d, std::size_t row) const {
  const Steps& steps = c_.steps;
  const std::size_t hidden = c_.hidden;
  Row result;
  for (std::size_t k = 0; k < hidden; ++k) {
    float x = sum(d, row * hidden + k);
    if (steps.adds) x += residual(d, row * hidden + k);
    result.kept.push_back(round(x));
  }
  result.out = result.kept;
  if (steps.norms) {
    // The order of the sum of squares: by groups of 8 into 128 places, which are folded.
    std::vector<float> places(128, 0.0F);
    for (std::size_t g = 0; g * 8 < hidden; ++g) {
      float q[8] = {};
      for (std::size_t k = 0; k < 8 && g * 8 + k < hidden; ++k)
        q[k] = result.kept[g * 8 + k] * result.kept[g * 8 + k];
      places[g % 128] += ((q[0] + q[1]) + (q[2] + q[3])) + ((q[4] + q[5]) + (q[6] + q[7]));
    }
    for (std::size_t n = 64; n > 0; n /= 2)
      for (std::size_t k = 0; k < n; ++k) places[k] += places[k + n];
    const float mean = places[0] / static_cast<float>(hidden);
    const float inverse = 1.0F / std::sqrt(mean + steps.eps);
    for (std::size_t k = 0; k < hidden; ++k) {
      const float w = steps.plus_one ? 1.0F + weight(k) : weight(k);
      const float scaled = result.kept[k] * inverse;
      result.out[k] = round(scaled * w);
    }
  }
  if (steps.quantize == Quantize::none) return result;
  const std::size_t each = steps.quantize == Quantize::per_128_columns ? 128 : hidden;
  for (std::size_t begin = 0; begin < hidden; begin += each) {
    const std::size_t end = std::min(hidden, begin + each);
    float scale = fixed_scale();
    if (steps.quantize != Quantize::fixed) {
      float most = 1e-10F;
      for (std::size_t k = begin; k < end; ++k) most = std::max(most, std::abs(result.out[k]));
      scale = most / 448.0F;
      result.scales.push_back(scale);
    }
    for (std::size_t k = begin; k < end; ++k)
      result.codes.push_back(encode(DType::fp8_e4m3, result.out[k] / scale));
  }
  return result;
}

}  // namespace mixcomm::verify
