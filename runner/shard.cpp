#include "runner/shard.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "mixcomm/error.hpp"
#include "runner/checkpoint.hpp"

namespace mixcomm::runner {
namespace {

float from_fp16_bits(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 0x1FU;
  const std::uint32_t mantissa = bits & 0x3FFU;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  const std::uint32_t wide = exponent == 0x1F ? 0xFFU : exponent + 127 - 15;
  return std::bit_cast<float>(sign | (wide << 23U) | (mantissa << 13U));
}

/// Elements from `bytes` on, which may be unaligned.
void convert(DType dtype, const std::byte* bytes, std::span<float> out) {
  if (dtype == DType::fp32) {
    std::memcpy(out.data(), bytes, out.size_bytes());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes + i * sizeof bits, sizeof bits);
    out[i] = dtype == DType::bf16 ? from_bf16_bits(bits) : from_fp16_bits(bits);
  }
}

}  // namespace

Range share(std::size_t total, int parts, int index) {
  const auto count = static_cast<std::size_t>(parts);
  const auto at = static_cast<std::size_t>(index);
  const std::size_t each = total / count;
  const std::size_t longer = total % count;
  return {at * each + std::min(at, longer), each + (at < longer ? 1 : 0)};
}

void Matrix::append(const Matrix& below) {
  values.insert(values.end(), below.values.begin(), below.values.end());
  rows += below.rows;
}

Shards::Shards(const Safetensors& weights, Precision precision)
    : weights_(weights), precision_(precision), prefix_(prefix_of(weights)) {}

Matrix Shards::block(std::string_view name, std::initializer_list<std::size_t> shape, Range rows,
                     Range cols) const {
  return read(prefix_ + std::string(name), {shape.begin(), shape.size()}, rows, cols);
}

Matrix Shards::rows(std::string_view name, std::initializer_list<std::size_t> shape, Range rows) const {
  return block(name, shape, rows, {0, *(shape.end() - 1)});
}

std::vector<float> Shards::vector(std::string_view name, std::size_t size, Range range) const {
  return block(name, {size}, {0, 1}, range).values;
}

std::vector<float> Shards::vector(std::string_view name, std::size_t size) const {
  return vector(name, size, {0, size});
}

bool Shards::contains(std::string_view name) const {
  return weights_.contains(prefix_ + std::string(name));
}

Matrix Shards::head(std::size_t vocab_size, std::size_t hidden_size, bool tied) const {
  const std::array shape{vocab_size, hidden_size};
  // Some checkpoints of tied models store the head as well: then it is the embedding, by definition.
  const std::string name = tied ? prefix_ + "embed_tokens.weight" : "lm_head.weight";
  return read(name, shape, {0, vocab_size}, {0, hidden_size});
}

Matrix Shards::read(const std::string& full_name, std::span<const std::size_t> shape, Range rows,
                    Range cols) const {
  const StoredTensor& stored = weights_.at(full_name, shape);
  const std::size_t stored_cols = shape.back();
  const std::size_t element = size_of(stored.dtype);
  Matrix matrix{rows.size, cols.size, std::vector<float>(rows.size * cols.size)};
  for (std::size_t row = 0; row < rows.size; ++row) {
    const std::byte* from = stored.bytes.data() + ((rows.begin + row) * stored_cols + cols.begin) * element;
    convert(stored.dtype, from, {matrix.values.data() + row * cols.size, cols.size});
  }
  precision_.round(matrix.values);
  return matrix;
}

}  // namespace mixcomm::runner
