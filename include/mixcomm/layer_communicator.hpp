// A model's boundaries, carried out: what an engine calls between its modules.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "mixcomm/communicators.hpp"
#include "mixcomm/layer_plan.hpp"
#include "mixcomm/portability.hpp"
#include "mixcomm/rows.hpp"

namespace MIXCOMM_API mixcomm {

struct LayerCommunicatorOptions {
  std::size_t max_rows = 4096;  ///< the most rows of all DP ranks together in one step, pad rows included
  std::size_t hidden = 0;       ///< elements of a row
  std::size_t vocab = 0;        ///< columns of the logits; 0: the plan moves none
  DType dtype = DType::bf16;
};

/// One rank's end of a model's boundaries. Calls: as of Communicator, which carries them out; all ranks cross
/// the same boundaries in the same order.
class LayerCommunicator {
 public:
  /// Collective: makes the communicators that the plan needs, and scratch memory where a boundary takes
  /// several operations. Checks the plan (see check): throws InvalidArgument on every rank, before anything
  /// is sent, for a plan in which a sum is left out or made twice. `communicators` must outlive this.
  LayerCommunicator(LayerPlan plan, Communicators& communicators, const LayerCommunicatorOptions& options);
  ~LayerCommunicator();
  LayerCommunicator(LayerCommunicator&&) noexcept;
  LayerCommunicator& operator=(LayerCommunicator&&) noexcept;

  [[nodiscard]] const LayerPlan& plan() const;

  /// The boundaries: which layout the module behind it gets (transition.to), which one the module before it
  /// must give (transition.from), and what is added where.
  [[nodiscard]] const Boundary& before_attention(std::size_t layer) const;
  [[nodiscard]] const Boundary& before_mlp(std::size_t layer) const;
  [[nodiscard]] const Boundary& after_mlp(std::size_t layer) const;
  [[nodiscard]] const Boundary& logits() const;

  /// The rows of one step. `rows`: one count per DP rank.
  [[nodiscard]] RowPlan rows(std::span<const std::size_t> rows, RowsWay way = RowsWay::exact) const;

  /// Which rows of a step this rank has in a layout.
  [[nodiscard]] RowRange range(Rows layout, const RowPlan& rows) const;

  /// Whether this rank adds the residual (or the shared expert's output) to what its module gave, before it
  /// crosses.
  [[nodiscard]] bool adds_before(const Boundary& boundary, std::string_view addend) const;

  /// out = what the next module gets of what this rank's module gave. in: range(from.rows) x hidden, out:
  /// range(to.rows) x hidden; with sum_len either may have more rows, which are not touched. `in` may be
  /// overwritten: pad rows of max_len are cleared, so that no sum reads what a module left there, and a value
  /// that several ranks have is cleared on all but one. options.epilogue is that of the last step, which has
  /// `out`: residual and residual_out have the rows of that operation's DP rank, in front of a gather and
  /// behind a scatter; where it sums nothing they have those of `out`. Throws as the operations of
  /// Communicator do.
  void cross(const Boundary& boundary, Tensor in, Tensor out, const RowPlan& rows, CallOptions options = {});

  /// The same for any transition: of an addend, say.
  void cross(const Transition& transition, Tensor in, Tensor out, const RowPlan& rows,
             CallOptions options = {});

 private:
  friend struct LayerCommunicatorTestHook;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm
