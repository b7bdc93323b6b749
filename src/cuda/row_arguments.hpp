// What the kernels with an epilogue are given beside an operation's arguments: plain data, shared by host and
// device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/arguments.hpp"
#include "mixcomm/epilogue.hpp"

namespace mixcomm::cuda {

/// The most threads of a lane that sums whole rows: one for each 32 bytes of a row of hidden 5760 in 16 bits.
/// More would have too few registers each.
inline constexpr int most_row_threads = 384;
/// The sums of squares of so many groups of columns are kept at a time.
inline constexpr int most_groups = 1024;
/// ... of which a tile of lines has so many, where elements have two bytes.
inline constexpr int groups_of_tile = 15;
/// What a thread holds of a tile.
inline constexpr int held_bytes = 32;
/// Shared memory for images of rows, at most: with what kernels have besides, no more than any device gives
/// without being asked for more.
inline constexpr std::size_t most_image_bytes = std::size_t{36} << 10U;

/// An epilogue's tensors, without their shapes.
struct EpilogueArguments {
  const void* residual = nullptr;      ///< null: none is added
  void* residual_out = nullptr;        ///< null: not wanted
  const void* weight = nullptr;        ///< null: no norm
  float* scales = nullptr;             ///< null: none are made
  const float* fixed_scale = nullptr;  ///< ... unless there is one
  float eps = 0;
  bool adds = false;  ///< residual and residual_out may be null where this rank has no rows
  bool keeps = false;
  bool weight_plus_one = false;
  Quantize quantize = Quantize::none;

  [[nodiscard]] MIXCOMM_HD bool norms() const { return weight != nullptr; }
  [[nodiscard]] MIXCOMM_HD bool quantizes() const { return quantize != Quantize::none; }
  /// Whether `out` holds anything else than the rounded sum.
  [[nodiscard]] MIXCOMM_HD bool changes() const { return norms() || quantizes(); }
};

/// Where images of a row lie behind each other, in bytes: what was summed, and what of it is FP8, if that
/// travels.
struct RowImages {
  std::uint32_t fp8 = 0;
  std::uint32_t scales = 0;
  std::uint32_t bytes = 0;  ///< of all
};

/// How rows' tiles are dealt to the teams of a lane: as many rows at a time as there are teams for, or else
/// one row in several steps.
struct RowDeal {
  std::uint32_t tiles = 0;  ///< of a row
  std::uint32_t rows_step = 1;
  std::uint32_t tiles_step = 0;
};

/// One operation with an epilogue. `call` counts rows where other operations count elements: its blocks are
/// of rows, and its `hidden` is 1.
struct RowArguments {
  Arguments call;
  EpilogueArguments epilogue;
  RowImages images;
  RowDeal deal;      ///< of rows that are summed
  RowDeal out_deal;  ///< of what comes out of them
  std::uint32_t hidden = 0;
  float one_over_hidden = 0;         ///< if that is exact, of a power of two: the same quotients, and quicker
  std::uint32_t weight_bytes = 0;    ///< before the images, for a copy of the norm's weight; 0: there is none
  std::uint32_t rows_at_once = 1;    ///< of which there are images at a time
  bool local = false;                ///< nobody hears of it: what is counted stays as it is
  bool images_in_workspace = false;  ///< they are too long for shared memory
};

}  // namespace mixcomm::cuda
