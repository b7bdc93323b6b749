// Matrix products through oneDNN.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "runner/numerics.hpp"
#include "runner/shard.hpp"

namespace mixcomm::runner {

/// What all products of one rank share: the engine, and the kernels of each shape. Used by one thread at a
/// time.
class Products {
 public:
  explicit Products(Precision precision);
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

 private:
  friend class Linear;
  struct State;
  std::unique_ptr<State> state_;
};

/// out = in * weight^T, rounded to the compute dtype. The weight is held once, packed for the product: as
/// bf16 where the compute dtype is bf16 and the processor has fast bf16 products, as fp32 otherwise.
class Linear {
 public:
  /// `weight` is out_features x in_features, neither 0. `products` must outlive this.
  Linear(Products& products, const Matrix& weight);
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  /// in: rows x in_features, out: rows x out_features; any number of rows.
  void operator()(std::span<const float> in, std::span<float> out) const;

  [[nodiscard]] std::size_t out_features() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Calls OpenMP code of this thread with one thread while it lives: ranks are the parallelism.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_;
};

}  // namespace mixcomm::runner
