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
  check(cudaHostAlloc(&memory, sizeof(CallFailure), cudaHostAllocMapped | cudaHostAllocPortable),
        "allocating host memory for failures");
  record_ = {new (memory) CallFailure{}, [](CallFailure* record) { cudaFreeHost(record); }};
  void* address = nullptr;
  check(cudaHostGetDevicePointer(&address, memory, 0), "mapping host memory for failures");
  device_address_ = static_cast<CallFailure*>(address);
}

void FailureBox::rethrow() const {
  const CallFailure& record = *record_;
  if (__atomic_load_n(&record.complete, __ATOMIC_ACQUIRE) == 0) return;
  const bool own = record.op == device::own_kernel;
  const std::string what(own ? "a kernel on lanes of device_lanes()" : name(static_cast<Op>(record.op)));
  const Team team = grid_of(grid_, static_cast<TeamKind>(record.team)).world;
  std::vector<int> ranks;
  for (int m = 0; m < team.size; ++m)
    if ((record.missing >> static_cast<unsigned>(m) & 1U) != 0) ranks.push_back(team.rank(m));
  switch (static_cast<FailureRecord::Kind>(record.kind)) {
    case FailureRecord::timeout:
      throw Timeout(timeout_text(grid_.rank(), timeout_, ranks,
                                 fmt::format("{}, its call {} (lane {}, step {})", what, record.number,
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
                      what));
    case FailureRecord::none:
      break;
  }
}

}  // namespace mixcomm::cuda
