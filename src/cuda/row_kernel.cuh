// The kernels of one dtype for operations with an epilogue: for each wire, body and algorithm.
#pragma once

#include "cuda/row_context.cuh"
#include "cuda/row_kernels.hpp"
#include "cuda/spread_rows.cuh"

namespace mixcomm::cuda {

template <class T>
using RowLines = LineWire<T, 2>;

template <class T, template <class> class WireOf, Body body, bool one_shot, bool held>
__global__ void __launch_bounds__(most_row_threads, 1) row_operation(const __grid_constant__ RowArguments a) {
  using Context = RowContext<T, WireOf, body, one_shot, held>;
  __shared__ SpreadRows rows;
  __shared__ typename Context::Shared shared;
  static_assert(sizeof(SpreadRows) + sizeof(typename Context::Shared) + most_image_bytes <= 48 << 10,
                "shared memory that every device gives without being asked for more");
  extern __shared__ uint4 images[];
  // As in operation(): ready while the previous kernel may still run, by row counts that may yet change.
  const bool counts_on_device = a.call.device_rows != nullptr;
  bool known = counts_on_device ? rows.guess(a.call) : rows.take(a.call);
  Context context(a, rows.blocks, shared, reinterpret_cast<std::byte*>(images));
  if (known) context.prepare();
  ptx::wait_for_previous_kernel();
  context.begin();
  context.set_state(load_state(a.call.memory->lanes[a.call.team][blockIdx.x]));
  if (counts_on_device && !(known && rows.guessed_right(a.call))) {
    known = rows.read(a.call);
    if (!known) {
      if (threadIdx.x == 0) context.fail(FailureRecord::row_counts, 0);
      return;
    }
    context.prepare();
  }
  std::uint32_t pass = 0;
  while (context.pass()) {
    if (++pass == a.call.passes) return;
    __syncthreads();  // no thread looks at the blocks any more
    if (threadIdx.x == 0) rows.cover(a.call, static_cast<int>(pass));
    __syncthreads();
    context.prepare();
  }
}

/// All kernels of T.
template <class T>
RowKernelTable row_kernels_of() {
  RowKernelTable table;
  const auto put = [&]<Body body, bool one_shot>() {
    table.of(RowKind::packets, body, one_shot) =
        reinterpret_cast<void*>(row_operation<T, PacketWire, body, one_shot, false>);
    table.of(RowKind::lines, body, one_shot) =
        reinterpret_cast<void*>(row_operation<T, RowLines, body, one_shot, false>);
    if constexpr (sizeof(T) == 2)
      table.of(RowKind::held, body, one_shot) =
          reinterpret_cast<void*>(row_operation<T, RowLines, body, one_shot, true>);
  };
  put.template operator()<Body::scatter, false>();
  put.template operator()<Body::scatter, true>();
  put.template operator()<Body::gather, false>();
  put.template operator()<Body::gather, true>();
  return table;
}

}  // namespace mixcomm::cuda
