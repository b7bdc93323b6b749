// In place of DeepSpeed's operation, compiled: an all_reduce of bf16 between two ranks, so that
// `mixcomm bench --against deepspeed` can be tested where DeepSpeed is not installed. MIXCOMM_TEST_WRONG
// makes its sums wrong.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tools/bench/peer.hpp"

namespace {

constexpr std::size_t most = 1 << 16;
struct Shared {
  std::atomic<int> arrived;
  std::uint16_t elements[2][most];
};
Shared* shared = nullptr;
int met = 0;

void meet() {
  shared->arrived.fetch_add(1);
  met += 2;
  while (shared->arrived.load() < met) usleep(0);
}

float value_of(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

}  // namespace

extern "C" void peer_init(int /*world*/, int /*rank*/, const char* name) {
  const int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
  if (ftruncate(fd, sizeof(Shared)) != 0) std::abort();
  shared = static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  close(fd);
}

extern "C" void* peer_run(const PeerCall* call) {
  const auto count = static_cast<std::size_t>(call->counts[0]);
  if (call->op != 0 || call->dtype != 0 || count > most) return nullptr;
  std::memcpy(shared->elements[call->rank], call->in, count * 2);
  meet();
  auto* out = static_cast<std::uint16_t*>(call->in);
  const float more = std::getenv("MIXCOMM_TEST_WRONG") != nullptr ? 1.0F : 0.0F;
  for (std::size_t i = 0; i < count; ++i) {
    const float sum = value_of(shared->elements[0][i]) + value_of(shared->elements[1][i]) + more;
    out[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(sum) >> 16U);  // exact
  }
  meet();
  return out;
}
