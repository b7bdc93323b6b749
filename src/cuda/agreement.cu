// The debug option check_agreement: before each operation the ranks of its team send each other what they are
// about to run, word by word in packets, and compare.
#include "cuda/agreement.hpp"
#include "cuda/lane.cuh"

namespace mixcomm::cuda {
namespace {

class Agreement : public Lane {
 public:
  using Lane::Lane;

  /// Thread w of warp m: word w of the record that member m sent.
  __device__ void run(const RecordWords& mine) {
    __shared__ std::uint64_t theirs[most_ranks][record_words];
    __shared__ std::uint32_t different;
    if (threadIdx.x == 0) different = 0;
    __syncthreads();
    const int m = threadIdx.x / 32;
    const int w = threadIdx.x % 32;
    const std::uint64_t number = packets() + 1;
    if (m < members() && w < record_words) {
      ptx::store_packet(slot(m, me(), w, number), mine.word[w], number);
      ptx::Packet packet;
      for (;;) {
        packet = ptx::load_packet(slot(me(), m, w, number));
        if (packet.number() == number) break;
        if (!may_wait()) {
          give_up(std::uint64_t{1} << m);
          break;
        }
      }
      theirs[m][w] = packet.data();
      // Word 0 is the call's number, which differs between ranks that have made other calls on other teams.
      if (ok_ && w != 0 && packet.data() != mine.word[w]) atomicOr(&different, 1U << m);
    }
    __syncthreads();
    if (threadIdx.x != 0 || different == 0) return;
    const int other = __ffs(static_cast<int>(different)) - 1;
    auto& failure = static_cast<CallFailure&>(*a_.failure);
    for (int i = 0; i < record_words; ++i) {
      failure.mine[i] = mine.word[i];
      failure.theirs[i] = theirs[other][i];
    }
    fail(FailureRecord::disagreement, std::uint64_t{1} << other);
  }

 private:
  [[nodiscard]] __device__ std::byte* slot(int to, int from, int w, std::uint64_t number) const {
    return workspace(to) + record_slot(a_.workspace, static_cast<int>(number % 2), from, w);
  }
};

static_assert(record_words <= 32, "a warp sends a record");
static_assert(most_ranks * 32 <= 1024, "a warp per rank");

__global__ void __launch_bounds__(most_ranks * 32)
    agree(const __grid_constant__ Arguments a, const __grid_constant__ RecordWords mine) {
  auto& memory = static_cast<RankMemory&>(*a.memory);
  if (memory.lanes[a.team][0].failed != 0) return;
  LaneBlocks none;
  Agreement agreement(a, none);
  agreement.set_state({memory.agreements[a.team], 0, 0});
  agreement.run(mine);
  __syncthreads();
  if (threadIdx.x == 0) ++memory.agreements[a.team];
}

}  // namespace

void* agreement_kernel() {
  return reinterpret_cast<void*>(agree);
}

}  // namespace mixcomm::cuda
