// Wrong rules, seeded: what engines have got wrong at these boundaries. The checker must find each of them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "verify/plan_cases.hpp"
#include "verify/symbolic.hpp"

namespace mixcomm::verify {

struct PlanMutant {
  std::string name;
  /// Breaks a boundary of a plan; returns whether there was something to break.
  std::function<bool(Boundary&, const Parallelism&)> edit = {};
  /// Or what carries the plan out.
  Faults faults = {};
  /// The same mistake as a declaration, which must be refused when the plan is made; nothing where none can
  /// express it, or where these parallel sizes make it right.
  std::function<std::optional<ModelModules>(const Parallelism&)> declaration = {};
};

[[nodiscard]] std::vector<PlanMutant> plan_mutants();

/// The one of that name. Throws InvalidArgument.
[[nodiscard]] PlanMutant plan_mutant(const std::string& name);

struct MutantResult {
  std::size_t applied = 0;               ///< models that it changes
  std::size_t caught = 0;                ///< of those, by the checker, with rows of one kind at least
  std::size_t refused = 0;               ///< of those, by LayerCommunicator's constructor, without being run
  std::size_t declared = 0;              ///< mappings for which a declaration expresses it
  std::size_t declarations_refused = 0;  ///< of those
};

/// On every mapping of `world` ranks, each `every`-th model.
[[nodiscard]] MutantResult try_mutant(const PlanMutant& mutant, int world, int every);

}  // namespace mixcomm::verify
