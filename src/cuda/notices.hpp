// What ranks on two hosts tell each other beside their data, and the kernels that write and read it.
#pragma once

#include <cstdint>

#include "cuda/workspace.hpp"
#include "mixcomm/device/handle.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::cuda {

/// From one rank to another, with each crossing between the two.
struct Notice {
  std::uint64_t crossing;  ///< how many there were between the two, this one included; or last_notice
  std::uint64_t hash;      ///< of the call: hash_between_hosts()
  std::uint64_t
      failed;  ///< a device::FailureRecord::Kind: the sender has failed, and its data are worth nothing
  std::uint64_t missing;             ///< ... of a timeout: who is missing, ranks of the whole job
  std::uint64_t call[record_words];  ///< its record
};

/// The number of what a rank says that has failed: nothing else comes from it.
inline constexpr std::uint64_t last_notice = ~std::uint64_t{0};

/// In the rank's own device memory, by rank of the whole job. NCCL sends `out` and `last`, and receives `in`.
struct NoticeMemory {
  Notice out[max_ranks];
  Notice in[max_ranks];
  Notice last;
  std::uint64_t crossings[max_ranks];
  std::uint64_t begun;
  std::uint32_t claimed;  ///< somebody describes a bad notice in the record
  std::uint32_t failed;   ///< the kind and `missing` of the first bad notice: passed on
  std::uint64_t missing;
};

/// In host memory that the device writes.
struct CrossingRecord {
  std::uint64_t begun;               ///< how many crossings have begun on the stream
  std::uint64_t done;                ///< ... are through
  std::uint64_t peers;               ///< with whom the last one is; ranks of the whole job
  std::uint64_t call[record_words];  ///< of the last one
  std::uint32_t complete;            ///< 1 once the rest is there: a bad notice has come
  std::uint32_t from;
  Notice mine;
  Notice theirs;
};

/// What the kernels before and behind a crossing are given.
struct NoticeArguments {
  std::uint64_t peers = 0;  ///< ranks of the whole job
  std::uint64_t hash = 0;
  std::uint64_t call[record_words] = {};
  NoticeMemory* memory = nullptr;
  CrossingRecord* record = nullptr;
  device::RankMemory* local = nullptr;  ///< of the kernels within the host
  const device::FailureRecord* failure = nullptr;
  Team teams[team_kinds];  ///< this rank's, within its host, in ranks of the whole job
};

/// Take NoticeArguments; one block of max_ranks threads. The first one writes notices to all
/// peers. The second one looks at those that have come: where one is not what it should be, it says so in the
/// record, and this rank's kernels within the host leave.
[[nodiscard]] void* begin_crossing_kernel();
[[nodiscard]] void* end_crossing_kernel();

}  // namespace mixcomm::cuda
