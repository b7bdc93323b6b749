#include "cuda/notice_findings.hpp"

#include <fmt/format.h>

#include <cstring>
#include <type_traits>

#include "failure_text.hpp"

namespace mixcomm::cuda {

using device::FailureRecord;

CallRecord record_of(const std::uint64_t (&words)[record_words]) {
  CallRecord record;
  static_assert(std::is_trivially_copyable_v<CallRecord> && sizeof(record) == sizeof(words));
  std::memcpy(static_cast<void*>(&record), words, sizeof(record));
  return record;
}

Finding NoticeReader::bad(int from, const Notice& theirs, const CallRecord& mine) const {
  const std::string call = record_of(theirs.call).describe();
  if (theirs.failed == FailureRecord::timeout && theirs.missing != 0)
    return {cpu::Failure::Kind::timeout, timeout_text(from, timeout, ranks_in(theirs.missing), call),
            theirs.missing};
  if (theirs.failed != 0)
    return {
        cpu::Failure::Kind::disagreement,
        fmt::format("rank {} has failed, and says so in {}: look at its output. The communicator is failed.",
                    from, call),
        0};
  return {cpu::Failure::Kind::disagreement, disagreement_text(from, call, rank, mine.describe()), 0};
}

Finding NoticeReader::so_far(const NoticeMemory& notices, RankSet peers) const {
  RankSet missing = 0;
  for (const int peer : ranks_in(peers)) {
    const Notice& theirs = notices.in[peer];
    const Notice& mine = notices.out[peer];
    if (theirs.crossing < mine.crossing)
      missing |= just(peer);
    else if (theirs.failed != 0 || theirs.hash != mine.hash)
      return bad(peer, theirs, record_of(mine.call));
  }
  return {cpu::Failure::Kind::timeout, "", missing != 0 ? missing : peers};
}

}  // namespace mixcomm::cuda
