// The measuring of `mixcomm bench`: one rank's part.
#pragma once

#include <string>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "tools/meeting.hpp"

namespace mixcomm::tools {

enum class Buffers : std::uint8_t { plain, symmetric };
[[nodiscard]] std::string_view name(Buffers buffers);
/// Throws InvalidArgument.
[[nodiscard]] Buffers buffers_from_name(std::string_view name);

/// One way to carry out an operation.
struct Variant {
  Algorithm algorithm = Algorithm::one_shot;
  Protocol protocol = Protocol::automatic;  ///< CUDA, two_shot
  friend bool operator==(const Variant&, const Variant&) = default;
};
/// "two_shot/packets"
[[nodiscard]] std::string to_string(const Variant& variant);

/// One shape of one operation; its variants are measured in turn.
struct Cell {
  Op op = Op::all_reduce;
  std::vector<std::size_t> rows;  ///< one count per DP rank
  bool rows_on_device = false;    ///< CUDA; `composed` and `nccl` take them from the host all the same
  Buffers buffers = Buffers::symmetric;
  std::vector<Variant> variants;
};

/// How long to measure a cell.
struct Effort {
  std::size_t iterations = 0;  ///< calls of each variant; 0: for `seconds`
  double seconds = 0.5;
};

/// Microseconds per call of one variant, each the longest of all ranks.
using Latencies = std::vector<double>;

/// The tensor with all rows; for all_reduce, the largest.
[[nodiscard]] std::size_t tensor_bytes(const Cell& cell, std::size_t hidden, DType dtype);

class Bench {
 public:
  /// Collective. `most_bytes`: of tensor_bytes() of the cells to come.
  Bench(Bootstrap& bootstrap, Communicator& communicator, std::size_t hidden, DType dtype,
        std::size_t most_bytes);

  /// Before each call every rank writes new inputs, then all meet; then each measures its call. Variants
  /// take turns of some calls each, so that noise of the machine meets them alike. Collective; by variant,
  /// filled on rank 0 alone.
  [[nodiscard]] std::vector<Latencies> measure(const Cell& cell, const Effort& effort);

 private:
  struct Memory {
    std::byte* in;
    std::byte* out;
  };
  void turn(const Cell& cell, Algorithm algorithm, const Memory& memory, std::size_t calls);
  void collect(std::size_t calls, Latencies& into) const;

  Communicator& communicator_;
  std::size_t hidden_;
  DType dtype_;
  Meeting meeting_;
  SymmetricBuffer in_;
  SymmetricBuffer out_;
  std::vector<std::byte> plain_in_;
  std::vector<std::byte> plain_out_;
  std::vector<std::byte> source_;  ///< inputs are copied from somewhere in it
  std::size_t written_ = 0;
};

}  // namespace mixcomm::tools
