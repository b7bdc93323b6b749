// A decoder in integers that is wrong as soon as one sum is: what the planner's checker runs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "mixcomm/layer_plan.hpp"
#include "mixcomm/rows.hpp"

namespace mixcomm::verify {

using Value = std::int64_t;

/// What nobody may read: a pad row, memory that was not written. A sum that reads it gives it.
inline constexpr Value poison = INT64_MIN;

[[nodiscard]] constexpr Value plus(Value a, Value b) {
  return a == poison || b == poison ? poison : a + b;
}

/// Row-major.
struct Rectangle {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<Value> values;

  Rectangle() = default;
  Rectangle(std::size_t r, std::size_t c, Value fill) : rows(r), cols(c), values(r * c, fill) {}
  [[nodiscard]] Value* row(std::size_t r) { return values.data() + r * cols; }
  [[nodiscard]] const Value* row(std::size_t r) const { return values.data() + r * cols; }
};

/// One row's numbers, by definition and on one rank: nothing in here knows of ranks. Norms are no linear
/// functions, so that parts of a sum cannot be mistaken for it; all values are small enough to be exact in
/// fp32.
class DenseRow {
 public:
  static constexpr std::size_t hidden = 3;
  static constexpr std::size_t vocab =
      48;  ///< every number of ranks up to 16 but a few divides it; the rest is padded

  using Row = std::array<Value, hidden>;

  DenseRow(const ModelModules& model, std::uint64_t token);

  /// The stream in front of module k: 0 is the first attention, 1 the first MLP, ... then the head.
  [[nodiscard]] const Row& before(std::size_t module) const { return stream_[module]; }
  [[nodiscard]] Value logit(std::size_t column) const;

  [[nodiscard]] static Row embedding(std::uint64_t token);
  [[nodiscard]] static Row norm(const Value* stream, std::size_t module);
  /// What a module's output is multiplied with, of a whole module; another one for each token, as experts
  /// are.
  [[nodiscard]] static Value weight(std::size_t module, std::uint64_t token, std::size_t column);
  [[nodiscard]] static Value shared_weight(std::size_t module, std::size_t column);
  [[nodiscard]] static Value head_weight(std::size_t column, std::size_t from);

 private:
  std::vector<Row> stream_;
};

/// Member `m`'s part of something that `members` ranks have in sum; arbitrary ones, which differ.
[[nodiscard]] Value part_of(Value whole, int members, int m, std::uint64_t key);

}  // namespace mixcomm::verify
