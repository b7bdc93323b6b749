#include "cuda/failure.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "cuda/driver.hpp"
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
      throw Timeout(
          fmt::format(
              "rank {} waited {} ms for rank{} {} in {}, its call {} (lane {}, step {}). It may have ended, "
              "hang, or be "
              "in other work: look at its output; if it is only slow, raise the communicator's timeout. The "
              "communicator is failed.",
              grid_.rank(), timeout_.count(), ranks.size() == 1 ? "" : "s", fmt::join(ranks, ", "), name(op),
              record.number, record.lane, record.step),
          ranks);
    case FailureRecord::disagreement:
      throw Disagreement(
          fmt::format("rank {} calls {}, but rank {} calls {}. Every rank of a communicator makes the "
                      "same calls, with the same rows, hidden, dtype, algorithm and kind of buffers, in "
                      "the same order. The communicator is failed.",
                      ranks.empty() ? -1 : ranks.front(), record_of(record.theirs).describe(), grid_.rank(),
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
