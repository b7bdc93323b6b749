// The kernels of one dtype for operations with an epilogue that are summed as those without one: the residual
// is one more addend, and whole rows are finished behind it, by the lane that has them or by the next kernel.
#pragma once

#include "algorithms/one_shot.hpp"
#include "algorithms/two_shot.hpp"
#include "cuda/finish_rows.cuh"
#include "cuda/kernel_body.cuh"
#include "cuda/tail_kernels.hpp"

namespace mixcomm::cuda {

/// As LaneRows, but cut as the arguments say. Where lanes have whole rows, each block's pieces begin with the
/// lane behind the last one that the block before it needs. In shared memory; all threads of the lane call all
/// of this together, but for cover().
struct TailRows : LaneRows {
  __device__ bool take(const TailArguments& a) {
    const bool known = LaneRows::take(a.call);
    return a.whole_rows ? spread(a, known) : known;
  }
  __device__ bool guess(const TailArguments& a) {
    const bool known = LaneRows::guess(a.call);
    if (threadIdx.x == 0)
      blocks.cut_alike(static_cast<int>(gridDim.x * a.call.passes), a.run, a.call.blocks.step(),
                       static_cast<int>(a.call.grid.tp.size));
    return spread(a, known);
  }
  __device__ bool read(const TailArguments& a) {
    __syncthreads();  // all have compared
    return guess(a);
  }
  /// Covers the lane's pieces of a pass. By one thread.
  __device__ void cover(const TailArguments& a, int pass) {
    const std::uint32_t pieces = gridDim.x * a.call.passes;
    const std::uint32_t piece = static_cast<std::uint32_t>(pass) * gridDim.x + blockIdx.x;
    blocks.cover_each([&](int d) {
      const std::uint32_t first =
          a.whole_rows ? static_cast<std::uint32_t>(blocks.offset(d) / a.run) % pieces : 0;
      return static_cast<int>(piece >= first ? piece - first : piece + pieces - first);
    });
  }

