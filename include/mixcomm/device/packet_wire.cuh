// Packets: 16 bytes that one thread writes and reads at once, 8 of data and 8 for the number of the pass.
// PTX's memory model promises that they stay together, on any link.
#pragma once

#include "mixcomm/device/ptx.cuh"
#include "mixcomm/device/user_tile.cuh"
#include "mixcomm/device/workspace.hpp"

namespace MIXCOMM_API mixcomm {
namespace device {

/// A tile of a PacketWire is one packet, of one thread.
template <class T>
struct PacketWire {
  static constexpr Wire kind = Wire::packets;
  static constexpr bool is_wide = false;          ///< tiles are of several units
  static constexpr int threads = 1;               ///< of a tile
  static constexpr int elements = 8 / sizeof(T);  ///< of a tile
  static constexpr int batch = 8;                 ///< packets of a sum under way at a time
  static constexpr int depth_one_shot = 2;        ///< tiles on their way in or out at a time
  static constexpr int depth_two_shot = 4;
  using Data = Words<2>;
  using Received = ptx::Packet;
  template <class U>
  using User = UserTile<U, 2>;

  [[nodiscard]] __device__ static Data picked(const Data& loaded, Place /*begin*/) { return loaded; }
  /// What `count` elements, of whole tiles, take on the wire.
  [[nodiscard]] __device__ static std::size_t bytes_of(std::size_t count) { return count * (sizeof(T) * 2); }

  __device__ static void send(std::byte* to, const Data& data, std::uint64_t number) {
    ptx::store_packet(to, data.word[0] | static_cast<std::uint64_t>(data.word[1]) << 32U, number);
  }
  /// Before sends and looks: a thread goes by itself.
  __device__ static void gather_threads() {}
  /// Looks for a tile where `condition` holds.
  __device__ static void look_if(bool condition, const std::byte* at, Received& received) {
    ptx::load_packet_if(condition, at, received);
  }
  [[nodiscard]] __device__ static bool has(const Received& received, std::uint64_t number) {
    return received.number() == number;
  }
  [[nodiscard]] __device__ static Data data(const Received& received) {
    return {
        {static_cast<std::uint32_t>(received.data()), static_cast<std::uint32_t>(received.data() >> 32U)}};
  }
  /// What all threads of a tile have found in common. A packet's tile has one thread: what it has found.
  [[nodiscard]] __device__ static std::uint32_t agreed(std::uint32_t word) { return word; }
  /// Whether it holds for any thread that goes in step with this one. With packets, each goes by itself.
  [[nodiscard]] __device__ static bool any(bool mine) { return mine; }
  /// Whether a tile has come, for one thread that asks later.
  [[nodiscard]] __device__ static bool has_come(const std::byte* at, std::uint64_t number) {
    return ptx::load_packet(at).number() == number;
  }
};

}  // namespace device
}  // namespace mixcomm
