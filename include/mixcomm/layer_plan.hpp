// A model's boundaries: what its modules declare, and what follows from it. Pure host code.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mixcomm/epilogue.hpp"
#include "mixcomm/portability.hpp"
#include "mixcomm/transition.hpp"

namespace MIXCOMM_API mixcomm {

/// How a shared expert's output joins the routed experts'.
enum class Joined : std::uint8_t {
  on_every_rank,  ///< each rank adds its part to its part of the routed experts' sum
  on_one_member,  ///< only the rank that brings() it does, where several have the same part
  apart,          ///< it is brought to the next layout by itself, and added there
};

struct SharedExpert {
  Layout gives{Rows::replicated, TeamName::world};
  Joined joined = Joined::on_every_rank;
};

/// The RMSNorm in front of a module, and whether what the module takes is FP8 of it.
struct InputNorm {
  Quantize quantize = Quantize::none;
};

/// What a module's author declares.
struct Module {
  std::string name;
  Layout takes{};  ///< complete
  Layout gives{};
  std::optional<SharedExpert> shared{};  ///< of a mixture of experts
  bool adds_residual = false;            ///< every rank's output holds the residual already
  std::optional<InputNorm> norm{};       ///< what it takes is the residual, normed; none: the caller norms
};

struct LayerModules {
  Module attention;
  Module mlp;
};

/// A model, from the embedding (which takes no activation) to logits.
struct ModelModules {
  Module embedding;
  std::vector<LayerModules> layers;
  Module head;
  Layout logits;  ///< how they are wanted, complete and with all columns
};

/// What every decoder with these parallel sizes is made of, unless an author says otherwise: attention takes
/// its DP rank's rows and gives partial sums over attn_tp; experts take all rows and give partial sums over
/// moe_tp x moe_ep.
namespace modules {
[[nodiscard]] Module embedding();          ///< a whole copy on every rank
[[nodiscard]] Module sharded_embedding();  ///< the vocabulary over attn_tp: rows of other shards are 0
[[nodiscard]] Module attention(std::string name = "attention");
[[nodiscard]] Module dense_mlp(const Parallelism& parallelism);  ///< over mlp_tp
[[nodiscard]] Module experts(std::optional<SharedExpert> shared = std::nullopt);
[[nodiscard]] Module head();          ///< all logits of the DP rank's rows, on every rank of it
[[nodiscard]] Module sharded_head();  ///< the vocabulary over attn_tp, of the DP rank's rows
[[nodiscard]] Module world_head();    ///< the vocabulary over all ranks, of all rows
/// The same model with an RMSNorm in front of every attention, every MLP and the head, as decoders have them
/// today. `mlp`: what MLPs and experts take.
[[nodiscard]] ModelModules with_norms(ModelModules model, InputNorm mlp = {});
}  // namespace modules

/// How something is added to a module's output: the residual, or a shared expert.
enum class Added : std::uint8_t {
  by_one,  ///< before the collective, by the rank that brings() it: the sum then holds it once
  by_all,  ///< before the collective, by every rank
  after,   ///< after it
  within,  ///< in the epilogue of the last operation: to the sum, before it is rounded
};

[[nodiscard]] std::string_view name(Added added);

struct Addend {
  std::string name;  ///< "residual", "shared expert"
  Added added = Added::after;
  Transition way;  ///< how it gets to the rows where it is added; from.owed != to.owed only where it is
                   ///< summed on the way

  /// Whether `rank` adds it before the collective of `from`.
  [[nodiscard]] bool before(const Layout& from, const Parallelism& parallelism, int rank) const;
};

/// The epilogue of a boundary's last step: LayerCommunicator::cross() takes it as CallOptions::epilogue. It
/// norms, with the weight of the module behind.
struct Finish {
  Rows residual = Rows::by_dp_rank;  ///< which rows residual and residual_out have
  bool adds = false;                 ///< the residual: an addend, added within
  bool keeps = false;                ///< residual_out: what comes next adds it
  Quantize quantize = Quantize::none;
  bool within = true;  ///< by the operation that sums or gathers; else, behind local steps, by itself

  /// How many kernels do the same by themselves, as engines have them: one adds and norms; where the
  /// operation gathers, one adds on one rank before it, one copies the own rows, and one norms.
  [[nodiscard]] int separate_kernels(const Transition& transition) const;
};

/// Between two modules: out = transition(what the first gave + addends before) + addends after; with `finish`
/// out = that, with the addend within, normed.
struct Boundary {
  std::string name;
  Transition transition;
  std::vector<Addend> addends;     ///< the shared expert first, then the residual
  std::optional<Finish> finish{};  ///< where the module behind declares a norm, and it can be done there

  [[nodiscard]] const Addend* addend(std::string_view name) const;
};

/// Throws InvalidArgument for a transition that does not give what it says, and for an addend that would be
/// counted more than once, or whose rows are others than those that it is added to.
void check(const Boundary& boundary, const Parallelism& parallelism);

/// Where a plan asks for its transitions.
using TransitionFor =
    std::function<Transition(const Layout& from, const Layout& to, const Parallelism&, const PlanOptions&)>;

/// All boundaries of a model, in the order in which a step crosses them. A value.
///
/// The residual is kept in the rows that the module at hand takes. After a module, it is added behind the
/// collective where every rank has the rows by then, and otherwise before it, on one rank of the team that
/// owes the sum, so that the fused operation carries it to all of them.
///
/// Where the module behind declares a norm, the last operation does both, in its epilogue: the residual is
/// kept in rows of that operation's DP rank, which in front of experts are fewer than they take. Not so where
/// the residual lies in rows of which that is no part, where what is kept could not be added at the next
/// boundary, or where a shared expert joins behind the collective: there is no `finish` there, and the caller
/// adds and norms as without.
class LayerPlan {
 public:
  /// Throws InvalidArgument, naming the module, for declarations that cannot be, such as a sum over ranks
  /// with different rows, or a shared expert that would be counted several times; Unsupported for
  /// context-parallel attention.
  LayerPlan(ModelModules modules, const Parallelism& parallelism, const PlanOptions& options = {},
            const TransitionFor& transition_for = collective_for);

  [[nodiscard]] const Boundary& before_attention(std::size_t layer) const;
  [[nodiscard]] const Boundary& before_mlp(std::size_t layer) const;
  [[nodiscard]] const Boundary& after_mlp(std::size_t layer) const;
  [[nodiscard]] const Boundary& logits() const;

  [[nodiscard]] const Parallelism& parallelism() const { return parallelism_; }
  [[nodiscard]] const ModelModules& modules() const { return modules_; }

  /// All boundaries in this order: before_attention(0), before_mlp(0), after_mlp(0), before_mlp(1), ...
  /// logits().
  [[nodiscard]] std::span<const Boundary> boundaries() const { return boundaries_; }

 private:
  friend struct LayerPlanTestHook;
  ModelModules modules_;
  Parallelism parallelism_;
  std::vector<Boundary> boundaries_;
  std::vector<Boundary> stay_;  ///< of layers behind the first: their input is there already
};

/// Checks every boundary, and that each module's output gets its residual and its shared expert once. Throws
/// InvalidArgument.
void check(const LayerPlan& plan);

}  // namespace mixcomm
