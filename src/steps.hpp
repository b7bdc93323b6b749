// What an operation is carried out as: steps on parts of the grid, each over a transport.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "mixcomm/grid.hpp"
#include "mixcomm/operation.hpp"

namespace mixcomm {

/// What carries the data of a step.
enum class Transport : std::uint8_t {
  own,   ///< this library: memory that the ranks of the step share
  nccl,  ///< the collectives of CudaOptions::nccl
};

/// An operation on a part of the grid. Its tensors are what that operation has there.
struct OpStep {
  Op op = Op::all_reduce;
  Grid grid;  ///< the ranks that take part
  Transport transport = Transport::own;
  Algorithm algorithm = Algorithm::automatic;  ///< own: with a body, or automatic
};

/// The steps of one operation, in their order. What one leaves is what the next one takes.
class OpSteps {
 public:
  static constexpr std::size_t most = 2;

  constexpr OpSteps(std::initializer_list<OpStep> steps) {
    for (const OpStep& each : steps) steps_[count_++] = each;
  }
  [[nodiscard]] constexpr std::size_t size() const { return count_; }
  [[nodiscard]] constexpr const OpStep& operator[](std::size_t i) const { return steps_[i]; }
  [[nodiscard]] constexpr const OpStep* begin() const { return steps_.data(); }
  [[nodiscard]] constexpr const OpStep* end() const { return steps_.data() + count_; }

 private:
  std::array<OpStep, most> steps_{};
  std::size_t count_ = 0;
};

/// How `algorithm` carries `op` out on a communicator's grid. composed and nccl: as two calls, where both
/// teams have several ranks; which algorithm a call of composed runs is chosen when it is made. All others:
/// as one step.
[[nodiscard]] constexpr OpSteps steps_of(Op op, Algorithm algorithm, const Grid& grid) {
  const Transport transport = algorithm == Algorithm::nccl ? Transport::nccl : Transport::own;
  const auto step = [&](Op each, Algorithm by) {
    return OpStep{each, grid_of(grid, shape_of(each).team), transport, by};
  };
  if (algorithm != Algorithm::composed && algorithm != Algorithm::nccl) return {step(op, algorithm)};
  const Algorithm each = algorithm == Algorithm::nccl ? algorithm : Algorithm::automatic;
  const auto two = two_calls_of(op);
  if (!two || grid.tp.size == 1 || grid.dp.size == 1) return {step(op, each)};
  return {step(two->first, each), step(two->second, each)};
}

}  // namespace mixcomm
