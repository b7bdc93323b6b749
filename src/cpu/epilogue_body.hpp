// Epilogues of rows, behind the sums of kernels_body.hpp: compiled once per instruction set, as those are.
#ifndef MIXCOMM_ISA
#error "define MIXCOMM_ISA before including epilogue_body.hpp"
#endif

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "cpu/kernels_body.hpp"
#include "epilogue/arithmetic.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::cpu::MIXCOMM_ISA {
namespace {

constexpr std::size_t vectors_at_once = 4;
constexpr std::size_t half_step = vectors_at_once * lanes;
/// As many groups as a vector has lanes.
constexpr std::size_t squares_step = 2 * half_step;
static_assert(squares_step == epilogue::group * lanes);
using Bytes = std::uint8_t __attribute__((vector_size(lanes)));

/// Sums of neighbours: a[0] + a[1], a[2] + a[3], ..., then those of b.
template <std::size_t... i>
inline Floats pairwise(const Floats& a, const Floats& b, std::index_sequence<i...> /*lanes*/) {
  return __builtin_shufflevector(a, b, (2 * i)...) + __builtin_shufflevector(a, b, (2 * i + 1)...);
}
inline Floats pairwise(const Floats& a, const Floats& b) {
  return pairwise(a, b, std::make_index_sequence<lanes>());
}

/// The sum of squares in its one order: what has been seen of a row.
class SumOfSquares {
 public:
  /// The next squares_step squares.
  void add(const Floats (&squares)[2 * vectors_at_once]) {
    const Floats a = pairwise(pairwise(squares[0], squares[1]), pairwise(squares[2], squares[3]));
    const Floats b = pairwise(pairwise(squares[4], squares[5]), pairwise(squares[6], squares[7]));
    float* const to = accumulators_ + groups_ % epilogue::accumulators;
    const Floats sums = read<Floats>(to) + pairwise(a, b);
    std::memcpy(to, &sums, sizeof(sums));
    groups_ += lanes;
  }
  [[nodiscard]] float total() {
    for (std::size_t half = epilogue::accumulators / 2; half > 0; half /= 2)
      for (std::size_t i = 0; i < half; ++i) accumulators_[i] += accumulators_[i + half];
    return accumulators_[0];
  }

 private:
  alignas(64) float accumulators_[epilogue::accumulators] = {};
  std::size_t groups_ = 0;
};

/// r of `vectors` vectors: the sum and the residual, rounded, to all that get it.
template <std::size_t vectors, class Source, class T, class Halves>
inline void sum_row_vectors(const RowEpilogue& row, std::span<T* const> to, std::size_t begin,
                            Floats (&r)[vectors]) {
  add_vectors<vectors, Source, Halves>(row.sum, begin, r);
  if (row.residual != nullptr)
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors; ++v)
      r[v] += load(static_cast<const T*>(row.residual) + begin + v * lanes);
  std::conditional_t<std::is_same_v<T, float>, Floats, HalfWords> rounded[vectors];
  round_all(r, rounded, static_cast<const T*>(nullptr));
  for (T* each : to) std::memcpy(each + begin, rounded, sizeof(rounded));
#pragma GCC unroll 8
  for (std::size_t v = 0; v < vectors; ++v) {
    T elements[lanes];
    std::memcpy(elements, &rounded[v], sizeof(elements));
    r[v] = load(elements);
  }
}

