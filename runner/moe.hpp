// The mixture of experts: router, routed experts, and the shared expert with its gate; one rank's part.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "runner/linear.hpp"
#include "runner/mixer.hpp"
#include "runner/parallelism.hpp"

namespace mixcomm::runner {

/// down(silu(gate(x)) * up(x)), or a slice of its intermediate width, which gives a partial sum.
class GatedMlp {
 public:
  GatedMlp(Products& products, const Matrix& gate_up, const Matrix& down);

  /// Scratch is the caller's, because a model has thousands of experts.
  struct Scratch {
    std::vector<float> gate_up;
    std::vector<float> hidden;
  };
  void operator()(std::span<const float> in, std::span<float> out, Scratch& scratch,
                  Precision precision) const;

 private:
  Linear gate_up_;
  Linear down_;
};

/// Runs on the rows of all ranks: a contiguous range of experts (by EP rank), a slice of each one's width (by
/// TP rank), and a slice of the shared expert's width (by rank). The sum of all ranks' outputs is the
/// module's output.
class MixtureOfExperts {
 public:
  MixtureOfExperts(const LayerSource& source, const Parallelism& parallelism, int rank);

  /// in: normed rows x hidden, the same on all ranks; out: the same shape, partial over the world.
  void forward(std::span<const float> in, std::span<float> out);

 private:
  /// One row that goes to one expert of this rank.
  struct Visit {
    std::size_t row;
    float weight;
  };
  /// One expert that a row goes to.
  struct Choice {
    std::size_t expert;
    float probability;
  };
  void route(std::span<const float> in);
  void run_expert(std::size_t expert, std::span<const float> in, std::span<float> out);
  void add_shared(std::span<const float> in, std::span<float> out);

  Precision precision_;
  std::size_t hidden_;
  std::size_t experts_;  ///< of the model
  std::size_t experts_per_row_;
  std::size_t first_expert_;  ///< of this rank
  /// One row per expert, and the shared expert's gate. It has the same shape on every rank, so that each
  /// computes the same bits: ranks that disagreed about a near tie would drop an expert's output or add it
  /// twice.
  Linear router_;
  std::vector<Choice> chosen_;  ///< of the row at hand
  std::vector<GatedMlp> local_;
  std::optional<GatedMlp> shared_;          ///< none where this rank's slice is empty
  std::vector<std::vector<Visit>> visits_;  ///< per expert of this rank, rows ascending
  std::vector<float> logits_;
  std::vector<float> gathered_;
  std::vector<float> produced_;
  GatedMlp::Scratch scratch_;
};

}  // namespace mixcomm::runner