 private:
  __device__ bool spread(const TailArguments& a, bool known) {
    if (threadIdx.x == 0) cover(a, 0);
    __syncthreads();
    return known;
  }
};

/// Finishes the rows that this lane has summed, behind all passes: nothing of those is held any more. Nothing,
/// if a thread has left in vain: a row may not be whole. By all threads.
template <class T, bool gathers>
__device__ void finish_lane(const TailArguments& a, TailRows& rows, FinishShared& shared) {
  if (__syncthreads_count(1) != static_cast<int>(blockDim.x)) return;
  const LaneBlocks& blocks = rows.blocks;
  Finish<T, false, true> finish(a.finish, shared);
  finish.load_weight();
  const auto teams = static_cast<Place>(blockDim.x / finish_threads);
  const auto team = static_cast<Place>(threadIdx.x / finish_threads);
  int turn = 0;
  MIXCOMM_ROLLED
  for (std::uint32_t pass = 0; pass < a.call.passes; ++pass) {
    if (a.call.passes > 1) {
      __syncthreads();
      if (threadIdx.x == 0) rows.cover(a, static_cast<int>(pass));
      __syncthreads();
    }
    const int first = gathers ? 0 : a.call.grid.dp.member;
    const int last = gathers ? a.call.grid.dp.size - 1 : first;
    MIXCOMM_ROLLED
    for (int d = first; d <= last; ++d) {
      const auto here = static_cast<Place>(blocks.size(d)) / a.finish.hidden;
      const std::size_t begin =
          blocks.start(gathers ? Coordinates::all_blocks : Coordinates::one_block, d) / a.finish.hidden;
      MIXCOMM_ROLLED
      for (Place from = 0; from < here; from += teams, turn ^= 1) {
        const bool there = from + team < here;
        finish(finish_row<T>(a.finish, begin + from + (there ? team : 0), there), turn);
      }
    }
  }
}

template <class T, Body body, Way way>
__global__ void __launch_bounds__(most_threads_of(way), lanes_per_sm<way>)
    operation_with_tail(const __grid_constant__ TailArguments a) {
  constexpr bool gathers = body == Body::gather;
  constexpr bool one_shot = is_one_shot(way);
  using OverWire = typename ContextOf<T, body, way>::OverWire;
  using Context = MessageContext<T, body, one_shot, OverWire, true>;
  static_assert(KernelContext<Context>);
  __shared__ TailRows rows;
  __shared__ FinishShared shared;
  // As in operation().
  const bool counts_on_device = a.call.device_rows != nullptr;
  bool known = counts_on_device ? rows.guess(a) : rows.take(a);
  touch(a.call);
  Context context(a, rows.blocks);
  bool begun = false;
  std::uint32_t pass = 0;
  for (;;) {
    if (known) context.prepare();
    if (!begun) {
      ptx::wait_for_previous_kernel();
      context.begin();
    }
    if (known) context.prefetch();
    if (!begun) {
      begun = true;
      context.set_state(load_state(a.call.memory->lanes[a.call.team][blockIdx.x]));
      if (counts_on_device && !(known && rows.guessed_right(a.call))) {
        known = rows.read(a);
        if (known) continue;
        if (threadIdx.x == 0) context.fail(FailureRecord::row_counts, 0);
        return;
      }
    }
    context.begin_pass();
    if constexpr (gathers && one_shot) all_reduce_all_gather_one_shot(context, a.call.grid, rows.blocks);
    if constexpr (gathers && !one_shot) all_reduce_all_gather_two_shot(context, a.call.grid, rows.blocks);
    if constexpr (!gathers && one_shot) reduce_scatter_all_reduce_one_shot(context, a.call.grid, rows.blocks);
    if constexpr (!gathers && !one_shot)
      reduce_scatter_all_reduce_two_shot(context, a.call.grid, rows.blocks);
    context.end_pass();
    if (++pass == a.call.passes) break;
    __syncthreads();  // no thread looks at the blocks any more
    if (threadIdx.x == 0) rows.cover(a, static_cast<int>(pass));
    __syncthreads();
  }
  context.end();
  if (a.whole_rows) finish_lane<T, gathers>(a, rows, shared);
}

/// Finishes rows: behind an operation that has summed them, or by itself.
template <class T, bool adds, bool aligned>
__global__ void __launch_bounds__(most_finish_threads, 1)
    finish_rows(const __grid_constant__ FinishArguments a) {
  __shared__ FinishShared shared;
  Finish<T, adds, aligned> finish(a, shared);
  if (a.behind_operation) finish.load_weight();
  ptx::wait_for_previous_kernel();
  ptx::let_next_kernel_start();
  if (!a.behind_operation) finish.load_weight();
  std::uint64_t rows = a.rows;
  if (a.device_rows != nullptr) {
    std::uint64_t there = 0;
    MIXCOMM_ROLLED
    for (std::uint32_t d = 0; d < a.count; ++d) there += ptx::load_number(a.device_rows + d);
    rows = there < rows ? there : rows;  // more were refused
  }
  const std::uint64_t teams = blockDim.x / finish_threads;
  const std::uint64_t team = threadIdx.x / finish_threads;
  int turn = 0;
  MIXCOMM_ROLLED
  for (std::uint64_t from = blockIdx.x * teams; from < rows; from += gridDim.x * teams, turn ^= 1) {
    const bool there = from + team < rows;
    finish(finish_row<T>(a, there ? from + team : from, there), turn);
  }
}

/// All kernels of T.
template <class T>
TailKernelTable tail_kernels_of() {
  TailKernelTable table;
  const auto set = [&]<Way way>() {
    if constexpr (has_dual(way))
      table.operations.of(Body::scatter, way) =
          reinterpret_cast<void*>(operation_with_tail<T, Body::scatter, way>);
    table.operations.of(Body::gather, way) =
        reinterpret_cast<void*>(operation_with_tail<T, Body::gather, way>);
  };
  set.template operator()<Way::one_shot_packets>();
  set.template operator()<Way::two_shot_packets>();
  set.template operator()<Way::one_shot_lines>();
  set.template operator()<Way::two_shot_lines>();
  set.template operator()<Way::two_shot_lines_wide>();
  table.finish = reinterpret_cast<void*>(finish_rows<T, false, true>);
  table.add_and_finish = reinterpret_cast<void*>(finish_rows<T, true, true>);
  table.finish_unaligned = reinterpret_cast<void*>(finish_rows<T, true, false>);
  return table;
}

}  // namespace mixcomm::cuda
