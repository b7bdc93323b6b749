// What `mixcomm bench` measures: one shape of one operation, carried out in several ways.
#pragma once

#include <string>
#include <vector>

#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {

enum class Buffers : std::uint8_t { plain, symmetric };
[[nodiscard]] std::string_view name(Buffers buffers);
/// Throws InvalidArgument.
[[nodiscard]] Buffers buffers_from_name(std::string_view name);

/// What the operation does with its rows: nothing, or the residual added and the norm, or FP8 with a scale
/// for each 128 columns behind these.
enum class EpilogueKind : std::uint8_t { none, add_rms_norm, add_rms_norm_fp8 };
[[nodiscard]] std::string_view name(EpilogueKind kind);
/// Throws InvalidArgument.
[[nodiscard]] EpilogueKind epilogue_from_name(std::string_view name);

/// How the steps of a cell's epilogue are done.
enum class Finish : std::uint8_t {
  within,   ///< by the operation
  behind,   ///< by themselves, around the operation alone, as engines do
  without,  ///< not at all: the operation alone
};

/// One way to carry out an operation.
struct Variant {
  Algorithm algorithm = Algorithm::one_shot;
  LaunchShape shape{};  ///< CUDA
  Finish finish = Finish::within;
  friend bool operator==(const Variant&, const Variant&) = default;
};
/// "two_shot/packets", "one_shot/lines/64x128": of 64 lanes at most, of 128 threads; "auto, separate"
[[nodiscard]] std::string to_string(const Variant& variant);

/// One shape of one operation; its variants are measured in turn.
struct Cell {
  Op op = Op::all_reduce;
  std::vector<std::size_t> rows;  ///< one count per DP rank
  bool rows_on_device = false;    ///< CUDA; `composed`, `nccl` and separate steps take them from the host
  Buffers buffers = Buffers::symmetric;
  std::vector<Variant> variants;
  EpilogueKind epilogue = EpilogueKind::none;
  bool in_place = false;  ///< CPU, all_reduce: the result is written over the input
};

/// How long to measure a cell.
struct Effort {
  std::size_t iterations = 0;  ///< calls of each variant; 0: for `seconds`
  double seconds = 0.5;
};

/// Microseconds per call of one variant, each the longest of all ranks.
using Latencies = std::vector<double>;

/// Whether what comes of this variant has been through the cell's epilogue.
[[nodiscard]] bool finished(const Cell& cell, const Variant& variant);

/// How many rows the tensors of a rank's call have.
struct TensorRows {
  std::size_t in = 0;
  std::size_t out = 0;
};
[[nodiscard]] TensorRows tensor_rows(const Cell& cell, const Grid& grid);

/// The tensor with all rows; for all_reduce, the largest.
[[nodiscard]] std::size_t tensor_bytes(const Cell& cell, std::size_t hidden, DType dtype);

}  // namespace mixcomm::tools
