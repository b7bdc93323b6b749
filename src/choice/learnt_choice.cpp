#include "choice/learnt_choice.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace mixcomm {
namespace {

std::size_t number(Algorithm algorithm) {
  return static_cast<std::size_t>(algorithm);
}

}  // namespace

LearntChoice::LearntChoice(std::vector<LearningNotes*> notes, int member)
    : notes_(std::move(notes)),
      member_(member),
      announcements_(notes_.front()->changes),
      runs_(ops * 4 * sizes, Algorithm::automatic),
      known_(member == 0 ? runs_.size() : 0) {}

std::size_t LearntChoice::index(const Work& work) {
  const std::size_t kind =
      static_cast<std::size_t>(work.op) * 4 + (work.epilogue ? 2 : 0) + (work.symmetric ? 1 : 0);
  return kind * sizes + static_cast<std::size_t>(std::bit_width(work.bytes));
}

Algorithm LearntChoice::begin(const Work& work, std::span<const Algorithm> candidates) {
  if (const auto change = announcements_.begin()) runs_[change->work] = static_cast<Algorithm>(change->way);

  const std::size_t which = index(work);
  // Candidates may be fewer than when it was decided: then the first one is run.
  const auto found = std::find(candidates.begin(), candidates.end(), runs_[which]);
  const Algorithm runs = found == candidates.end() ? candidates.front() : *found;
  if (member_ == 0) {
    learn(ran_[announcements_.parity()]);
    Known& known = known_[which];
    ++known.calls;
    if (const Algorithm wanted = next(known, candidates); wanted != runs)
      announcements_.announce({which, static_cast<std::uint8_t>(wanted)});
  }
  ran_[announcements_.parity()] = {which, runs};
  return runs;
}

Algorithm LearntChoice::next(const Known& known, std::span<const Algorithm> candidates) {
  const std::size_t count = candidates.size();
  if (known.calls < first_calls * count) return candidates[known.calls / first_calls];
  const auto cost = [&](Algorithm each) { return known.costs[number(each)].typical; };
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
  notes_[static_cast<std::size_t>(member_)]->took[announcements_.parity()].store(cost,
                                                                                 std::memory_order_release);
}

void LearntChoice::learn(const Ran& ran) {
  if (ran.algorithm == Algorithm::automatic) return;
  std::uint64_t cost = 1;
  for (const LearningNotes* each : notes_)
    cost = std::max(cost, each->took[announcements_.parity()].load(std::memory_order_acquire));
  known_[ran.work].costs[number(ran.algorithm)].hear(cost);
}

void LearntChoice::Costs::hear(std::uint64_t cost) {
  last[heard % last.size()] = cost;
  ++heard;
  if (heard <= first_calls) {
    typical = heard == 1 ? cost : std::min(typical, cost);
    return;
  }
  auto some = last;
  const auto end = some.begin() + std::min<std::ptrdiff_t>(heard, static_cast<std::ptrdiff_t>(some.size()));
  const auto middle = some.begin() + (end - some.begin()) / 2;
  std::nth_element(some.begin(), middle, end);
  typical = *middle;
}

}  // namespace mixcomm
