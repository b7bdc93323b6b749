#include "cuda/notices.hpp"

namespace mixcomm::cuda {
namespace {

using device::FailureRecord;

/// Ranks of the whole job, out of the members of the team of a failed operation.
__device__ std::uint64_t ranks_of(const NoticeArguments& a, std::uint32_t team_kind, std::uint64_t members) {
  const Team& team = a.teams[team_kind];
  std::uint64_t ranks = 0;
  for (int m = 0; m < team.size; ++m)
    if ((members >> static_cast<unsigned>(m) & 1U) != 0)
      ranks |= std::uint64_t{1} << static_cast<unsigned>(team.rank(m));
  return ranks;
}

__global__ void __launch_bounds__(max_ranks) begin_crossing(const __grid_constant__ NoticeArguments a) {
  NoticeMemory& memory = *a.memory;
  const unsigned peer = threadIdx.x;
  if ((a.peers >> peer & 1U) != 0) {
    Notice& notice = memory.out[peer];
    notice.crossing = ++memory.crossings[peer];
    notice.hash = a.hash;
    notice.failed = 0;
    notice.missing = 0;
    if (memory.claimed != 0) {
      notice.failed = memory.failed;
      notice.missing = memory.missing;
    } else if (a.local->failure_claimed != 0) {
      const volatile FailureRecord& failure = *a.failure;
      notice.failed = failure.kind != 0 ? failure.kind : std::uint32_t{FailureRecord::timeout};
      notice.missing =
          notice.failed == FailureRecord::timeout ? ranks_of(a, failure.team, failure.missing) : 0;
    }
    for (int i = 0; i < record_words; ++i) notice.call[i] = a.call[i];
  }
  if (peer != 0) return;
  volatile CrossingRecord& record = *a.record;
  record.peers = a.peers;
  for (int i = 0; i < record_words; ++i) record.call[i] = a.call[i];
  __threadfence_system();
  record.begun = ++memory.begun;
}

__device__ void copy(volatile Notice& to, const Notice& from) {
  to.crossing = from.crossing;
  to.hash = from.hash;
  to.failed = from.failed;
  to.missing = from.missing;
  for (int i = 0; i < record_words; ++i) to.call[i] = from.call[i];
}

__global__ void __launch_bounds__(max_ranks) end_crossing(const __grid_constant__ NoticeArguments a) {
  NoticeMemory& memory = *a.memory;
  const unsigned peer = threadIdx.x;
  volatile CrossingRecord& record = *a.record;
  const Notice& theirs = memory.in[peer];
  const bool looks = (a.peers >> peer & 1U) != 0;
  const bool good =
      !looks || (theirs.crossing == memory.crossings[peer] && theirs.hash == a.hash && theirs.failed == 0);
  if (!good && atomicExch(&memory.claimed, 1U) == 0) {
    const bool told = theirs.crossing >= memory.crossings[peer] && theirs.failed != 0;
    memory.failed =
        told ? static_cast<std::uint32_t>(theirs.failed) : std::uint32_t{FailureRecord::disagreement};
    memory.missing = told ? theirs.missing : 0;
    record.from = peer;
    copy(record.mine, memory.out[peer]);
    copy(record.theirs, theirs);
    __threadfence_system();
    record.complete = 1;
  }
  // What came is worth nothing: nobody of this host is to have it.
  if (__syncthreads_or(static_cast<int>(!good)) != 0) {
    for (unsigned i = peer; i < team_kinds * most_lanes; i += max_ranks)
      *static_cast<volatile std::uint32_t*>(&a.local->lanes[0][i].failed) = 1;
    if (peer == 0) atomicExch(&a.local->failure_claimed, 1U);
  }
  __threadfence_system();
  __syncthreads();
  if (peer == 0) record.done = memory.begun;
}

}  // namespace

void* begin_crossing_kernel() {
  return reinterpret_cast<void*>(begin_crossing);
}
void* end_crossing_kernel() {
  return reinterpret_cast<void*>(end_crossing);
}

}  // namespace mixcomm::cuda
