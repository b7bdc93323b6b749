// The kernels of one dtype: the two bodies of each algorithm over a context.
#pragma once

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "cuda/barrier_context.cuh"
#include "cuda/kernels.hpp"
#include "cuda/packet_context.cuh"

namespace mixcomm::cuda {

/// Where kernels overlap and were tuned (Hopper), two lanes fit an SM; elsewhere registers are worth more.
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000 && !defined(MIXCOMM_MUTANTS)
inline constexpr int lanes_per_sm = 2;
#else
inline constexpr int lanes_per_sm = 1;
#endif

/// The pieces of all passes of all lanes: lane l takes piece l, l + lanes, ...
__device__ inline int piece_of_pass(int pass) {
  return static_cast<int>(pass * gridDim.x + blockIdx.x);
}

/// Brings the arguments into the constant cache.
__device__ inline void touch(const Arguments& a) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(&a);
  std::uint32_t seen = 0;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Arguments) / 4); i += 16) seen |= words[i];
  asm volatile("" ::"r"(seen));
}

/// The blocks that the host has cut, for all threads of the lane. Reads all arguments that are looked at
/// later on, too, while the previous kernel may still run: the first look at each takes long.
__device__ inline void take_blocks(LaneBlocks& blocks, const Arguments& a) {
  if (threadIdx.x <= a.grid.dp.size) blocks.take(a.blocks, static_cast<int>(threadIdx.x), piece_of_pass(0));
  touch(a);
  __syncthreads();
}

/// The same from row counts in device memory. False if they are not what the caller promised.
__device__ inline bool read_rows(LaneBlocks& blocks, const Arguments& a) {
  __shared__ bool fit;
  if (threadIdx.x == 0) {
    std::uint64_t total = 0;
    bool good = true;
    blocks.assign(a.grid.dp.size, [&](int d) {
      const std::int64_t rows = a.device_rows[d];
      good = good && rows >= 0 && rows <= a.most_rows_each;
      total += static_cast<std::uint64_t>(rows);
      return good ? static_cast<std::size_t>(rows) * a.hidden : std::size_t{0};
    });
    blocks.cut(static_cast<int>(gridDim.x * a.passes));
    blocks.cover(piece_of_pass(0));
    fit = good && total <= a.most_rows;
  }
  __syncthreads();
  return fit;
}

__device__ inline LaneState load_state(const LaneState& kept) {
  std::uint32_t words[4];
  ptx::load_once(&kept, words);
  return {words[0] | static_cast<std::uint64_t>(words[1]) << 32U, words[2], words[3]};
}

template <class T, bool gathers, Way way>
__global__ void __launch_bounds__(most_threads_of(way), lanes_per_sm)
    operation(const __grid_constant__ Arguments a) {
  constexpr bool one_shot = way == Way::one_shot_packets;
  __shared__ LaneBlocks blocks;
  const bool known = a.device_rows == nullptr;
  if (known) take_blocks(blocks, a);
  LaneState& kept = a.memory->lanes[a.team][blockIdx.x];
  std::conditional_t<in_packets(way), PacketContext<T, gathers, way>, BarrierContext<T, gathers, way>>
      context(a, blocks);
  if (known) context.prepare();
  ptx::wait_for_previous_kernel();
  context.begin();
  if (!known) {
    if (!read_rows(blocks, a)) {
      if (threadIdx.x == 0) context.fail(FailureRecord::row_counts, 0);
      return;
    }
    context.prepare();
  }
  context.prefetch();  // does not depend on the state, so both loads are under way together
  context.set_state(load_state(kept));
  for (int pass = 0;;) {
    context.begin_pass();
    if constexpr (gathers && one_shot) all_reduce_all_gather_one_shot(context, a.grid, blocks);
    if constexpr (gathers && !one_shot) all_reduce_all_gather_two_shot(context, a.grid, blocks);
    if constexpr (!gathers && one_shot) reduce_scatter_all_reduce_one_shot(context, a.grid, blocks);
    if constexpr (!gathers && !one_shot) reduce_scatter_all_reduce_two_shot(context, a.grid, blocks);
    context.end_pass();
    __syncthreads();  // all threads have loaded the state, and look at no blocks any more
    if (++pass == a.passes) break;
    if (threadIdx.x == 0) blocks.cover(piece_of_pass(pass));
    __syncthreads();
    context.prepare();
    context.prefetch();
  }
  if (threadIdx.x == 0) {
    kept.packets = context.packets();
    kept.barriers = context.barriers();
  }
}

/// All kernels of T.
template <class T>
KernelTable kernels_of() {
  KernelTable table;
  const auto set = [&]<Way way>() {
    table.kernel[0][static_cast<int>(way)] = reinterpret_cast<void*>(operation<T, false, way>);
    table.kernel[1][static_cast<int>(way)] = reinterpret_cast<void*>(operation<T, true, way>);
  };
  set.template operator()<Way::one_shot_packets>();
  set.template operator()<Way::two_shot_packets>();
  set.template operator()<Way::two_shot_barriers_few>();
  set.template operator()<Way::two_shot_barriers>();
  return table;
}

}  // namespace mixcomm::cuda
