// Ranks as threads of one process: a meeting point in memory.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "bootstrap/deadline.hpp"
#include "bootstrap/mailbox.hpp"
#include "bootstrap/memory.hpp"
#include "bootstrap/socket.hpp"
#include "mixcomm/bootstrap.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// What the threads share. One exchange is open at a time.
struct MeetingPoint {
  struct Slot {
    std::string step;
    std::string message;
    std::shared_ptr<std::byte> memory;
  };
  using Slots = std::vector<std::optional<Slot>>;

  MeetingPoint(int ranks, Milliseconds limit)
      : world(ranks), timeout(limit), open(std::make_shared<Slots>(static_cast<std::size_t>(ranks))) {}

  int world;
  Milliseconds timeout;
  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<Slots> open;
  int arrived = 0;
  std::function<void()> failure;  ///< throws it, a new object for each rank
  std::map<std::vector<int>, std::shared_ptr<MeetingPoint>> without;  ///< of those who go on, by who was lost

  /// Puts in this rank's slot and waits until all are there.
  std::shared_ptr<const Slots> meet(int rank, Slot slot) {
    std::unique_lock lock(mutex);
    if (failure) failure();
    const std::shared_ptr<Slots> mine = open;
    const std::string step = slot.step;
    (*mine)[static_cast<std::size_t>(rank)] = std::move(slot);
    if (++arrived == world) {
      open = std::make_shared<Slots>(static_cast<std::size_t>(world));
      arrived = 0;
      changed.notify_all();
    }
    const Deadline deadline(timeout);
    while (open == mine && !failure)
      if (changed.wait_until(lock, deadline.end()) == std::cv_status::timeout && open == mine && !failure)
        fail_timeout(*mine, rank, step);
    if (open == mine) failure();
    check_steps(*mine);
    return mine;
  }

  void leave(int rank, const std::exception_ptr& why) {
    std::string text = "an unknown exception";
    try {
      std::rethrow_exception(why);
    } catch (const std::exception& error) {
      text = error.what();
    } catch (...) {  // NOLINT(bugprone-empty-catch): the text says so
    }
    const std::lock_guard lock(mutex);
    if (failure) return;
    failure = [text = fmt::format("rank {} left set-up with: {}", rank, text), rank] {
      throw PeerGone(text, {rank});
    };
    changed.notify_all();
  }

  void check_steps(const Slots& slots) {
    for (std::size_t r = 1; r < slots.size(); ++r) {
      if (slots[r]->step == slots[0]->step) continue;
      const std::string text =
          fmt::format("rank {} is {}, but rank 0 is {}; all ranks must set up in the same order", r,
                      slots[r]->step, slots[0]->step);
      failure = [text] { throw Disagreement(text); };
      failure();
    }
  }

  void fail_timeout(const Slots& slots, int rank, const std::string& step) {
    std::vector<int> missing;
    for (std::size_t r = 0; r < slots.size(); ++r)
      if (!slots[r]) missing.push_back(static_cast<int>(r));
    fail(fmt::format("rank {} waited {} ms for rank{} {} while {}", rank, timeout.count(),
                     missing.size() == 1 ? "" : "s", fmt::join(missing, ", "), step),
         missing);
  }

  void fail(const std::string& text, const std::vector<int>& missing) {
    failure = [text, missing] { throw Timeout(text, missing); };
    changed.notify_all();
  }
};

