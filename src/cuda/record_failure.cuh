// How a kernel tells its host of a failure, and all other kernels of its rank to leave.
#pragma once

#include "cuda/arguments.hpp"

namespace mixcomm::cuda {

/// The first failure of a rank is described to its host; all of its lanes leave.
__device__ inline void record_failure(const Arguments& a, FailureRecord::Kind kind, std::uint64_t missing,
                                      std::uint64_t step) {
  RankMemory& memory = *a.memory;
  if (atomicExch(&memory.failure_claimed, 1U) == 0) {
    volatile FailureRecord& record = *a.failure;
    record.kind = kind;
    record.op = a.op;
    record.lane = blockIdx.x;
    record.number = a.number;
    record.step = step;
    record.missing = missing;
    __threadfence_system();
    record.complete = 1;
  }
  LaneState* const lanes = memory.lanes[0];
#pragma unroll 1
  for (int i = 0; i < team_kinds * most_lanes; ++i)
    *static_cast<volatile std::uint32_t*>(&lanes[i].failed) = 1;
  __threadfence_system();
}

}  // namespace mixcomm::cuda
