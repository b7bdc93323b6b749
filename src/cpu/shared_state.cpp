#include "cpu/shared_state.hpp"

#include <algorithm>
#include <cstring>
#include <thread>

#include "mixcomm/error.hpp"

namespace mixcomm::cpu {

void CallLog::post(const CallRecord& record) {
  std::array<std::uint64_t, words> copy{};
  std::memcpy(copy.data(), &record, sizeof(record));
  auto& slot = word[record.number % slots];
  slot[0].store(0, std::memory_order_release);  // CallRecord::number: not valid while the rest changes
  for (std::size_t i = 1; i < words; ++i) slot[i].store(copy[i], std::memory_order_release);
  slot[0].store(copy[0], std::memory_order_release);
  latest.store(record.number, std::memory_order_release);
}

bool CallLog::read(std::uint64_t number, CallRecord& record) const {
  const auto& slot = word[number % slots];
  if (slot[0].load(std::memory_order_acquire) != number) return false;
  std::array<std::uint64_t, words> copy{};
  copy[0] = number;
  for (std::size_t i = 1; i < words; ++i) copy[i] = slot[i].load(std::memory_order_acquire);
  if (slot[0].load(std::memory_order_acquire) != number) return false;
  std::memcpy(static_cast<void*>(&record), copy.data(), sizeof(record));
  return true;
}

void Failure::record(Kind what, const std::string& message, RankSet missing_ranks) {
  std::uint32_t none = 0;
  if (!state.compare_exchange_strong(none, 1)) return;
  const std::size_t n = std::min(message.size(), text.size() - 1);
  for (std::size_t i = 0; i < n; ++i) text[i].store(message[i], std::memory_order_relaxed);
  text[n].store('\0', std::memory_order_relaxed);
  kind.store(static_cast<std::uint32_t>(what), std::memory_order_relaxed);
  missing.store(missing_ranks, std::memory_order_relaxed);
  state.store(2, std::memory_order_release);
}

void Failure::rethrow() const {
  if (state.load(std::memory_order_acquire) == 0) return;
  // The writer fills in a kilobyte; if it was killed there, what it had found is lost, not the fact of the
  // failure.
  for (int i = 0; i < 1000 && state.load(std::memory_order_acquire) != 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::string message;
  for (const auto& c : text) {
    const char letter = c.load(std::memory_order_relaxed);
    if (letter == '\0') break;
    message += letter;
  }
  if (message.empty())
    message = "the communicator failed on another rank, which ended before it could say why";
  const std::vector<int> ranks = ranks_in(missing.load(std::memory_order_relaxed));
  switch (static_cast<Kind>(kind.load(std::memory_order_relaxed))) {
    case Kind::disagreement:
      throw Disagreement(message);
    case Kind::gone:
      throw PeerGone(message, ranks);
    default:
      throw Timeout(message, ranks);
  }
}

}  // namespace mixcomm::cpu