class ThreadBootstrap final : public Bootstrap {
 public:
  ThreadBootstrap(std::shared_ptr<MeetingPoint> point, int rank) : point_(std::move(point)), rank_(rank) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return point_->world; }

  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override {
    check_exchange(step, mine);
    const auto slots = point_->meet(rank_, {std::string(step), std::string(mine), nullptr});
    std::vector<std::string> messages;
    for (const auto& slot : *slots) messages.push_back(slot->message);
    return messages;
  }

  std::span<const Fd> processes() override { return {}; }

  /// This rank takes no further part, because of that failure: who waits for it in set-up need not go on.
  void leave(const std::exception_ptr& why) { point_->leave(rank_, why); }

  std::shared_ptr<std::byte> share_memory(std::size_t bytes) override {
    std::shared_ptr<std::byte> memory;
    std::string problem;
    if (rank_ == 0) try {
        memory = map_shared(bytes, -1);
      } catch (const SystemError& error) {
        problem = error.what();
      }
    check_same_size(exchange("comparing sizes of shared memory", std::to_string(bytes)));
    const auto slots = point_->meet(rank_, {"sharing memory", problem, memory});
    if (!(*slots)[0]->memory) throw SystemError((*slots)[0]->message);
    return (*slots)[0]->memory;
  }

  std::vector<Fd> exchange_descriptors(std::string_view step, int mine) override {
    std::vector<Fd> copies;
    std::string problem;
    for (const std::string& fd : exchange(step, std::to_string(mine))) try {
        copies.push_back(duplicate(std::stoi(fd)));
      } catch (const SystemError& error) {
        problem = error.what();
      }
    // Nobody goes on, and closes what it has given, before all have their copies.
    const auto problems = exchange(fmt::format("{}: taking descriptors", step), problem);
    for (std::size_t r = 0; r < problems.size(); ++r)
      if (!problems[r].empty()) throw SystemError(fmt::format("rank {}, {}: {}", r, step, problems[r]));
    return copies;
  }

  Survivors survivors(std::span<const int> lost) override {
    std::vector<int> absent(lost.begin(), lost.end());
    std::ranges::sort(absent);
    absent.erase(std::unique(absent.begin(), absent.end()), absent.end());
    Survivors result;
    for (int r = 0; r < world(); ++r)
      if (!std::ranges::binary_search(absent, r)) result.ranks.push_back(r);
    const auto me = std::ranges::find(result.ranks, rank_);
    if (me == result.ranks.end() || result.ranks.size() + absent.size() != static_cast<std::size_t>(world()))
      throw InvalidArgument(fmt::format(
          "rank {} of {} cannot go on without ranks {}: name other ranks, as Timeout::missing() does", rank_,
          world(), fmt::join(absent, ", ")));
    std::shared_ptr<MeetingPoint> point;
    {
      const std::lock_guard lock(point_->mutex);
      auto& shared = point_->without[absent];
      if (!shared)
        shared = std::make_shared<MeetingPoint>(static_cast<int>(result.ranks.size()), point_->timeout);
      point = shared;
    }
    result.bootstrap = std::make_unique<ThreadBootstrap>(point, static_cast<int>(me - result.ranks.begin()));
    try {
      result.bootstrap->exchange("meeting again", "");
    } catch (const Timeout& error) {
      std::vector<int> missing;
      for (const int r : error.missing()) missing.push_back(result.ranks[static_cast<std::size_t>(r)]);
      throw Timeout(
          fmt::format("rank{} {} did not come within {} ms to go on with the others",
                      missing.size() == 1 ? "" : "s", fmt::join(missing, ", "), point_->timeout.count()),
          missing);
    }
    return result;
  }

 private:
  std::shared_ptr<MeetingPoint> point_;
  int rank_;
};

}  // namespace

Survivors Bootstrap::survivors(std::span<const int> /*lost*/) {
  throw Unsupported("this bootstrap cannot bring together the ranks that are left when others were lost");
}

std::vector<std::unique_ptr<Bootstrap>> bootstrap_threads(int world, Milliseconds timeout) {
  if (world < 1)
    throw InvalidArgument(fmt::format("{} ranks were asked for; there must be at least 1", world));
  check_timeout(timeout);
  const auto point = std::make_shared<MeetingPoint>(world, timeout);
  std::vector<std::unique_ptr<Bootstrap>> ranks;
  for (int r = 0; r < world; ++r) ranks.push_back(std::make_unique<ThreadBootstrap>(point, r));
  return ranks;
}

void run_threads(int world, const std::function<void(Bootstrap&)>& fn, Milliseconds timeout) {
  const auto ranks = bootstrap_threads(world, timeout);
  std::mutex mutex;
  std::vector<std::exception_ptr> failures;  // in the order of time
  std::vector<std::thread> threads;
  for (const auto& rank : ranks)
    threads.emplace_back([&fn, &mutex, &failures, &rank] {
      try {
        fn(*rank);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failures.push_back(std::current_exception());
        static_cast<ThreadBootstrap&>(*rank).leave(failures.back());
      }
    });
  for (auto& thread : threads) thread.join();
  // A Timeout is what the others say of a rank that failed for a reason of its own.
  for (const auto& failure : failures) try {
      std::rethrow_exception(failure);
    } catch (const Timeout&) {
    }
  if (!failures.empty()) std::rethrow_exception(failures.front());
}

}  // namespace mixcomm
