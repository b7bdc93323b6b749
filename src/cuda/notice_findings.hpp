// What the notices of other hosts' ranks mean, on the host. Plain functions, without CUDA.
#pragma once

#include "call_record.hpp"
#include "cuda/notices.hpp"
#include "hosts/crossing.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

/// Who reads them: this rank, which waits for so long at most.
struct NoticeReader {
  int rank = 0;
  Milliseconds timeout = default_timeout;

  /// What to make of a notice that is not what it should be, in a call of mine.
  [[nodiscard]] Finding bad(int from, const Notice& theirs, const CallRecord& mine) const;

  /// Of a crossing with `peers` that is under way: those from which no notice has come; all, where each has
  /// sent one. With a text where a peer has sent one that is bad.
  [[nodiscard]] Finding so_far(const NoticeMemory& notices, RankSet peers) const;
};

[[nodiscard]] CallRecord record_of(const std::uint64_t (&words)[record_words]);

}  // namespace mixcomm::cuda
