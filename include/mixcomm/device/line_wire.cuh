// Lines: 128 bytes that eight threads write and read at once, 120 of data and 8 for the number of the pass.
// Any bit pattern may be data. That they stay together is how NVLink and the L2 cache work (NCCL relies on it
// as well), not what PTX promises. So lines are for ranks that share a GPU, or whose GPUs NVLink joins.
#pragma once

#include "mixcomm/device/ptx.cuh"
#include "mixcomm/device/user_tile.cuh"
#include "mixcomm/device/workspace.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// A tile of a LineWire is `width` lines, of eight threads next to each other. Thread i has 16 bytes of each,
/// the last one 8 and the number.
template <class T, int width>
struct LineWire {
  static_assert(width <= 2, "blocks are cut at every second line, and tiles with them");
  static constexpr Wire kind = Wire::lines;
  static constexpr bool is_wide = width > 1;
  static constexpr int threads = 8;
  static constexpr int line_elements = 120 / static_cast<int>(sizeof(T));
  static constexpr int elements = width * line_elements;
  static constexpr int batch = is_wide ? 2 : 4;
  static constexpr int depth_one_shot = is_wide ? 2 : 1;
  static constexpr int depth_two_shot = 2;
  using Data = Words<4 * width>;
  struct Received {
    std::uint32_t word[width][4];
  };

  /// A thread's parts of a tile in the caller's buffer. Two lines hold 15 packs of 16 bytes: seven in each
  /// line, for threads 0 to 6, and one that is cut in two: thread 7 has its first half in the first line, and
  /// its second half in the second line.
  template <class U>
  class User {
   public:
    User() = default;
    __device__ User(U* block, std::size_t block_size, Place begin)
        : begin_(block + begin),
          left_(static_cast<int>(static_cast<Place>(block_size) - begin)),
          aligned_(reinterpret_cast<std::uintptr_t>(block) % 16 == 0),
          second_(begin % (2 * line_elements) != 0) {}
    /// What picked() takes. The last thread loads a whole pack, of which picked() takes half.
    __device__ Data load() const {
      Data all;
#pragma unroll
      for (int k = 0; k < width; ++k) {
        std::uint32_t words[4];
        const int at = pack_at(k);
        // Where a block ends there are few packs, and they must not take longer than the others.
        if (aligned_ && left_ - at >= pack) [[likely]]
          load_pack(begin_ + at, words);
        else
          load_elements(begin_ + at, there(at, pack), words, 4);
#pragma unroll
        for (int w = 0; w < 4; ++w) all.word[4 * k + w] = words[w];
      }
      return all;
    }
    __device__ void store(const Data& all) const {
#pragma unroll
      for (int k = 0; k < width; ++k) {
        std::uint32_t words[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) words[w] = all.word[4 * k + w];
        const int at = pack_at(k) + (is_last() && is_second(k) ? half : 0);
        const int wanted = is_last() ? half : pack;
        if (!aligned_ || left_ - at < wanted) [[unlikely]] {
          store_elements(begin_ + at, there(at, wanted), words, 4);
        } else if (is_last()) {
          const std::uint32_t two[2] = {words[0], words[1]};
          store_pack(begin_ + at, two);
        } else {
          store_pack(begin_ + at, words);
        }
      }
    }

   private:
    /// Whether line k of the tile is the second of its pair.
    [[nodiscard]] __device__ bool is_second(int k) const {
      return width == 2 ? k == 1 : second_;
    }
    /// Where this thread's pack of line k begins, in elements behind the tile's begin. Negative for the last
    /// thread of a second line: the first half of its pack is in the line before.
    [[nodiscard]] __device__ int pack_at(int k) const {
      const int line = k * line_elements;
      if (!is_second(k)) return line + thread() * pack;
      return line + (is_last() ? -half : half + thread() * pack);
    }
    [[nodiscard]] __device__ Place there(int at, int wanted) const {
      const int left = left_ - at;
      return left <= 0 ? 0 : left < wanted ? left : wanted;
    }

    U* begin_;
    int left_;  ///< of the block, from the tile on
    bool aligned_;
    bool second_;
  };

  /// From what load() loaded of the tile at `begin`, what this thread sends: the last thread only half of its
  /// pack.
  [[nodiscard]] __device__ static Data picked(Data loaded, Place begin) {
#pragma unroll
    for (int k = 0; k < width; ++k)
      if (is_last() && (width == 2 ? k == 1 : begin % (2 * line_elements) != 0)) {
        loaded.word[4 * k] = loaded.word[4 * k + 2];
        loaded.word[4 * k + 1] = loaded.word[4 * k + 3];
      }
    return loaded;
  }

  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t count) {
    return static_cast<std::size_t>(static_cast<Place>(count) / line_elements) * line_bytes;
  }

  __device__ static void send(std::byte* to, const Data& data, std::uint64_t number) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
      std::uint32_t words[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) words[w] = data.word[4 * k + w];
      if (is_last()) {
        words[2] = static_cast<std::uint32_t>(number);
        words[3] = static_cast<std::uint32_t>(number >> 32U);
      }
      ptx::store_part(to + k * line_bytes + thread() * 16, words);
    }
  }
  /// Before sends and looks: a line's parts must be written, and read, in one instruction. The four tiles of
  /// a warp go in step.
  __device__ static void gather_threads() {
    __syncwarp();
  }
  __device__ static void look_if(bool condition, const std::byte* at, Received& received) {
#pragma unroll
    for (int k = 0; k < width; ++k)
      ptx::load_part_if(condition, at + k * line_bytes + thread() * 16, received.word[k]);
  }
  /// For the last thread of the tile, which has the numbers.
  [[nodiscard]] __device__ static bool has(const Received& received, std::uint64_t number) {
    bool all = true;
#pragma unroll
    for (int k = 0; k < width; ++k)
      all = all && (received.word[k][2] | static_cast<std::uint64_t>(received.word[k][3]) << 32U) == number;
    return all;
  }
  [[nodiscard]] __device__ static Data data(const Received& received) {
    Data all;
#pragma unroll
    for (int w = 0; w < 4 * width; ++w) all.word[w] = received.word[w / 4][w % 4];
    return all;
  }
  /// What the last thread of each tile has found. Called by the whole warp.
  [[nodiscard]] __device__ static std::uint32_t agreed(std::uint32_t word) {
    return __shfl_sync(~0U, word, threads - 1, threads);
  }
  /// Whether it holds for any thread of the warp.
  [[nodiscard]] __device__ static bool any(bool mine) {
    return __any_sync(~0U, mine) != 0;
  }

  [[nodiscard]] __device__ static bool has_come(const std::byte* at, std::uint64_t number) {
    bool all = true;
    for (int k = 0; k < width; ++k)
      all = all && ptx::load_number(at + (k + 1) * line_bytes - sizeof(number)) == number;
    return all;
  }

 private:
  static constexpr int line_bytes = 128;
  static constexpr int pack = 16 / sizeof(T);
  static constexpr int half = pack / 2;
  [[nodiscard]] __device__ static int thread() {
    return static_cast<int>(threadIdx.x) % threads;
  }
  [[nodiscard]] __device__ static bool is_last() {
    return thread() == threads - 1;
  }
};

}  // namespace device
}  // namespace mixcomm
