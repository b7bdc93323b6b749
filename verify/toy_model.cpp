// A decoder in integers.
#include "verify/toy_model.hpp"

namespace mixcomm::verify {
namespace {

constexpr Value modulus = 97;

std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31U);
}

/// least .. least + count - 1.
Value pick(std::uint64_t key, Value least, std::uint64_t count) {
  return least + static_cast<Value>(mixed(key + 0x9E3779B97F4A7C15ULL) % count);
}

}  // namespace

DenseRow::Row DenseRow::embedding(std::uint64_t token) {
  Row row{};
  for (std::size_t j = 0; j < hidden; ++j) row[j] = pick(token * hidden + j, -40, 81);
  return row;
}

DenseRow::Row DenseRow::norm(const Value* stream, std::size_t module) {
  Row row{};
  for (std::size_t j = 0; j < hidden; ++j) {
    const Value a = stream[j];
    const Value b = stream[(j + 1) % hidden];
    if (a == poison || b == poison) {
      row[j] = poison;
      continue;
    }
    const Value v = ((a + 3 * b) % modulus + modulus) % modulus;
    row[j] = (v * v + 5 * v + static_cast<Value>(module) * 11 + 1) % modulus;
  }
  return row;
}

Value DenseRow::weight(std::size_t module, std::uint64_t token, std::size_t column) {
  return pick((module << 40U) ^ (token << 8U) ^ column, 1, 7);
}
Value DenseRow::shared_weight(std::size_t module, std::size_t column) {
  return pick((module << 40U) ^ (std::uint64_t{1} << 60U) ^ column, 1, 7);
}
Value DenseRow::head_weight(std::size_t column, std::size_t from) {
  return pick((std::uint64_t{1} << 61U) ^ (column << 8U) ^ from, -6, 13);
}

DenseRow::DenseRow(const ModelModules& model, std::uint64_t token) {
  stream_.push_back(embedding(token));
  const auto add = [&](bool shared) {
    const std::size_t module = stream_.size() - 1;
    const Row normed = norm(stream_.back().data(), module);
    Row next = stream_.back();
    for (std::size_t j = 0; j < hidden; ++j) {
      next[j] += weight(module, token, j) * normed[j];
      if (shared) next[j] += shared_weight(module, j) * normed[j];
    }
    stream_.push_back(next);
  };
  for (const LayerModules& layer : model.layers) {
    add(layer.attention.shared.has_value());
    add(layer.mlp.shared.has_value());
  }
}

Value DenseRow::logit(std::size_t column) const {
  const Row normed = norm(stream_.back().data(), stream_.size() - 1);
  Value sum = 0;
  for (std::size_t j = 0; j < hidden; ++j) sum += head_weight(column, j) * normed[j];
  return sum;
}

Value part_of(Value whole, int members, int m, std::uint64_t key) {
  if (m + 1 < members) return pick(key * 64 + static_cast<std::uint64_t>(m), -3, 7);
  Value rest = whole;
  for (int other = 0; other + 1 < members; ++other) rest -= part_of(whole, members, other, key);
  return rest;
}

}  // namespace mixcomm::verify
