// One call of an operation, as ranks compare it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "mixcomm/communicator.hpp"

namespace mixcomm {

/// How peers reach a buffer.
struct Placement {
  enum class Kind : std::uint64_t {
    plain,      ///< they cannot: it is staged through the workspace
    symmetric,  ///< at `offset` of allocation `allocation`, on every rank
    in_place,   ///< it is the calling rank's block of the other buffer
  };
  Kind kind = Kind::plain;
  std::uint64_t allocation = 0;
  std::uint64_t offset = 0;
};

/// What all ranks of a call must share. Passive data of whole words, so that it can be published word by
/// word.
struct CallRecord {
  static constexpr std::size_t listed_rows = 8;
  std::uint64_t number = 0;  ///< how many calls this rank has made on this communicator, this one included
  Op op = Op::all_reduce;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::fp32;
  std::uint8_t rows_on_device = 0;  ///< then `rows` are the most there may be
  std::uint8_t unused[4] = {};
  std::uint64_t hidden = 0;
  std::uint64_t row_blocks = 0;          ///< how many blocks there are
  std::uint64_t rows[listed_rows] = {};  ///< of the first blocks
  std::uint64_t rows_hash = 0;           ///< of all blocks
  std::uint64_t epilogue = 0;            ///< record_of() it

  // Left plain where no rank touches a buffer of another: for one_shot, unless Call::reads_in_place.
  Placement all_blocks;  ///< of the buffer with all blocks
  Placement one_block;   ///< of the buffer with one block

  /// Equal for calls that agree.
  [[nodiscard]] std::uint32_t hash() const;
  /// "all_gather(rows [4, 0], hidden 4096, bf16, one_shot, in plain, out symmetric), its call 17"
  [[nodiscard]] std::string describe() const;
};

/// Folds one more value into a hash.
[[nodiscard]] constexpr std::uint64_t fold(std::uint64_t hash, std::uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15ULL;
  return hash ^ (hash >> 29U);
}

}  // namespace mixcomm
