#include "verify/oracle.hpp"

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

float Oracle::sum_over_tp(int d, std::size_t i) const {
  float sum = at(0, d, i);
  for (int t = 1; t < grid_.tp.size; ++t) sum += at(t, d, i);
  return sum;
}

float Oracle::sum_over_dp(int t, std::size_t i) const {
  float sum = at(t, 0, i);
  for (int d = 1; d < grid_.dp.size; ++d) sum += at(t, d, i);
  return sum;
}

float Oracle::expected(int d, std::size_t i) const {
  switch (c_.op) {
    case Op::all_reduce:
      return round(sum_over_tp(grid_.dp.member, i));
    case Op::all_gather:
      return at(grid_.tp.member, d, i);
    case Op::reduce_scatter:
      return round(sum_over_dp(grid_.tp.member, offset(d) + i));
    case Op::all_reduce_all_gather:
      return round(sum_over_tp(d, i));
    case Op::reduce_scatter_all_reduce:
      break;
  }
  const std::size_t j = offset(d) + i;
  if (c_.algorithm == Algorithm::composed && grid_.tp.size > 1 && grid_.dp.size > 1) {
    float sum = round(sum_over_dp(0, j));  // two operations, so two roundings
    for (int t = 1; t < grid_.tp.size; ++t) sum += round(sum_over_dp(t, j));
    return round(sum);
  }
  float sum = sum_over_tp(0, j);
  for (int e = 1; e < grid_.dp.size; ++e) sum += sum_over_tp(e, j);
  return round(sum);
}

}  // namespace mixcomm::verify
