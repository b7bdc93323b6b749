// What notices of other hosts' ranks mean to who waits for them.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "cuda/notice_findings.hpp"

namespace mixcomm::cuda {
namespace {

using device::FailureRecord;

CallRecord call_with(std::uint64_t rows) {
  CallRecord record;
  record.number = 7;
  record.op = Op::all_gather;
  record.row_blocks = 2;
  record.rows[0] = rows;
  record.rows_hash = fold(0, rows);
  return record;
}

Notice notice(std::uint64_t crossing, const CallRecord& call) {
  Notice result{};
  result.crossing = crossing;
  result.hash = hash_between_hosts(call);
  std::memcpy(result.call, &call, sizeof(call));
  return result;
}

/// Rank 0 in its fifth crossing with ranks 4 and 8, of which nobody has sent anything yet.
struct Waiting {
  NoticeReader reader{.rank = 0, .timeout = Milliseconds(500)};
  std::unique_ptr<NoticeMemory> notices = std::make_unique<NoticeMemory>();
  RankSet peers = just(4) | just(8);

  Waiting() {
    for (const int peer : ranks_in(peers)) {
      notices->out[peer] = notice(5, call_with(3));
      notices->in[peer] = notice(4, call_with(2));  // the one before
    }
  }
  [[nodiscard]] Finding now() const { return reader.so_far(*notices, peers); }
};

TEST(Notices, WhoHasSentNoneIsMissing) {
  Waiting waiting;
  EXPECT_EQ(waiting.now().missing, waiting.peers);
  waiting.notices->in[4] = notice(5, call_with(3));
  EXPECT_EQ(waiting.now().missing, just(8));
  EXPECT_EQ(waiting.now().text, "");
  waiting.notices->in[8] = notice(5, call_with(3));  // then it is data that are missing
  EXPECT_EQ(waiting.now().missing, waiting.peers);
}

TEST(Notices, WhoHasFailedNamesOthers) {
  Waiting waiting;
  waiting.notices->in[4] = notice(5, call_with(3));
  waiting.notices->in[4].failed = FailureRecord::timeout;
  waiting.notices->in[4].missing = just(5);
  const Finding finding = waiting.now();
  EXPECT_EQ(finding.kind, cpu::Failure::Kind::timeout);
  EXPECT_EQ(finding.missing, just(5));
  EXPECT_NE(finding.text.find("rank 4 waited 500 ms for rank 5 in all_gather(rows [3"), std::string::npos)
      << finding.text;
}

/// It is in no call that one could compare.
TEST(Notices, TheLastOneCountsInAnyCrossing) {
  Waiting waiting;
  waiting.notices->in[8] = notice(last_notice, call_with(2));
  waiting.notices->in[8].failed = FailureRecord::timeout;
  waiting.notices->in[8].missing = just(9) | just(10);
  EXPECT_EQ(waiting.now().missing, just(9) | just(10));
  waiting.notices->in[8].failed = FailureRecord::row_counts;
  const Finding finding = waiting.now();
  EXPECT_EQ(finding.missing, 0U);
  EXPECT_NE(finding.text.find("rank 8 has failed"), std::string::npos) << finding.text;
}

TEST(Notices, OtherCallsAreShown) {
  Waiting waiting;
  waiting.notices->in[4] = notice(5, call_with(6));
  const Finding finding = waiting.now();
  EXPECT_EQ(finding.kind, cpu::Failure::Kind::disagreement);
  for (const char* part : {"rank 4 calls all_gather(rows [6", "rank 0 calls all_gather(rows [3"})
    EXPECT_NE(finding.text.find(part), std::string::npos) << finding.text;
}

TEST(Notices, ThePartOfTheHostIsNoMatterOfOtherHosts) {
  CallRecord here = call_with(3);
  CallRecord there = here;
  there.algorithm = Algorithm::two_shot;
  there.all_blocks.kind = Placement::Kind::symmetric;
  EXPECT_EQ(hash_between_hosts(here), hash_between_hosts(there));
  there.dtype = DType::bf16;
  EXPECT_NE(hash_between_hosts(here), hash_between_hosts(there));
}

}  // namespace
}  // namespace mixcomm::cuda
