// A model's weights: safetensors files, mapped, not copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "mixcomm/tensor.hpp"

namespace mixcomm::runner {

/// One tensor in the mapping of its file: row-major, little-endian, maybe unaligned.
struct StoredTensor {
  DType dtype = DType::fp32;
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
};

/// All tensors of a model directory: `model.safetensors`, or the shards that `model.safetensors.index.json`
/// lists. Valid as long as this object lives; safe to read from many threads.
class Safetensors {
 public:
  /// Checks every header completely (sizes, offsets, overlaps, dtypes). Throws InvalidArgument naming the
  /// file and what is wrong with it: missing, truncated, a header that is too large, no JSON, or
  /// inconsistent. Tensors of a dtype other than BF16, F16 and F32 are kept out and named when asked for.
  explicit Safetensors(const std::filesystem::path& directory);
  ~Safetensors();
  Safetensors(Safetensors&&) noexcept;
  Safetensors& operator=(Safetensors&&) noexcept;

  [[nodiscard]] bool contains(std::string_view name) const;

  /// The tensor of that name, which must have that shape. Throws InvalidArgument (naming the tensor, both
  /// shapes) otherwise.
  [[nodiscard]] const StoredTensor& at(std::string_view name, std::span<const std::size_t> shape) const;

  [[nodiscard]] std::vector<std::string> names() const;  ///< sorted
  [[nodiscard]] const std::filesystem::path& directory() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm::runner
