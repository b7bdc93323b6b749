// A transport between threads of one process, which play ranks on several hosts, whose cables can be cut.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "hosts/transport.hpp"
#include "rank_set.hpp"

namespace mixcomm::test {

/// What all ranks of a job share.
struct Cables {
  explicit Cables(int ranks) : world(ranks) {}

  using Key = std::tuple<int, int, int>;  ///< from, to, tag
  int world;
  std::mutex mutex;
  std::map<Key, std::deque<std::vector<std::byte>>> waiting;
  RankSet mute_from = 0;
  RankSet mute_to = 0;
  RankSet cut_off = 0;   ///< nothing goes between these ranks and others any more
  std::size_t sent = 0;  ///< bytes between the ranks in `counted` and others
  RankSet counted = 0;

  /// What these ranks send to those is lost on its way, and they do not know.
  void mute(RankSet from, RankSet to) {
    const std::lock_guard lock(mutex);
    mute_from = from;
    mute_to = to;
  }
  void cut(RankSet ranks) {
    const std::lock_guard lock(mutex);
    cut_off = ranks;
  }
};

class ThreadTransport final : public Transport {
 public:
  ThreadTransport(std::shared_ptr<Cables> cables, int rank) : cables_(std::move(cables)), rank_(rank) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return cables_->world; }

  Ticket send(int to, int tag, std::span<const std::byte> data) override {
    const std::lock_guard lock(cables_->mutex);
    if (holds(cables_->cut_off, rank_) != holds(cables_->cut_off, to)) return {lost};
    if (holds(cables_->mute_from, rank_) && holds(cables_->mute_to, to)) return {sent};
    if (holds(cables_->counted, rank_) != holds(cables_->counted, to)) cables_->sent += data.size();
    cables_->waiting[{rank_, to, tag}].emplace_back(data.begin(), data.end());
    return {sent};
  }
  Ticket receive(int from, int tag, std::span<std::byte> room) override {
    receives_.push_back({from, tag, room});
    return {first_receive + receives_.size() - 1};
  }
  std::optional<std::size_t> test(Ticket& ticket) override {
    if (ticket.word == sent) return 0;
    if (ticket.word == lost) return std::nullopt;
    const Receive& mine = receives_[ticket.word - first_receive];
    const std::lock_guard lock(cables_->mutex);
    auto& queue = cables_->waiting[{mine.from, rank_, mine.tag}];
    if (queue.empty()) return std::nullopt;
    const std::vector<std::byte> message = std::move(queue.front());
    queue.pop_front();
    std::memcpy(mine.room.data(), message.data(), std::min(message.size(), mine.room.size()));
    return message.size();
  }
  std::optional<int> probe(int tag) override {
    const std::lock_guard lock(cables_->mutex);
    for (const auto& [key, queue] : cables_->waiting)
      if (std::get<1>(key) == rank_ && std::get<2>(key) == tag && !queue.empty()) return std::get<0>(key);
    return std::nullopt;
  }
  int new_tag() override { return next_tag_++; }
  void abandon() override { abandoned_ = true; }
  [[nodiscard]] bool abandoned() const { return abandoned_; }

 private:
  struct Receive {
    int from;
    int tag;
    std::span<std::byte> room;
  };
  static constexpr std::uint64_t sent = 0;
  static constexpr std::uint64_t lost = 1;
  static constexpr std::uint64_t first_receive = 2;
  std::shared_ptr<Cables> cables_;
  int rank_;
  int next_tag_ = 1;
  bool abandoned_ = false;
  std::vector<Receive> receives_;
};

}  // namespace mixcomm::test
