// The kernels of one dtype: the two bodies of each algorithm over a context.
#pragma once

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "cuda/barrier_context.cuh"
#include "cuda/kernels.hpp"
#include "cuda/lane_rows.cuh"
#include "cuda/message_context.cuh"

namespace mixcomm::cuda {

/// How many lanes of `most_threads_of(way)` threads fit an SM: two of 256 where kernels overlap and were
/// tuned (Hopper) and leave room for each other; elsewhere registers are worth more.
template <Way way>
inline constexpr int lanes_per_sm =
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1000
    has_mutants || most_threads_of(way) > 256 ? 1 : 2;
#else
    1;
#endif

template <class T, Body body, Way way>
struct ContextOf {
  using Packets = PacketWire<T>;
  using Lines = LineWire<T, is_wide(way) ? 2 : 1>;
  using OverWire = std::conditional_t<over_lines(way), Lines, Packets>;
  using type =
      std::conditional_t<over_barriers(way), BarrierContext<T, body, way == Way::two_shot_barriers_few>,
                         MessageContext<T, body, is_one_shot(way), OverWire>>;
};

/// What a kernel asks of a context, beside the algorithm's verbs.
///
/// - prepare(): what can be made ready of a pass before the previous kernel is complete.
/// - begin(): the previous kernel is complete.
/// - prefetch(): loads that do not depend on the lane's state begin.
/// - set_state(state): what the lane counts, as loaded.
/// - begin_pass(), end_pass(): around each pass's body.
/// - end(): after the last pass; the lane's next operation knows where it begins.
template <class C>
concept KernelContext = requires(C c, const LaneState& state) {
  c.prepare();
  c.begin();
  c.prefetch();
  c.set_state(state);
  c.begin_pass();
  c.end_pass();
  c.end();
};

/// Brings the arguments into the constant cache.
__device__ inline void touch(const Arguments& a) {
  const auto* words = reinterpret_cast<const std::uint32_t*>(&a);
  std::uint32_t seen = 0;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Arguments) / 4); i += 16) seen |= words[i];
  ptx::keep(seen);
}

template <class T, Body body, Way way>
__global__ void __launch_bounds__(most_threads_of(way), lanes_per_sm<way>)
    operation(const __grid_constant__ Arguments a) {
  constexpr bool gathers = body == Body::gather;
  constexpr bool one_shot = is_one_shot(way);
  using Context = typename ContextOf<T, body, way>::type;
  static_assert(KernelContext<Context>);
  __shared__ LaneRows rows;
  // While the previous kernel may still run: the first look at each argument takes long. Each part stands
  // here once: code that has to be fetched takes time, too.
  const bool counts_on_device = a.device_rows != nullptr;
  bool known = counts_on_device ? rows.guess(a) : rows.take(a);
  touch(a);
  Context context(a, rows.blocks);
  bool begun = false;
  std::uint32_t pass = 0;
  for (;;) {
    if (known) context.prepare();
    if (!begun) {
      ptx::wait_for_previous_kernel();
      context.begin();
    }
    if (known) context.prefetch();  // does not depend on the state, so all loads are under way together
    if (!begun) {
      begun = true;
      context.set_state(load_state(a.memory->lanes[a.team][blockIdx.x]));
      if (counts_on_device && !(known && rows.guessed_right(a))) {
        known = rows.read(a);
        if (known) continue;
        if (threadIdx.x == 0) context.fail(FailureRecord::row_counts, 0);
        return;
      }
    }
    context.begin_pass();
    if constexpr (gathers && one_shot) all_reduce_all_gather_one_shot(context, a.grid, rows.blocks);
    if constexpr (gathers && !one_shot) all_reduce_all_gather_two_shot(context, a.grid, rows.blocks);
    if constexpr (!gathers && one_shot) reduce_scatter_all_reduce_one_shot(context, a.grid, rows.blocks);
    if constexpr (!gathers && !one_shot) reduce_scatter_all_reduce_two_shot(context, a.grid, rows.blocks);
    context.end_pass();
    if (++pass == a.passes) break;
    __syncthreads();  // no thread looks at the blocks any more
    if (threadIdx.x == 0) rows.cover(static_cast<int>(pass));
    __syncthreads();
  }
  context.end();
}

/// All kernels of T.
template <class T>
KernelTable kernels_of() {
  KernelTable table;
  const auto set = [&]<Way way>() {
    if constexpr (has_dual(way))
      table.of(Body::scatter, way) = reinterpret_cast<void*>(operation<T, Body::scatter, way>);
    table.of(Body::gather, way) = reinterpret_cast<void*>(operation<T, Body::gather, way>);
  };
  set.template operator()<Way::one_shot_packets>();
  set.template operator()<Way::two_shot_packets>();
  set.template operator()<Way::one_shot_lines>();
  set.template operator()<Way::one_shot_lines_wide>();
  set.template operator()<Way::two_shot_lines>();
  set.template operator()<Way::two_shot_lines_wide>();
  set.template operator()<Way::two_shot_barriers_few>();
  set.template operator()<Way::two_shot_barriers>();
  return table;
}

}  // namespace mixcomm::cuda
