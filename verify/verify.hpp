// Checks one call of an operation against an oracle of its own, with fresh inputs. Used by `mixcomm check`
// and by the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/mixcomm.hpp"

namespace mixcomm::verify {

enum class Buffers : std::uint8_t {
  plain,
  symmetric,
  mixed,  ///< one of both is symmetric
  in_place,
  symmetric_in_place,
};
[[nodiscard]] std::string_view name(Buffers buffers);

enum class Values : std::uint8_t {
  integers,  ///< small integers: every sum is exact in every dtype, so any order gives the same
  floats,    ///< random: the result must have the bits of the ordered sum
};

/// One call. `rows` has one count per DP rank.
struct Case {
  Op op = Op::all_reduce_all_gather;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::fp32;
  Buffers buffers = Buffers::plain;
  Values values = Values::integers;
  std::vector<std::size_t> rows;
  std::size_t hidden = 1;
  std::uint64_t seed = 0;  ///< another one for every call
};

[[nodiscard]] std::string describe(const Case& c);

/// The workspace to verify with: small, so that messages pass in chunks.
inline constexpr std::size_t workspace_bytes = std::size_t{64} << 10;

/// What one rank checks with: a communicator and symmetric memory for the largest case. Collective to make.
class Verifier {
 public:
  /// `most_elements`: of a tensor with all rows.
  Verifier(Communicator& communicator, std::size_t most_elements);

  /// Makes the call on this rank and compares every element, and what lies around `out`. Returns what is
  /// wrong, or "".
  [[nodiscard]] std::string run(const Case& c);

 private:
  Communicator& communicator_;
  SymmetricBuffer in_;
  SymmetricBuffer out_;
  std::vector<std::byte> plain_in_;
  std::vector<std::byte> plain_out_;
};

/// The cases of one grid, each with its own seed, the same on every rank: all operations, algorithms and
/// buffer kinds over row counts 0, 1, odd, uneven, idle DP ranks, and more than the smallest workspace.
struct Matrix {
  int tp = 1;
  int dp = 1;
  std::vector<Op> ops;                ///< empty: all
  std::vector<Algorithm> algorithms;  ///< empty: automatic, one_shot, two_shot, composed
  std::vector<DType> dtypes;          ///< empty: all
  bool large = true;                  ///< with messages of several passes of the smallest workspace
};
[[nodiscard]] std::vector<Case> cases_of(const Matrix& matrix);

/// The elements of the largest case's tensor with all rows.
[[nodiscard]] std::size_t most_elements(const std::vector<Case>& cases, int dp);

}  // namespace mixcomm::verify