/// r of a row to all that get it. Returns the sum of its squares.
template <class Source, class T, class Halves>
inline float sum_row(const RowEpilogue& row, std::span<T* const> to) {
  const std::size_t hidden = row.sum.size;
  const bool squares_wanted = row.weight != nullptr;
  constexpr std::size_t ahead = elements_ahead<Source>;
  for (std::size_t at = 0; at < ahead && at + squares_step <= hidden; at += squares_step)
    prefetch<Source>(row.sum, at, squares_step);
  SumOfSquares squares;
  std::size_t i = 0;
  for (; i + squares_step <= hidden; i += squares_step) {
    if (i + ahead < hidden) prefetch<Source>(row.sum, i + ahead, squares_step);
    Floats r[2 * vectors_at_once];
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      Floats part[vectors_at_once];
      sum_row_vectors<vectors_at_once, Source, T, Halves>(row, to, i + half * half_step, part);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < vectors_at_once; ++v) r[half * vectors_at_once + v] = part[v] * part[v];
    }
    if (squares_wanted) squares.add(r);
  }
  if (i < hidden) {
    float rest[squares_step] = {};
    for (std::size_t k = 0; i + k < hidden; ++k) {
      float x = add_element<Source>(row.sum, i + k);
      if (row.residual != nullptr) x += to_float(static_cast<const T*>(row.residual)[i + k]);
      T rounded;
      round_to(x, rounded);
      for (T* each : to) each[i + k] = rounded;
      rest[k] = to_float(rounded) * to_float(rounded);
    }
    Floats last[2 * vectors_at_once];
    std::memcpy(last, rest, sizeof(last));
    if (squares_wanted) squares.add(last);
  }
  return squares_wanted ? squares.total() : 0;
}

template <class T>
inline float factor_at(const RowEpilogue& row, std::size_t i) {
  return epilogue::factor(to_float(static_cast<const T*>(row.weight)[i]), row.weight_plus_one);
}

/// y of a row: r times `inverse`, times the weight.
template <class T>
inline void norm_row(const RowEpilogue& row, const T* r, float inverse, const OrderedSum& to) {
  const int cached = cached_count(to);
  const auto* weight = static_cast<const T*>(row.weight);
  std::size_t i = 0;
  for (; i + half_step <= to.size; i += half_step) {
    Floats y[vectors_at_once];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < vectors_at_once; ++v) {
      Floats w = load(weight + i + v * lanes);
      if (row.weight_plus_one) w = 1.0F + w;
      y[v] = load(r + i + v * lanes) * inverse * w;
    }
    std::conditional_t<std::is_same_v<T, float>, Floats, HalfWords> rounded[vectors_at_once];
    round_all(y, rounded, static_cast<const T*>(nullptr));
    for (int k = 0; k < cached; ++k)
      std::memcpy(static_cast<T*>(to.destinations[k]) + i, rounded, sizeof(rounded));
    for (int k = cached; k < to.destination_count; ++k)
      write_past(static_cast<T*>(to.destinations[k]) + i, rounded);
  }
  for (; i < to.size; ++i) {
    T rounded;
    round_to(epilogue::normed(to_float(r[i]), inverse, factor_at<T>(row, i)), rounded);
    for (int k = 0; k < to.destination_count; ++k) static_cast<T*>(to.destinations[k])[i] = rounded;
  }
  if (cached != to.destination_count) fence();
}

/// The largest |y|, NaN left out.
template <class T>
inline float most_of(const T* y, std::size_t size) {
  Floats most{};
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const Floats each = std::bit_cast<Floats>(std::bit_cast<Words>(load(y + i)) & 0x7FFFFFFFU);
    most = each > most ? each : most;
  }
  float largest = 0;
  for (std::size_t v = 0; v < lanes; ++v) largest = std::max(largest, most[v]);
  for (; i < size; ++i) largest = epilogue::larger(largest, to_float(y[i]));
  return largest;
}

/// epilogue::to_fp8() of each.
inline Bytes fp8_of(const Floats& x) {
  const Words bits = std::bit_cast<Words>(x);
  const Words size = bits & 0x7FFFFFFFU;
  const Words small = std::bit_cast<Words>(std::bit_cast<Floats>(size) + 16384.0F) - 0x46800000U;
  Words code = ((size + 0x7FFFFU + (size >> 20U & 1U)) >> 20U) - (120U << 3U);
  code = size < 0x3C800000U ? small : code;
  code = size >= 0x43E00000U ? Words{} + 0x7EU : code;
  code |= bits >> 24U & 0x80U;
  code = size > 0x7F800000U ? Words{} + 0x7FU : code;
  return __builtin_convertvector(code, Bytes);
}

