#include "measure/exact_inputs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "verify/numbers.hpp"

namespace mixcomm::tools {
namespace {

constexpr std::size_t shifts = 1U << 16U;
constexpr std::size_t piece = 1U << 14U;  ///< elements whose sums are made at a time, in the cache

/// Another one for each of 64 ranks.
std::size_t shift_of(int rank, std::uint64_t round) {
  return (static_cast<std::size_t>(rank) * 1021 + round * 7919) % shifts;
}

/// A stretch of the output: the sum of a stretch of each of some ranks' inputs.
struct Stretch {
  std::size_t out = 0;
  std::size_t in = 0;
  std::size_t size = 0;
  std::vector<int> ranks;
};

/// From the definition of each operation.
std::vector<Stretch> stretches(const Cell& cell, const Grid& grid, std::size_t hidden) {
  const int own = grid.dp.member;
  const auto size = [&](int d) { return cell.rows[static_cast<std::size_t>(d)] * hidden; };
  const auto begin = [&](int d) {
    return std::accumulate(cell.rows.begin(), cell.rows.begin() + d, std::size_t{0}) * hidden;
  };
  const auto tp_ranks = [&](int d) {
    std::vector<int> ranks(static_cast<std::size_t>(grid.tp.size));
    std::iota(ranks.begin(), ranks.end(), d * grid.tp.size);
    return ranks;
  };
  std::vector<Stretch> all;
  switch (cell.op) {
    case Op::all_reduce:
      all.push_back({0, 0, size(own), tp_ranks(own)});
      break;
    case Op::all_gather:
      for (int d = 0; d < grid.dp.size; ++d) all.push_back({begin(d), 0, size(d), {grid.dp.rank(d)}});
      break;
    case Op::reduce_scatter: {
      std::vector<int> ranks(static_cast<std::size_t>(grid.dp.size));
      for (int d = 0; d < grid.dp.size; ++d) ranks[static_cast<std::size_t>(d)] = grid.dp.rank(d);
      all.push_back({0, begin(own), size(own), std::move(ranks)});
      break;
    }
    case Op::all_reduce_all_gather:
      for (int d = 0; d < grid.dp.size; ++d) all.push_back({begin(d), 0, size(d), tp_ranks(d)});
      break;
    case Op::reduce_scatter_all_reduce: {
      std::vector<int> ranks(static_cast<std::size_t>(grid.world.size));
      std::iota(ranks.begin(), ranks.end(), 0);
      all.push_back({0, begin(own), size(own), std::move(ranks)});
      break;
    }
  }
  return all;
}

}  // namespace

ExactInputs::ExactInputs(DType dtype, std::size_t most_bytes)
    : dtype_(dtype),
      values_(most_bytes / size_of(dtype) + shifts),
      elements_(values_.size() * size_of(dtype)) {
  std::uint64_t state = 1;
  for (std::size_t i = 0; i < values_.size(); ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const int value = static_cast<int>((state >> 33U) % 9) - 4;
    values_[i] = static_cast<std::int8_t>(value);
    verify::store(dtype, elements_.data(), i, verify::encode(dtype, static_cast<float>(value)));
  }
}

const std::byte* ExactInputs::of(int rank, std::uint64_t round) const {
  return elements_.data() + shift_of(rank, round) * size_of(dtype_);
}

std::vector<std::byte> ExactInputs::results(const Cell& cell, const Grid& grid, std::size_t hidden,
                                            std::uint64_t round) const {
  const auto all = stretches(cell, grid, hidden);
  std::vector<std::byte> out((all.back().out + all.back().size) * size_of(dtype_));
  for (const Stretch& stretch : all)
    for (std::size_t i = 0; i < stretch.size; ++i) {
      int sum = 0;
      for (const int rank : stretch.ranks) sum += values_[shift_of(rank, round) + stretch.in + i];
      verify::store(dtype_, out.data(), stretch.out + i, verify::encode(dtype_, static_cast<float>(sum)));
    }
  return out;
}

std::string ExactInputs::wrong(const Cell& cell, const Grid& grid, std::size_t hidden, std::uint64_t round,
                               const std::byte* out) const {
  std::vector<std::int16_t> sums(piece);
  for (const Stretch& stretch : stretches(cell, grid, hidden))
    for (std::size_t first = 0; first < stretch.size; first += piece) {
      const std::size_t count = std::min(piece, stretch.size - first);
      std::fill_n(sums.begin(), count, std::int16_t{0});
      for (const int rank : stretch.ranks) {
        const std::int8_t* values = values_.data() + shift_of(rank, round) + stretch.in + first;
        for (std::size_t i = 0; i < count; ++i) sums[i] = static_cast<std::int16_t>(sums[i] + values[i]);
      }
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = stretch.out + first + i;
        const std::uint32_t got = verify::load(dtype_, out, at);
        const std::uint32_t wanted = verify::encode(dtype_, static_cast<float>(sums[i]));
        if (got == wanted) continue;
        return fmt::format("rank {}: row {}, element {} has the bits {:x}, but the sum is {} (bits {:x})",
                           grid.rank(), at / hidden, at % hidden, got, sums[i], wanted);
      }
    }
  return "";
}

}  // namespace mixcomm::tools
