// Which rows of a step a rank has.
#include "mixcomm/rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "mixcomm/error.hpp"

namespace mixcomm {

std::string_view name(RowsWay way) {
  switch (way) {
    case RowsWay::max_len:
      return "max_len";
    case RowsWay::sum_len:
      return "sum_len";
    case RowsWay::exact:
      break;
  }
  return "exact";
}

RowsWay rows_way_from_name(std::string_view text) {
  for (const RowsWay each : {RowsWay::exact, RowsWay::max_len, RowsWay::sum_len})
    if (name(each) == text) return each;
  throw InvalidArgument(
      fmt::format("no way to handle rows is named '{}'; there are: exact, max_len, sum_len", text));
}

RowsWay padded_way(std::span<const std::size_t> rows, Batch batch) {
  if (batch == Batch::extend || rows.empty()) return RowsWay::sum_len;
  const std::size_t sum = std::accumulate(rows.begin(), rows.end(), std::size_t{0});
  const std::size_t most = *std::max_element(rows.begin(), rows.end());
  return 2 * sum >= most * rows.size() ? RowsWay::max_len : RowsWay::sum_len;
}

RowPlan::RowPlan(std::span<const std::size_t> rows, const Parallelism& parallelism, RowsWay way)
    : way_(way), per_dp_rank_(parallelism.attn_tp), rows_(rows.begin(), rows.end()) {
  if (rows.size() != static_cast<std::size_t>(parallelism.attn_dp))
    throw InvalidArgument(fmt::format("{} row counts were given for {} DP ranks; pass one count per DP rank",
                                      rows.size(), parallelism.attn_dp));
  const std::size_t most = *std::max_element(rows.begin(), rows.end());
  const auto parts = static_cast<std::size_t>(per_dp_rank_);
  first_.reserve(rows.size() * parts + 1);
  first_.push_back(0);
  for (const std::size_t own : rows) {
    const std::size_t all = way == RowsWay::max_len ? most : own;
    for (std::size_t t = 0; t < parts; ++t)
      first_.push_back(first_.back() + all / parts + (t < all % parts ? 1 : 0));
  }
}

RowRange RowPlan::range(int width, int rank) const {
  const int first = rank / width * width;
  const auto begin = static_cast<std::size_t>(first);
  return {first_[begin], first_[begin + static_cast<std::size_t>(width)] - first_[begin]};
}

RowPlan RowPlan::on_device(const std::int64_t* counts, std::size_t most, const Parallelism& parallelism) {
  if (counts == nullptr || most == 0)
    throw InvalidArgument(fmt::format(
        "row counts in device memory are at {}, at most {} each; pass the address of one count per "
        "DP rank, and the most that any may be",
        fmt::ptr(counts), most));
  const std::vector<std::size_t> rows(static_cast<std::size_t>(parallelism.attn_dp), most);
  RowPlan plan(rows, parallelism);
  plan.device_ = counts;
  return plan;
}

RowRange RowPlan::real_of(const RowRange& range, std::size_t d) const {
  const std::size_t block = first_[d * static_cast<std::size_t>(per_dp_rank_)];
  const std::size_t begin = std::max(block, range.first);
  const std::size_t end = std::min(block + rows_[d], range.first + range.count);
  return begin < end ? RowRange{begin, end - begin} : RowRange{};
}

std::vector<RowRange> RowPlan::real(const RowRange& range) const {
  std::vector<RowRange> parts;
  for (std::size_t d = 0; d < rows_.size(); ++d)
    if (const RowRange part = real_of(range, d); part.count > 0) parts.push_back(part);
  return parts;
}

std::vector<RowRange> RowPlan::pads(const RowRange& range) const {
  std::vector<RowRange> parts;
  each_pad(range, [&](const RowRange& pad) { parts.push_back(pad); });
  return parts;
}

void RowPlan::counts(int width, int rank, std::span<std::size_t> into) const {
  const int blocks = static_cast<int>(into.size());
  const int base = rank / (width * blocks) * width * blocks;
  for (int block = 0; block < blocks; ++block)
    into[static_cast<std::size_t>(block)] = range(width, base + block * width).count;
}

std::vector<std::size_t> RowPlan::counts(int width, int blocks, int rank) const {
  std::vector<std::size_t> all(static_cast<std::size_t>(blocks));
  counts(width, rank, all);
  return all;
}

}  // namespace mixcomm
