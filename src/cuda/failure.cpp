#include "cuda/failure.hpp"

#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "cuda/driver.hpp"
#include "failure_text.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

CallRecord record_of(const std::uint64_t (&words)[record_words]) {
  CallRecord record;
  static_assert(std::is_trivially_copyable_v<CallRecord> && sizeof(record) == sizeof(words));
  std::memcpy(static_cast<void*>(&record), words, sizeof(words));
  return record;
}

}  // namespace

FailureBox::FailureBox(const Grid& grid, Milliseconds timeout) : grid_(grid), timeout_(timeout) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, sizeof(FailureRecord), cudaHostAllocMapped | cudaHostAllocPortable),
        "allocating host memory for failures");
  record_ = {new (memory) FailureRecord{}, [](FailureRecord* record) { cudaFreeHost(record); }};
  void* address = nullptr;
  check(cudaHostGetDevicePointer(&address, memory, 0), "mapping host memory for failures");
  device_address_ = static_cast<FailureRecord*>(address);
}

void FailureBox::rethrow() const {
  const FailureRecord& record = *record_;
  if (__atomic_load_n(&record.complete, __ATOMIC_ACQUIRE) == 0) return;
  const Op op = static_cast<Op>(record.op);
  const Team team = grid_of(grid_, shape_of(op).team).world;
  std::vector<int> ranks;
  for (int m = 0; m < team.size; ++m)
    if ((record.missing >> static_cast<unsigned>(m) & 1U) != 0) ranks.push_back(team.rank(m));
  switch (static_cast<FailureRecord::Kind>(record.kind)) {
    case FailureRecord::timeout:
      throw Timeout(timeout_text(grid_.rank(), timeout_, ranks,
                                 fmt::format("{}, its call {} (lane {}, step {})", name(op), record.number,
                                             record.lane, record.step)),
                    ranks);
    case FailureRecord::disagreement:
      throw Disagreement(disagreement_text(ranks.empty() ? -1 : ranks.front(),
                                           record_of(record.theirs).describe(), grid_.rank(),
                                           record_of(record.mine).describe()));
    case FailureRecord::row_counts:
      throw InvalidArgument(
          fmt::format("{}: the row counts in device memory are negative, larger than the 'most' given "
                      "with them, or more in total than the tensor with all rows has; nothing was "
                      "sent. The communicator is failed.",
                      name(op)));
    case FailureRecord::none:
      break;
  }
}

}  // namespace mixcomm::cuda
