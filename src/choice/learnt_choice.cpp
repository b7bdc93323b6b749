#include "choice/learnt_choice.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace mixcomm {
namespace {

/// From which call on which work is done by which algorithm.
std::uint64_t pack(std::uint32_t call, std::size_t work, Algorithm algorithm) {
  return static_cast<std::uint64_t>(call) << 32U | static_cast<std::uint64_t>(work) << 8U |
         static_cast<std::uint64_t>(algorithm);
}

std::size_t number(Algorithm algorithm) {
  return static_cast<std::size_t>(algorithm);
}

}  // namespace

LearntChoice::LearntChoice(std::vector<LearningNotes*> notes, int member)
    : notes_(std::move(notes)), member_(member), known_(ops * 4 * sizes) {}

std::size_t LearntChoice::index(const Work& work) {
  const std::size_t kind =
      static_cast<std::size_t>(work.op) * 4 + (work.epilogue ? 2 : 0) + (work.symmetric ? 1 : 0);
  return kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
}

Algorithm LearntChoice::begin(const Work& work, std::span<const Algorithm> candidates) {
  ++calls_;
  const std::size_t parity = calls_ % 2;
  auto& changes = notes_.front()->changes;
  const std::uint64_t said = changes[1 - parity].load(std::memory_order_acquire);
  if (said != 0 && static_cast<std::uint32_t>(said >> 32U) == calls_)
    known_[said >> 8U & 0xFFFFFFU].runs = static_cast<Algorithm>(said & 0xFFU);

  const std::size_t which = index(work);
  Known& known = known_[which];
  // Candidates may be fewer than when it was decided: then the first one is run.
  const auto found = std::find(candidates.begin(), candidates.end(), known.runs);
  const Algorithm runs = found == candidates.end() ? candidates.front() : known.runs;
  if (member_ == 0) {
    learn(ran_[parity], parity);
    ++known.calls;
    if (const Algorithm wanted = next(known, candidates); wanted != runs)
      changes[parity].store(pack(calls_ + 1, which, wanted), std::memory_order_release);
  }
  ran_[parity] = {which, runs};
  return runs;
}

Algorithm LearntChoice::next(const Known& known, std::span<const Algorithm> candidates) {
  const std::size_t count = candidates.size();
  if (known.calls < first_calls * count) return candidates[known.calls / first_calls];
  const auto cost = [&](Algorithm each) { return known.cost[number(each)]; };
  Algorithm best = candidates.front();
  for (const Algorithm each : candidates)
    // By 3 %, so that what is as good does not change all the time.
    if (cost(each) != 0 && (cost(best) == 0 || cost(each) * 33 < cost(best) * 32)) best = each;
  if (known.calls % trial_period >= trial_calls) return best;
  const std::uint32_t trial = known.calls / trial_period;
  const Algorithm other = candidates[trial % count];
  // One that takes far longer is tried less often.
  return cost(other) > 2 * cost(best) && trial / count % 4 != 0 ? best : other;
}

void LearntChoice::note(std::uint64_t cost) {
  notes_[static_cast<std::size_t>(member_)]->took[calls_ % 2].store(cost, std::memory_order_release);
}

void LearntChoice::learn(const Ran& ran, std::size_t parity) {
  if (ran.algorithm == Algorithm::automatic) return;
  std::uint64_t cost = 1;
  for (const LearningNotes* each : notes_)
    cost = std::max(cost, each->took[parity].load(std::memory_order_acquire));
  Known& of_work = known_[ran.work];
  std::uint64_t& known = of_work.cost[number(ran.algorithm)];
  std::uint32_t& heard = of_work.heard[number(ran.algorithm)];
  // The first ones find memory and caches cold: the quickest of them counts. Then towards the median: an
  // interruption takes hundreds of times as long, and counts like any that is slower.
  const std::uint64_t step = known / 8 + 1;
  if (heard < first_calls)
    known = heard == 0 ? cost : std::min(known, cost);
  else
    known = std::clamp(cost, known - std::min(step, known - 1), known + step);
  if (heard < first_calls) ++heard;
}

}  // namespace mixcomm
