// This rank's slice of a stored tensor, as float.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runner/numerics.hpp"
#include "runner/safetensors.hpp"

namespace mixcomm::runner {

/// Indices begin .. begin + size - 1.
struct Range {
  std::size_t begin = 0;
  std::size_t size = 0;

  /// The same share of something that has `factor` elements for each index.
  [[nodiscard]] Range times(std::size_t factor) const { return {begin * factor, size * factor}; }
  [[nodiscard]] Range shifted(std::size_t by) const { return {begin + by, size}; }
};

/// Part `index` of `total` cut into `parts` contiguous, near-equal parts (the first ones hold one more; may
/// be empty).
[[nodiscard]] Range share(std::size_t total, int parts, int index);

/// Row-major.
struct Matrix {
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::vector<float> values;

  /// Puts `below` under this. Both must have the same number of columns.
  void append(const Matrix& below);
};

/// Reads slices of a model's tensors, rounded to the compute dtype (a bf16 model rounds its weights when it
/// is loaded). Finds out which names the checkpoint uses: `model.language_model.` of a ConditionalGeneration
/// model, `model.` of a CausalLM. Throws InvalidArgument, naming the tensor, for a missing one or a wrong
/// shape.
class Shards {
 public:
  Shards(const Safetensors& weights, Precision precision);

  /// Rows and columns of a tensor, which must have that shape and is seen as a matrix: all dimensions but the
  /// last are rows. `name` goes without the checkpoint's prefix.
  [[nodiscard]] Matrix block(std::string_view name, std::initializer_list<std::size_t> shape, Range rows,
                             Range cols) const;

  /// Whole rows.
  [[nodiscard]] Matrix rows(std::string_view name, std::initializer_list<std::size_t> shape,
                            Range rows) const;

  /// Elements of a one-dimensional tensor of `size`.
  [[nodiscard]] std::vector<float> vector(std::string_view name, std::size_t size, Range range) const;
  [[nodiscard]] std::vector<float> vector(std::string_view name, std::size_t size) const;

  [[nodiscard]] bool contains(std::string_view name) const;

  /// lm_head.weight, or the embedding where `tied`.
  [[nodiscard]] Matrix head(std::size_t vocab_size, std::size_t hidden_size, bool tied) const;

  [[nodiscard]] Precision precision() const { return precision_; }

 private:
  [[nodiscard]] Matrix read(const std::string& full_name, std::span<const std::size_t> shape, Range rows,
                            Range cols) const;

  const Safetensors& weights_;
  Precision precision_;
  std::string prefix_;
};

}  // namespace mixcomm::runner
