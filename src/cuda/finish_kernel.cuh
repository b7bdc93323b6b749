// The kernels of one dtype for operations with an epilogue that are summed as those without one: the residual
// is one more addend, and whole rows are finished by the next kernel.
#pragma once

#include "cuda/finish_kernels.hpp"
#include "cuda/finish_rows.cuh"
#include "cuda/kernel_body.cuh"

namespace mixcomm::cuda {

template <class T, Body body, Way way>
__global__ void __launch_bounds__(most_threads_of(way), lanes_per_sm<way>)
    adding_operation(const __grid_constant__ AddArguments a) {
  using OverWire = typename ContextOf<T, body, way>::OverWire;
  using Context = MessageContext<T, body, is_one_shot(way), OverWire, true>;
  run_operation<Context, body, way>(a.call, a);
}

/// Finishes rows: behind an operation that has summed them, or by itself.
template <class T, bool adds, bool aligned>
__global__ void __launch_bounds__(most_finish_threads, 1)
    finish_rows(const __grid_constant__ FinishArguments a) {
  __shared__ FinishShared shared;
  Finish<T, adds, aligned> finish(a, shared);
  if (a.behind_operation) finish.load_weight();
  ptx::wait_for_previous_kernel();
  // Not before: a kernel that comes early takes place that other ranks' lanes on this device may wait for, and
  // there is room for one of them.
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
FinishKernelTable finish_kernels_of() {
  FinishKernelTable table;
  const auto set = [&]<Way way>() {
    if constexpr (has_dual(way))
      table.operations.of(Body::scatter, way) =
          reinterpret_cast<void*>(adding_operation<T, Body::scatter, way>);
    table.operations.of(Body::gather, way) =
        reinterpret_cast<void*>(adding_operation<T, Body::gather, way>);
  };
  set.template operator()<Way::one_shot_packets>();
  set.template operator()<Way::two_shot_packets>();
  set.template operator()<Way::one_shot_lines>();
  set.template operator()<Way::two_shot_lines>();
  table.finish = reinterpret_cast<void*>(finish_rows<T, false, true>);
  table.add_and_finish = reinterpret_cast<void*>(finish_rows<T, true, true>);
  table.finish_unaligned = reinterpret_cast<void*>(finish_rows<T, true, false>);
  return table;
}

}  // namespace mixcomm::cuda
