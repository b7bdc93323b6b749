// What an operation reads and writes: dtypes, row-major views, and row counts per DP rank.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// Element types. Sums are accumulated in fp32 and rounded once (to nearest, ties to even). fp8_e4m3 is for
/// results alone, see Epilogue::quantize.
enum class DType : std::uint8_t { bf16, fp16, fp32, fp8_e4m3 };

/// Storage types of the 16-bit dtypes: the bits, no arithmetic.
struct bf16 {
  std::uint16_t bits;
};
struct fp16 {
  std::uint16_t bits;
};
/// E4M3, also known as float8_e4m3fn: finite numbers up to 448, and NaN.
struct fp8_e4m3 {
  std::uint8_t bits;
};

[[nodiscard]] constexpr std::size_t size_of(DType dtype) {
  return dtype == DType::fp32 ? 4 : dtype == DType::fp8_e4m3 ? 1 : 2;
}
[[nodiscard]] std::string_view name(DType dtype);

/// The dtype of sums of that name ("bf16", "fp16", "fp32"). Throws InvalidArgument, with the names, for any
/// other.
[[nodiscard]] DType dtype_from_name(std::string_view name);

template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float> ||
                    std::is_same_v<T, fp8_e4m3>,
                "mixcomm tensors hold bf16, fp16 or float, and results fp8_e4m3");
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, fp16>) return DType::fp16;
  if constexpr (std::is_same_v<T, fp8_e4m3>) return DType::fp8_e4m3;
  return DType::fp32;
}();

/// A row-major, contiguous rows x hidden view. `data` may be null where rows * hidden is 0.
template <class Void>
struct BasicTensor {
  Void* data = nullptr;
  std::size_t rows = 0;
  std::size_t hidden = 0;
  DType dtype = DType::fp32;

  [[nodiscard]] constexpr std::size_t elements() const { return rows * hidden; }
  [[nodiscard]] constexpr std::size_t bytes() const { return elements() * size_of(dtype); }

#ifdef __CUDACC__  // which warns that in a constant view it is never used, before it asks what it requires
#pragma nv_diagnostic push
#pragma nv_diag_suppress 554
#endif
  /// A writable view reads as a constant one.
  constexpr operator BasicTensor<const void>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<Void>) {
    return {data, rows, hidden, dtype};
  }
#ifdef __CUDACC__
#pragma nv_diagnostic pop
#endif
};
using Tensor = BasicTensor<void>;
using ConstTensor = BasicTensor<const void>;

/// View of `rows` x `hidden` elements of type T (bf16, fp16, float or fp8_e4m3) at `data`.
template <class T>
[[nodiscard]] auto tensor(T* data, std::size_t rows, std::size_t hidden) {
  using Void = std::conditional_t<std::is_const_v<T>, const void, void>;
  return BasicTensor<Void>{data, rows, hidden, dtype_of<std::remove_const_t<T>>};
}

/// How many rows each DP rank owns: the same count for all, or one count per DP rank (0 allowed), on the host
/// or in CUDA device memory. A view: the counts must outlive the call that takes it, and those in device
/// memory every replay of a graph that holds the call. Every rank of the grid passes the same counts.
class RowCounts {
 public:
  RowCounts(std::size_t uniform) : uniform_(uniform) {}  // NOLINT(google-explicit-constructor)
  /// One count per DP rank: a span, vector or array of std::size_t.
  template <class List>
  requires std::convertible_to<const List&, std::span<const std::size_t>> RowCounts(const List& per_dp_rank)
      : list_(per_dp_rank), is_list_(true) {}  // NOLINT(google-explicit-constructor)

  /// CUDA: one count per DP rank, in device memory, read when the operation runs; so a captured graph replays
  /// with new counts. None may exceed `most`. The tensor of rows[d] then has `most` rows and the one with all
  /// rows as many as all DP ranks may have together (at most dp * most); rows beyond the counts are neither
  /// read nor written. Counts that do not fit fail the communicator.
  [[nodiscard]] static RowCounts on_device(const std::int64_t* per_dp_rank, std::size_t most) {
    RowCounts counts(most);
    counts.device_ = per_dp_rank;
    return counts;
  }

  [[nodiscard]] bool is_uniform() const { return !is_list_; }
  /// The counts in device memory, or null. Then all that the host knows is `most`, which the others return.
  [[nodiscard]] const std::int64_t* device() const { return device_; }
  [[nodiscard]] std::size_t operator[](int d) const {
    return is_list_ ? list_[static_cast<std::size_t>(d)] : uniform_;
  }
  /// How many counts were given; meaningless (0) for uniform ones.
  [[nodiscard]] std::size_t given() const { return list_.size(); }

  /// Rows of DP ranks 0 .. dp-1 together.
  [[nodiscard]] std::size_t total(int dp) const {
    std::size_t sum = 0;
    for (int d = 0; d < dp; ++d) sum += (*this)[d];
    return sum;
  }

 private:
  std::span<const std::size_t> list_;
  const std::int64_t* device_ = nullptr;
  std::size_t uniform_ = 0;
  bool is_list_ = false;
};

}  // namespace mixcomm