template <class T>
inline void quantize_columns(const T* y, std::size_t size, float scale, std::uint8_t* to) {
  std::size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const Bytes codes = fp8_of(load(y + i) / scale);
    std::memcpy(to + i, &codes, sizeof(codes));
  }
  for (; i < size; ++i) to[i] = epilogue::quantized(to_float(y[i]), scale);
}

/// q of a row and its scales. What has several destinations is copied from the first.
template <class T>
inline void quantize_row(const RowEpilogue& row, const T* y) {
  const std::size_t hidden = row.sum.size;
  const std::size_t columns = row.quantize == Quantize::per_128_columns ? scale_columns : hidden;
  auto* const first = static_cast<std::uint8_t*>(row.sum.destinations[0]);
  for (std::size_t begin = 0; begin < hidden; begin += columns) {
    const std::size_t size = std::min(columns, hidden - begin);
    float scale = 0;
    if (row.quantize == Quantize::fixed) {
      scale = *row.fixed_scale;
    } else {
      scale = epilogue::scale_of(most_of(y + begin, size));
      for (float* scales : row.scales) scales[begin / columns] = scale;
    }
    quantize_columns(y + begin, size, scale, first + begin);
  }
  for (int k = 1; k < row.sum.destination_count; ++k) std::memcpy(row.sum.destinations[k], first, hidden);
}

template <class Source, class T>
void finish_row_of(const RowEpilogue& row) {
  const std::size_t hidden = row.sum.size;
  const bool quantizes = row.quantize != Quantize::none;
  const bool norms = row.weight != nullptr;
  auto* const scratch = static_cast<T*>(row.scratch);

  // Where r goes; the first of them is read again.
  std::array<T*, max_ranks + 3> to;
  std::size_t count = 0;
  for (void* each : row.kept) to[count++] = static_cast<T*>(each);
  if (!norms && !quantizes)
    for (int k = 0; k < row.sum.destination_count; ++k)
      to[count++] = static_cast<T*>(row.sum.destinations[k]);
  const T* r = scratch;
  if (count > 0)
    r = to[0];
  else if (std::is_same_v<Source, T> && row.residual == nullptr && row.sum.inner * row.sum.outer == 1)
    r = static_cast<const T*>(row.sum.sources[0]);  // there it is
  else
    to[count++] = scratch;
  const float squares = with_halves(row.sum.inner * row.sum.outer, row.sum.inner, [&]<class Halves>(Halves) {
    // Other numbers of ranks are not worth a loop of their own here.
    constexpr int sources = Halves::left + Halves::right;
    using Used = std::conditional_t<sources <= 4 || sources == 8, Halves, Many>;
    return sum_row<Source, T, Used>(row, {to.data(), count});
  });
  if (!norms && !quantizes) return;

  const T* y = r;
  if (norms) {
    const float inverse = epilogue::inverse_rms(squares, row.width, row.eps);
    void* const quantized_later = scratch + hidden;
    OrderedSum normed = row.sum;
    if (quantizes) {
      normed.destinations = &quantized_later;
      normed.destination_count = 1;
      normed.streamed_count = 0;
      y = scratch + hidden;
    }
    norm_row(row, r, inverse, normed);
  }
  if (quantizes) quantize_row(row, y);
}

}  // namespace

void finish_row(const RowEpilogue& row) {
  with_types(row.sum, [&]<class Source, class T>(Source, T) {
    // A row's elements are of T, so sums that stay in fp32 are of fp32.
    if constexpr (std::is_same_v<Source, T> || !std::is_same_v<T, float>) finish_row_of<Source, T>(row);
  });
}

}  // namespace mixcomm::cpu::MIXCOMM_ISA
