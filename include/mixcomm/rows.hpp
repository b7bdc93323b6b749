// Which rows of a step a rank has, and how uneven batches are handled: exactly, or padded for engines with
// fixed shapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/layout.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// What is done about DP ranks that have different numbers of rows.
enum class RowsWay : std::uint8_t {
  exact,    ///< each DP rank's own count: no row is sent that nobody needs
  max_len,  ///< every DP rank has as many as the largest; the rest are pad rows
  sum_len,  ///< exact counts at the beginning of tensors of a fixed number of rows; pad rows behind them
};

[[nodiscard]] std::string_view name(RowsWay way);
[[nodiscard]] RowsWay rows_way_from_name(std::string_view name);

/// What kind of batch a step is.
enum class Batch : std::uint8_t { decode, extend };

/// The padded way that engines with fixed shapes take: sum_len for extend batches (prefill), whose counts
/// differ widely, and otherwise max_len when 2 * sum(rows) >= max(rows) * dp, so that padding at most doubles
/// what is sent.
[[nodiscard]] RowsWay padded_way(std::span<const std::size_t> rows, Batch batch);

/// Rows first .. first + count - 1 of the tensor with all rows.
struct RowRange {
  std::size_t first = 0;
  std::size_t count = 0;

  friend bool operator==(const RowRange&, const RowRange&) = default;
};

/// The rows of one step: a value, the same on every rank.
class RowPlan {
 public:
  /// `rows`: one count per DP rank. Throws InvalidArgument for another number of counts.
  RowPlan(std::span<const std::size_t> rows, const Parallelism& parallelism, RowsWay way = RowsWay::exact);

  /// CUDA: `counts`, one per DP rank, are in device memory and read when the operations run, so that a
  /// captured graph replays with new ones. None may exceed `most`. To the host every DP rank has `most` rows:
  /// a tensor by DP rank has as many, one with the rows of several DP ranks as many as they may have together
  /// (see RowCounts::on_device). Throws InvalidArgument for null counts and for 0.
  [[nodiscard]] static RowPlan on_device(const std::int64_t* counts, std::size_t most,
                                         const Parallelism& parallelism);
  /// The counts in device memory; null where the host has them.
  [[nodiscard]] const std::int64_t* device() const { return device_; }

  [[nodiscard]] RowsWay way() const { return way_; }

  /// What a rank has where rows have this width (see Spread), pad rows of max_len included.
  [[nodiscard]] RowRange range(int width, int rank) const;

  /// The rows of a range that are no pad rows: parts of it, ascending.
  [[nodiscard]] std::vector<RowRange> real(const RowRange& range) const;
  /// And those that are.
  [[nodiscard]] std::vector<RowRange> pads(const RowRange& range) const;

  /// Counts of `blocks` neighbouring blocks of that width, of which this rank's group is one.
  [[nodiscard]] std::vector<std::size_t> counts(int width, int blocks, int rank) const;

  // The same without memory of their own, for what runs in every step of a model.
  /// Calls f(RowRange) for each part of `range` that is pad rows, ascending.
  template <class F>
  void each_pad(const RowRange& range, const F& f) const {
    std::size_t next = range.first;
    for (std::size_t d = 0; d < rows_.size(); ++d) {
      const RowRange real = real_of(range, d);
      if (real.count == 0) continue;
      if (real.first > next) f(RowRange{next, real.first - next});
      next = real.first + real.count;
    }
    if (next < range.first + range.count) f(RowRange{next, range.first + range.count - next});
  }
  /// counts(width, into.size(), rank), written to `into`.
  void counts(int width, int rank, std::span<std::size_t> into) const;

  /// Of all DP ranks, pad rows of max_len included.
  [[nodiscard]] std::size_t total() const { return first_.back(); }
  [[nodiscard]] const std::vector<std::size_t>& given() const { return rows_; }

 private:
  /// What DP rank d has of a range, pad rows left out.
  [[nodiscard]] RowRange real_of(const RowRange& range, std::size_t d) const;

  RowsWay way_;
  const std::int64_t* device_ = nullptr;
  int per_dp_rank_;                 ///< ranks
  std::vector<std::size_t> rows_;   ///< given
  std::vector<std::size_t> first_;  ///< row of each rank's scattered part, and the end
};

}  // namespace mixcomm
