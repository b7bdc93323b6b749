// A kernel of one's own on mixcomm's device layer: out = scale * (sum of in over the ranks), added in fp32 in
// the order of the ranks and rounded once, the same bits on every rank.
#pragma once

#include <mixcomm/device/line_wire.cuh>
#include <mixcomm/device/messages.cuh>
#include <mixcomm/device/numbers.cuh>
#include <mixcomm/device/packet_wire.cuh>

#include <cstdint>

/// The sum of a thread's part of a tile, in fp32. It begins with -0.0, which added to anything changes
/// nothing.
template <class T, int words>
class Fp32Sum {
  using Numbers = mixcomm::device::Numbers<T>;
  static constexpr int per_word = Numbers::per_word;

 public:
  __device__ Fp32Sum() {
#pragma unroll
    for (int i = 0; i < words * per_word; ++i) sum_[i] = -0.0F;
  }
  __device__ void add(const mixcomm::device::Words<words>& data) {
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
      Numbers::unpack(data.word[w], value);
#pragma unroll
      for (int i = 0; i < per_word; ++i) sum_[w * per_word + i] += value[i];
    }
  }
  [[nodiscard]] __device__ mixcomm::device::Words<words> scaled(float scale) const {
    mixcomm::device::Words<words> result;
#pragma unroll
    for (int w = 0; w < words; ++w) {
      float value[per_word];
#pragma unroll
      for (int i = 0; i < per_word; ++i) value[i] = sum_[w * per_word + i] * scale;
      result.word[w] = Numbers::pack(value);
    }
    return result;
  }

 private:
  float sum_[words * per_word];
};

/// Launched by every rank with the same grid, `count` and `scale`. Of `count` elements each thread block
/// takes a part, in as many passes as its part of the workspace needs: in each it sends its tiles to all
/// ranks, and sums what has come of them. `in` may be `out`. Wire: device::PacketWire<T>, or over NVLink and
/// on one GPU device::LineWire<T, 1>, which sends fewer bytes.
template <class T, class Wire>
__global__ void __launch_bounds__(256)
    scaled_all_reduce(const __grid_constant__ mixcomm::device::Handle handle, const T* in, T* out,
                      std::uint32_t count, float scale) {
  using Data = typename Wire::Data;
  mixcomm::device::Messages<Wire> lane(handle);
  if (!lane.begin_launch()) return;

  constexpr std::uint32_t elements = Wire::elements;
  const std::uint32_t tiles = (count + elements - 1) / elements;
  const std::uint32_t of_lane = (tiles + gridDim.x - 1) / gridDim.x;
  const auto room = static_cast<std::uint32_t>(
      handle.workspace.lane_bytes / (lane.tile_bytes(1) * static_cast<std::size_t>(lane.members())));
  for (std::uint32_t done = 0; done < of_lane; done += room) {
    const std::uint32_t first = blockIdx.x * of_lane + done;
    const std::uint32_t here = min(room, of_lane - done);
    // Wire::threads threads next to each other have a tile together; where these are several, a warp goes in
    // step, also those of its threads that have none left.
    const auto each_tile = [&](const auto& f) {
      for (std::uint32_t j = threadIdx.x / Wire::threads; Wire::any(j < here);
           j += blockDim.x / Wire::threads)
        f(j, j < here && first + j < tiles);
    };
    // Where rank m's tile j lies in the workspace of whoever sums it.
    const auto place = [&](int m, std::uint32_t j) {
      return lane.tile_bytes(static_cast<std::size_t>(m) * room + j);
    };

    lane.begin_pass();
    each_tile([&](std::uint32_t j, bool there) {
      const std::uint32_t begin = (first + j) * elements;
      Data data{};
      if (there) data = Wire::picked(typename Wire::template User<const T>(in, count, begin).load(), begin);
      lane.send_to_all(there, place(lane.me(), j), data);
    });
    each_tile([&](std::uint32_t j, bool there) {
      Fp32Sum<T, Data::size> sum;
      for (int m = 0; m < lane.members(); ++m) sum.add(lane.receive_from(m, there, place(m, j)));
      if (there) typename Wire::template User<T>(out, count, (first + j) * elements).store(sum.scaled(scale));
    });
    lane.end_pass();
  }
  lane.end_launch();
}
